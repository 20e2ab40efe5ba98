"""Multi-crop for pre-training: two global and several local random views of each image."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from smallvit_jax.augment import color, geometry

GLOBAL_VIEWS = 2
BLUR_RADIUS = (0.1, 2.0)  # pixels, uniform
ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
# Uniform numbers per view: crop box, jitter strengths, jitter order, which operations to apply,
# blur radius.
VIEW_PARTS = (geometry.CROP_NUMBERS, 4, 1, 5, 1)
VIEW_NUMBERS = sum(VIEW_PARTS)


@dataclasses.dataclass(frozen=True)
class ViewSettings:
    """Settings of the views; the defaults are the reference's for CIFAR-10 (train_ssl.py).

    Global views have `image_size` pixels per side, local views half as many. The scales are ranges
    of the crop's fraction of the image area. `flip`, `jitter`, `grayscale`, `blur` and `solarize`
    are probabilities: `blur` for the first global, the second global and the local views,
    `solarize` for the second global view only. `jitter_strength` is for brightness, contrast and
    saturation (factors 1 - s .. 1 + s) and hue (-s .. s of a full circle).
    """

    image_size: int = 32
    local_crops: int = 8
    global_scale: tuple[float, float] = (0.7, 1.0)
    local_scale: tuple[float, float] = (0.2, 0.5)
    flip: float = 0.5
    jitter: float = 0.8
    jitter_strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    grayscale: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    solarize: float = 0.2
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)


class ViewParameters(NamedTuple):
    """The random choices for one view."""

    box: Int[Array, "4"]
    flip: Bool[Array, ""]
    jitter: Bool[Array, ""]
    order: Int[Array, "4"]
    factors: Float[Array, "3"]
    hue: Float[Array, ""]
    grayscale: Bool[Array, ""]
    blur_radius: Float[Array, ""]
    solarize: Bool[Array, ""]


def multi_crop(
    images: UInt8[Array, "batch height width 3"], key: jax.Array, settings: ViewSettings
) -> tuple[Float[Array, "batch views size size 3"], ...]:
    """Returns the normalized views of each image: the 2 global ones, then any local ones.

    Two float32 arrays, or only the first without local crops. The images may have any size. The
    views of image i depend only on `key` and i, and a batch sharded over devices stays in place.
    Order of operations: crop, flip, color jitter, grayscale, blur, solarize, normalize.
    """
    batch, height, width, _ = images.shape
    draw = jax.vmap(lambda k: draw_views(k, height, width, settings))
    parameters = draw(jax.random.split(key, batch))
    planes = geometry.to_planes(images)

    def render(views: slice, size: int) -> Float[Array, "batch views size size 3"]:
        def one(image, view):
            return render_view(image, view, size, settings.mean, settings.std)

        of_image = jax.vmap(one, in_axes=(None, 0))
        return jax.vmap(of_image)(planes, jax.tree.map(lambda x: x[:, views], parameters))

    groups = [render(slice(GLOBAL_VIEWS), settings.image_size)]
    if settings.local_crops:
        groups.append(render(slice(GLOBAL_VIEWS, None), settings.image_size // 2))
    return tuple(groups)


def single_view(
    images: UInt8[Array, "batch height width 3"], key: jax.Array, settings: ViewSettings
) -> Float[Array, "batch size size 3"]:
    """Returns one normalized view of each image: the first global one of `multi_crop`."""
    _, height, width, _ = images.shape
    draw = jax.vmap(lambda k: draw_views(k, height, width, settings))
    first = jax.tree.map(lambda x: x[:, 0], draw(jax.random.split(key, len(images))))
    render = functools.partial(
        render_view, size=settings.image_size, mean=settings.mean, std=settings.std
    )
    return jax.vmap(render)(geometry.to_planes(images), first)


def draw_views(key: jax.Array, height: int, width: int, settings: ViewSettings) -> ViewParameters:
    """Draws the parameters of all views of one image, stacked along the first axis."""
    count = settings.local_crops
    uniform = jax.random.uniform(key, (GLOBAL_VIEWS + count, VIEW_NUMBERS))
    scale = jnp.array([settings.global_scale] * GLOBAL_VIEWS + [settings.local_scale] * count)
    blur = jnp.array([*settings.blur[:GLOBAL_VIEWS], *[settings.blur[GLOBAL_VIEWS]] * count])
    solarize = jnp.array([0.0, settings.solarize, *[0.0] * count])
    of_view = functools.partial(view_parameters, height=height, width=width, settings=settings)
    return jax.vmap(of_view)(uniform, scale, blur, solarize)


def view_parameters(
    uniform: Float[Array, " numbers"],
    scale: Float[Array, "2"],
    blur: Float[Array, ""],
    solarize: Float[Array, ""],
    height: int,
    width: int,
    settings: ViewSettings,
) -> ViewParameters:
    """Turns `VIEW_NUMBERS` uniform numbers into the parameters of one view."""
    crop, change, order, chance, radius = jnp.split(uniform, np.cumsum(VIEW_PARTS)[:-1])
    *strengths, hue = settings.jitter_strength
    low = jnp.array([*(max(0.0, 1.0 - strength) for strength in strengths), -hue])
    high = jnp.array([*(1.0 + strength for strength in strengths), hue])
    change = low + (high - low) * change
    flip, jitter, grayscale = settings.flip, settings.jitter, settings.grayscale
    happens = chance < jnp.array([flip, jitter, grayscale, blur, solarize])
    radius = BLUR_RADIUS[0] + (BLUR_RADIUS[1] - BLUR_RADIUS[0]) * radius[0]
    return ViewParameters(
        box=geometry.crop_box(crop, height, width, scale),
        flip=happens[0],
        jitter=happens[1],
        order=jnp.asarray(ORDERS)[jnp.floor(order[0] * len(ORDERS)).astype(jnp.int32)],
        factors=change[:3],
        hue=change[3],
        grayscale=happens[2],
        blur_radius=jnp.where(happens[3], radius, 0.0),
        solarize=happens[4],
    )


def render_view(
    planes: Float[Array, "height 3 width"],
    parameters: ViewParameters,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Array, "size size 3"]:
    """Renders one normalized view of one image."""
    p = parameters
    view = geometry.crop_and_resize(planes, p.box, size, p.flip)
    view = color.color_jitter(view, p.order, p.factors, p.hue, p.jitter)
    view = jnp.where(p.grayscale, color.luma(view), view)
    view = color.gaussian_blur(view, p.blur_radius)
    view = jnp.where(p.solarize, color.solarize(view), view)
    return color.normalize(view, mean, std)
