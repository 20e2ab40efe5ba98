"""Model families by name."""

import functools
import inspect

from flax import nnx

from smallvit_jax.errors import UserError, did_you_mean
from smallvit_jax.models.vit import ViT

FAMILIES = {"vit": ViT}


def create_model(
    name: str,
    *,
    image_size: int = 32,
    patch_size: int | None = None,
    num_classes: int = 0,
    seed: int = 0,
    **options,
) -> nnx.Module:
    """Builds a freshly initialised model; the defaults are the reference's.

    Args:
      name: the family: "vit".
      image_size: pixels per side of the images it is built for.
      patch_size: pixels per side of a patch; None: an eighth of the image size.
      num_classes: outputs of the classifier; 0 leaves it out, so that the model gives features.
      seed: of the initialisation.
      **options: further arguments of the family (`width`, `depth`, `drop_path`, `dtype`, ...).

    Raises:
      UserError: unknown family or option, or sizes that do not divide.
    """
    if name not in FAMILIES:
        raise UserError(
            f'model.name is "{name}"{did_you_mean(name, FAMILIES)}; choose one of '
            f"{', '.join(FAMILIES)}."
        )
    patch_size = patch_size or image_size // 8
    if not patch_size or image_size % patch_size:
        raise UserError(
            f"model.patch_size {patch_size} does not divide model.image_size {image_size}; "
            "choose a divisor."
        )
    family = FAMILIES[name]
    known = [n for n in inspect.signature(family.__init__).parameters if n not in ("self", "rngs")]
    for option in options:
        if option not in known:
            raise UserError(
                f'The {name} has no option "{option}"{did_you_mean(option, known)}; it takes '
                f"{', '.join(known)}."
            )
    if options.get("width", 1) % options.get("heads", 1):
        raise UserError(
            f"model.heads {options['heads']} does not divide model.width {options['width']}; "
            "choose a divisor."
        )
    return family(
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        rngs=nnx.Rngs(seed),
        **options,
    )


def abstract_model(name: str, **options) -> nnx.Module:
    """As `create_model`, but with shapes in place of arrays: the target to load weights into."""
    return nnx.eval_shape(functools.partial(create_model, name, **options))
