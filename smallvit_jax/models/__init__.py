"""The model registry: creates models by family name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from flax import nnx

from smallvit_jax.config.choices import MODELS, STRUCTURED_INITS, TRANSFORMERS
from smallvit_jax.errors import UserError, check_choice, did_you_mean
from smallvit_jax.models.cait import CaiT
from smallvit_jax.models.convnet import ConvNet
from smallvit_jax.models.efficientnet import EfficientNetB0
from smallvit_jax.models.image_model import ImageModel
from smallvit_jax.models.layers import LARGEST_SMALL_IMAGE
from smallvit_jax.models.resnet import ResNet18, ResNet56, ResNet110
from smallvit_jax.models.stems import STEM_DEFAULTS, make_stem, resolve_stem
from smallvit_jax.models.structured_init import check_structured, set_structured
from smallvit_jax.models.swin import Swin
from smallvit_jax.models.vit import ViT

Transformer = ViT | Swin | CaiT

FAMILIES: dict[str, type[Transformer | ConvNet]] = {
    "vit": ViT,
    "swin": Swin,
    "cait": CaiT,
    "resnet18": ResNet18,
    "resnet56": ResNet56,
    "resnet110": ResNet110,
    "efficientnet_b0": EfficientNetB0,
}


def create_model(
    name: str,
    *,
    image_size: int = 32,
    num_classes: int = 0,
    seed: int = 0,
    **options,
) -> ImageModel:
    """Builds a freshly initialized model.

    Defaults follow the reference or, for convolutional networks, the original paper.

    Args:
      name: model family: "vit", "swin", "cait", "resnet18", "resnet56", "resnet110" or
        "efficientnet_b0".
      image_size: input size, in pixels per side.
      num_classes: number of classifier outputs; 0 omits the classifier, so the model returns
        features.
      seed: seed for initialization.
      **options: other arguments of the family (`width`, `dtype`, `remat`, ...). A transformer's
        `patch_size` defaults to an eighth of the image size (swin: a sixteenth) up to 96 pixels
        and to 16 (swin: 4) above.

    Raises:
      UserError: if the family or an option is unknown, or sizes do not divide evenly.
    """
    sizes: dict[str, Any] = {"image_size": image_size, "num_classes": num_classes}
    resolved = resolve_options(name, **sizes, **options)
    model = _build(resolved, seed)
    if resolved.get("init") in STRUCTURED_INITS:
        assert isinstance(model, ViT)  # `resolve_options` accepts these only for a ViT
        set_structured(model, resolved["init"], seed)
    return model


def resolve_options(name: str, **options) -> dict[str, Any]:
    """Returns all options of a model, with the family's defaults, ready for `create_model`.

    Checkpoints store them, so that a change of defaults does not change the model. Only `dtype`
    and `remat` are left out unless given, since they do not define the model. Raises `UserError`
    like `create_model`.
    """
    check_choice("model.name", name, MODELS)
    family = FAMILIES[name]
    defaults = {
        n: None if parameter.default is parameter.empty else parameter.default
        for n, parameter in inspect.signature(family.__init__).parameters.items()
        if n not in ("self", "make_stem", "rngs")
    }
    if name in TRANSFORMERS:
        defaults |= STEM_DEFAULTS
    for option in options:
        if option not in defaults:
            raise UserError(
                f'{name} has no option "{option}"{did_you_mean(option, defaults)}; choose from '
                f"{', '.join(defaults)}"
            )
    if "dtype" not in options:
        del defaults["dtype"]
    if "remat" not in options:
        del defaults["remat"]
    resolved = {"name": name, **defaults, **options}
    if issubclass(family, ConvNet):
        return family.complete_options(resolved)
    resolved = _complete_transformer(family, resolved)
    check_structured(resolved)
    return resolved


def _complete_transformer(family: type[Transformer], options: dict[str, Any]) -> dict[str, Any]:
    """Fills in options that depend on others; raises `UserError` if they do not fit."""
    image_size = options["image_size"]
    patch_size = options["patch_size"] or _default_patch_size(family, image_size)
    if not patch_size or image_size % patch_size:
        raise UserError(
            f"model.patch_size {patch_size} does not divide model.image_size {image_size}; "
            "choose a divisor"
        )
    width, heads = options["width"], options["heads"]
    if width % heads:
        raise UserError(
            f"model.heads {heads} does not divide model.width {width}; choose a divisor"
        )
    stem = options["stem"]
    options = options | {"patch_size": patch_size} | resolve_stem(stem, patch_size, width, options)
    if issubclass(family, ViT) and options["depth"] is None:
        options["depth"] = family.DEPTH_WITH_CONV_STEM if stem == "conv" else family.DEPTH
    return options


def _default_patch_size(family: type[Transformer], image_size: int) -> int:
    """The reference's patch size for small images, the family's usual one for photographs."""
    small = image_size <= LARGEST_SMALL_IMAGE
    return image_size // family.PATCHES_PER_SIDE if small else family.PHOTOGRAPH_PATCH


def abstract_model(name: str, **options) -> ImageModel:
    """Like `create_model`, but with shapes instead of arrays: a target to load weights into."""
    return nnx.eval_shape(functools.partial(_build, resolve_options(name, **options), seed=0))


def _build(resolved: dict[str, Any], seed: int) -> ImageModel:
    options = {k: v for k, v in resolved.items() if k != "name"}
    if resolved["name"] in TRANSFORMERS:
        stem = {name: options.pop(name) for name in STEM_DEFAULTS}
        options["make_stem"] = functools.partial(make_stem, **stem)
    build: Callable[..., ImageModel] = FAMILIES[resolved["name"]]
    return build(**options, rngs=nnx.Rngs(seed))
