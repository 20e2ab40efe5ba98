"""A checkpoint of a tiny untrained classifier, and images for it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from smallvit_jax.checkpoints.store import CheckpointStore
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.models.parameters import get_arrays

SIZE = 8
CLASSES = ("Äpfel", "pears, green", "東京")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
TINY = {
    "vit_conv": {
        "name": "vit",
        "image_size": 16,
        "patch_size": 4,
        "width": 20,
        "depth": 1,
        "heads": 2,
        "stem": "conv",
    },
    "vit": {"patch_size": 4, "width": 8, "depth": 2, "heads": 2},
    "swin": {"image_size": 16, "patch_size": 2, "width": 4, "depths": (1, 2), "heads": 1},
    "cait": {"patch_size": 4, "width": 8, "depth": 1, "class_depth": 1, "heads": 2},
}


def save_checkpoint(folder: Path, family: str = "vit", classes: tuple[str, ...] = CLASSES):
    """Saves a model as step 7 of a stage folder and returns it; without classes, a backbone."""
    options = {"name": family, "image_size": SIZE, "num_classes": len(classes), **TINY[family]}
    options = resolve_options(**options)
    model = create_model(**options, seed=3)
    meta = {
        "model": options,
        "dataset": "folder",
        "class_names": list(classes),
        "mean": list(MEAN),
        "std": list(STD),
    }
    with CheckpointStore(folder / "checkpoints", keep_best=False) as store:
        store.save(7, {"step": np.int32(7)}, get_arrays(model), meta)
    return model


def draw_images(count: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), np.uint8)


def write_images(images: np.ndarray, paths: list[Path]) -> None:
    for image, path in zip(images, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def expected(model, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and features computed by the model itself."""
    normalized = jnp.asarray((images / 255 - np.array(MEAN)) / np.array(STD), jnp.float32)
    return np.asarray(jax.nn.softmax(model(normalized))), np.asarray(model.features(normalized))
