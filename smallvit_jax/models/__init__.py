"""Model families by name."""

import functools
import inspect
from typing import Any

from flax import nnx

from smallvit_jax.config.choices import CONVNETS, MODELS, STRUCTURED_INITS, TRANSFORMERS
from smallvit_jax.errors import UserError, check_choice, did_you_mean
from smallvit_jax.models.cait import CaiT
from smallvit_jax.models.efficientnet import EfficientNetB0
from smallvit_jax.models.layers import LARGEST_SMALL_IMAGE
from smallvit_jax.models.resnet import ResNet18, ResNet56, ResNet110
from smallvit_jax.models.stems import STEM_DEFAULTS, make_stem, resolve_stem
from smallvit_jax.models.structured_init import check_structured, set_structured
from smallvit_jax.models.swin import Swin
from smallvit_jax.models.vit import ViT

FAMILIES: dict[str, type[nnx.Module]] = {
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
) -> nnx.Module:
    """Builds a freshly initialised model; the defaults are the reference's, or the paper's of a
    convolutional network.

    Args:
      name: the family: "vit", "swin", "cait", or "resnet18", "resnet56", "resnet110",
        "efficientnet_b0".
      image_size: pixels per side of the images it is built for.
      num_classes: outputs of the classifier; 0 leaves it out, so that the model gives features.
      seed: of the initialisation.
      **options: further arguments of the family (`width`, `dtype`, `remat`, ...). The `patch_size`
        of a transformer is by default an eighth of the image size (swin: a sixteenth), or 16
        (swin: 4) above 96 pixels.

    Raises:
      UserError: unknown family or option, or sizes that do not divide.
    """
    sizes = {"image_size": image_size, "num_classes": num_classes}
    resolved = resolve_options(name, **sizes, **options)
    model = _build(resolved, seed)
    if resolved.get("init") in STRUCTURED_INITS:
        set_structured(model, resolved["init"], seed)
    return model


def resolve_options(name: str, **options) -> dict[str, Any]:
    """All of a model's options, the family's defaults included, ready for `create_model`.

    Checkpoints store these, so that they stay the same model when a default changes. Only
    `dtype` and `remat` are left out unless given: how a model computes, not what it is. Raises
    `UserError` as `create_model` does.
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
                f'the {name} has no option "{option}"{did_you_mean(option, defaults)}; it takes '
                f"{', '.join(defaults)}"
            )
    if "dtype" not in options:
        del defaults["dtype"]
    if "remat" not in options:
        del defaults["remat"]
    resolved = {"name": name, **defaults, **options}
    if name in CONVNETS:
        return family.complete_options(resolved)
    resolved = _complete_transformer(family, resolved)
    check_structured(resolved)
    return resolved


def _complete_transformer(family: type[nnx.Module], options: dict[str, Any]) -> dict[str, Any]:
    """Fills what depends on other options; raises `UserError` for those that do not fit."""
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
    if "depth" in options and options["depth"] is None:
        options["depth"] = family.DEPTH_WITH_CONV_STEM if stem == "conv" else family.DEPTH
    return options


def _default_patch_size(family: type[nnx.Module], image_size: int) -> int:
    """The reference's at 32 and 64 pixels; for photographs the usual one of the family."""
    small = image_size <= LARGEST_SMALL_IMAGE
    return image_size // family.PATCHES_PER_SIDE if small else family.PHOTOGRAPH_PATCH


def abstract_model(name: str, **options) -> nnx.Module:
    """As `create_model`, but with shapes in place of arrays: the target to load weights into."""
    return nnx.eval_shape(functools.partial(_build, resolve_options(name, **options), seed=0))


def _build(resolved: dict[str, Any], seed: int) -> nnx.Module:
    options = {k: v for k, v in resolved.items() if k != "name"}
    if resolved["name"] in TRANSFORMERS:
        stem = {name: options.pop(name) for name in STEM_DEFAULTS}
        options["make_stem"] = functools.partial(make_stem, **stem)
    return FAMILIES[resolved["name"]](**options, rngs=nnx.Rngs(seed))
