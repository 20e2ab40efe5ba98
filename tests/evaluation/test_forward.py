"""Forward passes over a whole split."""

import numpy as np
import pytest

from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.evaluation.forward import Forward, available_outputs, bind_model
from smallvit_jax.models import create_model, resolve_options
from smallvit_jax.process.sharding import make_mesh

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 3, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 20, 23])
@pytest.mark.parametrize("batch_size", [1, 7, 23, 500])
def test_every_image_is_returned_once_and_in_order(count, batch_size):
    shapes = set()

    def network(arrays, buffers, images, *wanted, method):
        shapes.add(images.shape)
        flat = images.reshape(len(images), -1) + arrays["offset"]
        return {"sums": flat[:, :2] + flat.sum(axis=1, keepdims=True)}, buffers

    forward = Forward(
        network,
        ["sums"],
        image_size=3,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        batch_size=batch_size,
        mesh=make_mesh(),
    )
    result = forward({"offset": np.float32(2)}, IMAGES[:count])["sums"]
    flat = IMAGES[:count].reshape(count, -1) / 255 + 2
    np.testing.assert_allclose(result, flat[:, :2] + flat.sum(axis=1, keepdims=True), rtol=1e-5)
    assert shapes == {(min(batch_size, count), 3, 3, 3)}  # one program for all batches


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SMALL = {
    "vit": {"width": 8, "depth": 2, "heads": 2},
    "swin": {"width": 4, "heads": 1, "depths": (2, 1)},
}
COLORED = np.random.default_rng(0).integers(0, 256, (7, 20, 20, 3), np.uint8)


def trained(name, classes):
    options = resolve_options(
        name, image_size=16, num_classes=classes, init="fan_in", **SMALL[name]
    )
    return create_model(**options), {"model": options, "mean": MEAN, "std": STD}


@pytest.mark.parametrize("name", SMALL)
def test_logits_and_features_match_the_model(name):
    """With images of another size, and a batch size that does not divide their number."""
    model, meta = trained(name, classes=3)
    found = bind_model(model, meta, *available_outputs(meta), batch_size=3)(COLORED)
    ready = evaluation_batch(COLORED, 16, MEAN, STD)
    np.testing.assert_allclose(found["logits"], model(ready), atol=1e-5)
    np.testing.assert_allclose(found["features"], model.features(ready), atol=1e-5)
    assert found["logits"].shape == (7, 3) and np.ptp(found["logits"]) > 1e-3


def test_backbone_gives_only_features():
    model, meta = trained("vit", classes=0)
    outputs_of = bind_model(model, meta, *available_outputs(meta), batch_size=4)
    found = outputs_of(COLORED)
    assert set(found) == {"features"} and found["features"].shape == (7, 8)
    few = outputs_of(COLORED[:2])["features"]
    np.testing.assert_allclose(few, found["features"][:2], atol=1e-6)
