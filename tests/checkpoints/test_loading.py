"""Loading checkpoints as a user does: a path in, a ready model out."""

import numpy as np
import pytest

import smallvit_jax
from smallvit_jax.data import load_split
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import set_arrays
from tests.support.tiny_jobs import read_checkpoint, read_json, read_metrics


@pytest.fixture(scope="module")
def digits():
    """The test split, normalized by hand, with its labels."""
    images, labels, info = load_split("digits", "test")
    return ((images / 255 - np.array(info.mean)) / np.array(info.std)).astype(np.float32), labels


def top1_and_loss(logits, labels):
    """Top-1 in percent and cross-entropy, in float64."""
    logits = np.asarray(logits, np.float64)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    loss = (log_sum - logits[np.arange(len(labels)), labels]).mean()
    return (logits.argmax(axis=1) == labels).mean() * 100, loss


def test_pretraining_checkpoint_is_the_teachers_backbone(tiny_recipe, digits):
    folder = tiny_recipe.folder / "pretrain"
    model = smallvit_jax.load_checkpoint(folder)
    features = np.asarray(model(digits[0][:50]))
    assert features.shape == (50, 16)
    state, meta = read_checkpoint(folder)

    def backbone_features(network):
        prefix = f"{network}.backbone."
        backbone = create_model(**meta["model"], seed=5)
        set_arrays(backbone, {k.removeprefix(prefix): v for k, v in state.items() if prefix in k})
        return np.asarray(backbone.features(digits[0][:50]))

    np.testing.assert_array_equal(features, backbone_features("teacher"))
    assert np.abs(features - backbone_features("student")).max() > 1e-4


@pytest.mark.parametrize("stage", ["finetune", "scratch"])
def test_finetuning_checkpoint_gives_the_reported_accuracy(tiny_recipe, digits, stage):
    folder = tiny_recipe.folder / stage
    images, labels = digits
    result = read_json(folder / "result.json")
    for path in (folder, folder / "checkpoints", folder / "checkpoints" / "27"):
        top1, loss = top1_and_loss(smallvit_jax.load_checkpoint(path)(images), labels)
        assert top1 == pytest.approx(result["test_top1"])
        assert loss == pytest.approx(result["test_loss"], rel=1e-5)


def test_best_checkpoint_is_best_on_validation(tiny_recipe, digits):
    folder = tiny_recipe.folder / "finetune"
    result = read_json(folder / "result.json")
    top1, loss = top1_and_loss(smallvit_jax.load_checkpoint(folder, "best")(digits[0]), digits[1])
    assert top1 == pytest.approx(result["test_top1_at_best_validation"])
    rows = {row["epoch"]: row for row in read_metrics(folder, "test")}
    assert loss == pytest.approx(rows[result["best_on_validation_epoch"]]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("path", "which", "words"),
    [
        ("finetun", "latest", 'did you mean "finetune"'),
        ("", "latest", "holds several stages"),
        ("pretrain", "best", "held-out accuracy"),
        ("finetune/result.json", "latest", "is a file"),
        ("finetune", "first", '"latest" or "best"'),
    ],
)
def test_path_without_checkpoint_gets_one_sentence(tiny_recipe, path, which, words):
    with pytest.raises(smallvit_jax.UserError, match=words) as caught:
        smallvit_jax.load_checkpoint(tiny_recipe.folder / path, which)
    assert "\n" not in str(caught.value)
