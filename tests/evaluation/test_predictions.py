import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.augment.finetune import evaluation_batch
from smallvit_jax.evaluation.predictions import make_predictor, predict_split
from smallvit_jax.models import resolve_options

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SMALL = {"vit": {"width": 8, "depth": 2, "heads": 2}, "swin": {"width": 4, "heads": 1}}
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 20, 20, 3), np.uint8)


def trained(name, classes):
    options = resolve_options(
        name, image_size=16, num_classes=classes, init="fan_in", **SMALL[name]
    )
    return smallvit_jax.create_model(**options), {"model": options, "mean": MEAN, "std": STD}


@pytest.mark.parametrize("name", SMALL)
def test_logits_and_features_are_the_models(name):
    """Of images of another size, in batches that do not divide them."""
    model, meta = trained(name, classes=3)
    logits, features = predict_split(model, meta, IMAGES, batch_size=3)
    ready = evaluation_batch(IMAGES, 16, MEAN, STD)
    np.testing.assert_allclose(logits, model(ready), atol=1e-5)
    np.testing.assert_allclose(features, model.features(ready), atol=1e-5)
    assert logits.shape == (7, 3) and np.ptp(logits) > 1e-3


def test_a_backbone_gives_features_alone():
    model, meta = trained("vit", classes=0)
    predict = make_predictor(model, meta, batch_size=4)
    logits, features = predict(IMAGES)
    assert logits is None and features.shape == (7, 8)
    np.testing.assert_allclose(predict(IMAGES[:2])[1], features[:2], atol=1e-6)
