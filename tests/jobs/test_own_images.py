"""Jobs on a folder of your own images, from the command line to predictions."""

import numpy as np
import pytest
from PIL import Image

import smallvit_jax
from smallvit_jax.data.folder import measure_colors
from smallvit_jax.main import main
from tests.support.tiny_jobs import ROOT, TINY, read_json

CLASSES = ("blue things", "réd")
FIELDS = {name: value for name, value in TINY.items() if not name.startswith("dataset.")} | {
    "model.image_size": 16,
    "finetune.batch_size": 8,
    "finetune.epochs": 1,
    "pretrain.batch_size": 8,
    "pretrain.epochs": 1,
    "pretrain.knn_every": 0,
}


def command(job, root, workdir, **changes) -> list[str]:
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    return [
        f"--config={ROOT}/configs/{job}.py:vit,folder:{root}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def draw(folder, count, channel) -> np.ndarray:
    """Writes PNG files of 16 pixels with noise that is bright in one channel."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng([count, channel]).integers(0, 60, (count, 16, 16, 3), np.uint8)
    images[..., channel] += 150
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return images


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for channel, name in ((2, CLASSES[0]), (0, CLASSES[1])):
        draw(root / name, 30, channel)
    return root


def test_model_trained_on_a_folder_predicts_its_classes(photos, tmp_path, capsys):
    (photos / CLASSES[0] / "broken.jpg").write_text("x")
    changes = {"finetune__optimizer__lr": 1e-2, "dataset__unreadable_fraction": 0.05}
    words = command("finetune", photos, tmp_path / "run", finetune__passes_per_epoch=8, **changes)
    unreadable = pytest.warns(UserWarning, match=r"1 of 61 .* broken\.jpg \(not an image\)")
    with unreadable:
        assert main(words) == 0
    described = capsys.readouterr().out
    assert "60 images of 2 classes (blue things 30, réd 30); 48 for training, 12 for" in described
    assert read_json(tmp_path / "run" / "result.json")["test_top1"] == 100
    predictor = smallvit_jax.load_predictor(tmp_path / "run")
    new = draw(tmp_path / "new", 3, 0)
    assert {p.classes[0] for p in predictor.predict(tmp_path / "new")} == {"réd"}
    assert new.shape == (3, 16, 16, 3)
    meta = predictor.meta
    assert (meta["dataset"], meta["class_names"]) == ("folder", list(CLASSES))
    whole, _ = measure_colors(np.concatenate([draw(photos / n, 30, c) for n, c in NAMED]))
    np.testing.assert_allclose(
        meta["mean"], whole, atol=0.01
    )  # measured on four fifths of the images


NAMED = ((CLASSES[0], 2), (CLASSES[1], 0))


def test_flat_folder_is_only_for_pretraining(tmp_path, capsys):
    draw(tmp_path / "flat", 16, 1)
    assert main(command("pretrain", tmp_path / "flat", tmp_path / "run")) == 0
    features, names = smallvit_jax.load_predictor(tmp_path / "run").embed(tmp_path / "flat")
    assert features.shape == (16, 16) and len(names) == 16
    capsys.readouterr()
    assert main(command("finetune", tmp_path / "flat", tmp_path / "tuned")) == 2
    error = capsys.readouterr().err
    assert 'no class folders, so it has no labels, which the job "finetune" needs' in error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("nowhere", "does not exist; give the folder of your images"),
        ("one class", "has only one class folder"),
        ("empty class", 'has no images of "empty"'),
        ("two names", "look like two names for one class"),
        ("broken", "cannot be read as images, more than dataset.unreadable_fraction=0.01"),
        ("few", "finetune.batch_size"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(photos, tmp_path, capsys, change, sentence):
    changes = {}
    if change == "nowhere":
        photos = photos / "x"
    elif change == "one class":
        (photos / CLASSES[1]).rename(tmp_path / "away")
    elif change == "empty class":
        (photos / "empty").mkdir()
    elif change == "two names":
        draw(photos / "Blue-Things", 2, 2)
    elif change == "broken":
        (photos / CLASSES[0] / "broken.jpg").write_text("x")
    elif change == "few":
        changes["finetune__batch_size"] = 64
    assert main(command("finetune", photos, tmp_path / "run", **changes)) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "\n" not in error
