"""The jobs `predict` and `embed`: the files they write, and how they exit."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

from smallvit_jax.main import main
from smallvit_jax.workdir.records import write_config
from tests.support.tiny_checkpoint import (
    CLASSES,
    draw_images,
    expected,
    save_checkpoint,
    write_images,
)
from tests.support.tiny_jobs import ROOT, read_json

NAMES = [f"{i}.png" for i in range(9)] + ["größe, 'quoted'.png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a stage, ten images and a broken one; their probabilities and features."""
    folder = tmp_path_factory.mktemp("run")
    model = save_checkpoint(folder / "finetune")
    images = draw_images(len(NAMES))
    write_images(images, [folder / "photos" / name for name in NAMES])
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    return folder, *expected(model, images)


def words(job, folder, workdir, **fields):
    fields = {"checkpoint": folder / "finetune", "input": folder / "photos"} | fields
    flags = [f"--config.predict.{name}={value}" for name, value in fields.items()]
    command = [f"--config={ROOT}/configs/{job}.py", f"--workdir={workdir}", *flags]
    return [*command, "--config.runtime.compilation_cache="]


def test_csv_has_a_row_per_image(run, tmp_path, capsys):
    folder, probabilities, _ = run
    with pytest.warns(UserWarning, match=r"broken\.jpg \(not an image\)"):
        assert main(words("predict", folder, tmp_path, top=2)) == 0
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2"]
    assert [row["file"] for row in rows] == NAMES
    for row, values in zip(rows, probabilities, strict=True):
        first, second = np.argsort(-values)[:2]
        assert (row["class"], row["class_2"]) == (CLASSES[first], CLASSES[second])
        assert float(row["probability"]) == pytest.approx(values[first], abs=2e-6)
        assert float(row["probability_2"]) == pytest.approx(values[second], abs=2e-6)
    result = read_json(tmp_path / "result.json")
    assert (result["images"], result["checkpoint_step"]) == (10, 7)
    shown = capsys.readouterr().out
    assert "10 images: " in shown and "..." in shown


def test_json_has_the_same_predictions(run, tmp_path):
    folder, probabilities, _ = run
    assert main(words("predict", folder, tmp_path, format="json", batch_size=3)) == 0
    rows = read_json(tmp_path / "predictions.json")
    assert [row["file"] for row in rows] == NAMES
    classes = [CLASSES[i] for i in probabilities.argmax(axis=1)]
    assert [row["class"] for row in rows] == classes
    sums = [sum(v for k, v in row.items() if k.startswith("probability")) for row in rows]
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_embeddings_load_without_pickle(run, tmp_path, capsys):
    folder, _, features = run
    assert main(words("embed", folder, tmp_path)) == 0
    with np.load(tmp_path / "embeddings.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == NAMES
        np.testing.assert_allclose(file["features"], features, atol=1e-5)
    assert "10 images, 8 features each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("job", "fields", "sentence"),
    [
        ("predict", {"checkpoint": ""}, 'the job "predict" needs predict.checkpoint'),
        ("embed", {"input": ""}, 'the job "embed" needs predict.input'),
        ("predict", {"input": "no/such/place"}, "there is no file or folder no/such/place"),
        ("predict", {"checkpoint": "no/run"}, "no/run does not exist; give a stage folder"),
        ("predict", {"format": "xml"}, "predict.format"),
    ],
)
def test_mistakes_get_one_sentence(run, tmp_path, capsys, job, fields, sentence):
    assert main(words(job, run[0], tmp_path, **fields)) == 2
    captured = capsys.readouterr().err
    assert sentence in captured and captured.count("\n") == 1


def test_eight_devices_give_the_same_predictions(run, tmp_path):
    folder, probabilities, _ = run
    flags = words("predict", folder, tmp_path, format="json", top=3, batch_size=4)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-m", "smallvit_jax.main", *flags]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "result.json")["environment"]["device_count"] == 8
    for row, values in zip(read_json(tmp_path / "predictions.json"), probabilities, strict=True):
        assert row["class"] == CLASSES[values.argmax()]
        assert row["probability"] == pytest.approx(values.max(), abs=1e-5)


@pytest.mark.parametrize("job", ["predict", "embed"])
def test_folder_of_another_run_is_left_alone(job, tmp_path, capsys):
    write_config(tmp_path, {"finetune": {"epochs": 3}})
    (tmp_path / "result.json").write_text('{"job": "finetune"}')
    flags = [f"--config.predict.{name}={tmp_path}" for name in ("checkpoint", "input")]
    config = f"--config={ROOT / 'configs' / job}.py"
    assert main([config, f"--workdir={tmp_path}", *flags]) == 2
    assert "choose a new --workdir" in capsys.readouterr().err
    assert (tmp_path / "result.json").read_text() == '{"job": "finetune"}'
