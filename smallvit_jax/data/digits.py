"""The handwritten digits bundled with scikit-learn: a dataset that needs no download."""

import numpy as np
from jaxtyping import Int32, UInt8

from smallvit_jax.data.subsets import stratified_order

_TEST_IMAGES = 360  # of 1,797
_SPLIT_SEED = 0


def read_digits(
    split: str, image_size: int
) -> tuple[UInt8[np.ndarray, "images size size 3"], Int32[np.ndarray, " images"], tuple[str, ...]]:
    """Reads "train" (1,437 images) or "test" (360), enlarged to `image_size` with Pillow's bicubic
    filter.

    The originals are 8×8 with values 0 to 16 (Alpaydin and Kaynak, UCI "Optical Recognition of
    Handwritten Digits"). They come without a split; ours is stratified by class and always the
    same.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    order = stratified_order(data.target, _SPLIT_SEED)
    chosen = order[:_TEST_IMAGES] if split == "test" else order[_TEST_IMAGES:]
    chosen = np.sort(chosen)
    levels = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
    size = (image_size, image_size)
    gray = np.stack(
        [
            np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BICUBIC))
            for level in levels
        ]
    )
    images = np.ascontiguousarray(np.broadcast_to(gray[..., None], (*gray.shape, 3)))
    return images, data.target[chosen].astype(np.int32), tuple(str(digit) for digit in range(10))
