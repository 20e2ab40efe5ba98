"""A stand-in for CIFAR-10 of any size: the same format and shapes, with random pixels."""

from pathlib import Path

from tests.data.tiny_tfds import encode, tiny_images, write_tfds

_DIFFERENT = 100  # distinct images; larger sets repeat them, which does not affect a step's speed


def write_cifar10(folder: Path, images: int) -> Path:
    """Writes a TFDS directory with `images` training images and ten test images."""
    pixels, labels = tiny_images(_DIFFERENT)
    different = [(encode(p), int(label)) for p, label in zip(pixels, labels, strict=True)]
    train = [different[i % _DIFFERENT] for i in range(images)]
    return write_tfds(folder, {"train": train, "test": different[:10]})
