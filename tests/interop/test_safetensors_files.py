"""Exported weights: exact values, the reference's names, and detection of damage."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from smallvit_jax import load_checkpoint, load_predictor
from smallvit_jax.checkpoints.store import read_params_and_meta
from smallvit_jax.errors import UserError
from smallvit_jax.interop.safetensors_files import read_file, read_model
from smallvit_jax.interop.torch_weights import state_dict
from smallvit_jax.main import main
from smallvit_jax.models import create_model
from smallvit_jax.models.parameters import get_arrays
from tests.support.tiny_checkpoint import CLASSES, MEAN, STD, TINY, draw_images, save_checkpoint
from tests.support.tiny_jobs import ROOT, read_json


def convert(source, workdir, *flags, dataset="cifar10") -> int:
    command = [f"--config={ROOT}/configs/convert.py:{dataset}", f"--workdir={workdir}"]
    return main([*command, f"--config.convert.source={source}", *flags])


def export(source, workdir) -> int:
    return convert(source, workdir, "--config.convert.format=safetensors")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A stage folder and the folder it was exported to."""
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(folder / "finetune")
    assert export(folder / "finetune", folder / "out") == 0
    return folder / "finetune", folder / "out"


@pytest.mark.parametrize("family", TINY)
def test_round_trip_is_bit_exact(family, tmp_path):
    save_checkpoint(tmp_path / "stage", family)
    assert export(tmp_path / "stage", tmp_path / "out") == 0
    assert convert(tmp_path / "out" / "model.safetensors", tmp_path / "back") == 0
    (before, meta), (after, new_meta) = (
        read_params_and_meta(tmp_path / folder) for folder in ("stage", "back")
    )
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes(), name
    kept = ("model", "dataset", "class_names", "mean", "std", "step")
    assert {k: new_meta[k] for k in kept} == {k: meta[k] for k in kept}
    assert new_meta["converted_from"].endswith("model.safetensors")
    assert (new_meta["class_names"], new_meta["mean"], new_meta["std"]) == (
        list(CLASSES),
        list(MEAN),
        list(STD),
    )


def test_file_has_the_reference_names_and_layouts(exported):
    stage, out = exported
    weights = load_file(out / "model.safetensors")
    expected = state_dict(load_checkpoint(stage))
    assert set(weights) == set(expected)
    assert weights["patch_embed.proj.weight"].shape == (8, 3, 4, 4)
    assert weights["blocks.0.attn.qkv.weight"].shape == (24, 8)
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "pt"  # checked by other programs


def test_exported_file_loads_without_conversion(exported):
    stage, out = exported
    images = draw_images(3)
    expected = load_predictor(stage).predict(images)
    assert load_predictor(out / "model.safetensors").predict(images) == expected
    arrays = get_arrays(load_checkpoint(out / "model.safetensors"))
    for name, array in get_arrays(load_checkpoint(stage)).items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_model_of_foreign_weights_is_inferred_from_shapes(tmp_path, capsys):
    weights = state_dict(create_model("vit", image_size=16, patch_size=2, width=24, num_classes=10))
    save_file(weights, tmp_path / "foreign.safetensors")
    assert convert(tmp_path / "foreign.safetensors", tmp_path / "out") == 0
    arrays = state_dict(load_checkpoint(tmp_path / "out"))
    assert all(np.array_equal(arrays[name], weights[name]) for name in weights)
    assert read_json(tmp_path / "out" / "result.json")["model"]["width"] == 24
    with pytest.raises(UserError, match="no description of their model; convert it to"):
        load_predictor(tmp_path / "foreign.safetensors")


def test_half_precision_becomes_float32_and_nan_is_refused(tmp_path):
    save_file({"a": np.array([0.5, 2.0], np.float16)}, tmp_path / "half.safetensors")
    weights, meta = read_file(tmp_path / "half.safetensors")
    assert meta is None and weights["a"].dtype == np.float32 and weights["a"].tolist() == [0.5, 2]
    save_file({"a": np.array([np.nan], np.float32)}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="a has values that are not finite"):
        read_file(tmp_path / "nan.safetensors")


def test_damaged_files_are_refused(exported, tmp_path):
    content = (exported[1] / "model.safetensors").read_bytes()
    flipped = bytearray(content)
    flipped[-100] ^= 1
    cases = {
        "flipped": (bytes(flipped), "was damaged or changed after it was written"),
        "short": (content[:-5], "is not a safetensors file, or is damaged"),
        "text": (b"hello", "is not a safetensors file, or is damaged"),
        "newer": (
            content.replace(b'format_version\\": 1', b'format_version\\": 9'),
            "has version 9 but this smallvit_jax reads version 1",
        ),
    }
    for name, (damaged, words) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=words):
            read_model(path)
    with pytest.raises(UserError, match="there is no file"):
        read_model(tmp_path / "none.safetensors")


def test_model_card_describes_the_checkpoint(exported):
    text = (exported[1] / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlibrary_name: smallvit_jax\npipeline_tag: image-classification\n")
    assert "Äpfel, pears, green, 東京" in text and "classifies images into 3 classes" in text
    assert "mean (0.5000, 0.4000, 0.3000)" in text and "| checkpoint step | 7 |" in text
    assert "How well it performs" not in text  # this checkpoint is not from a run


def test_model_card_counts_parameters_without_batch_statistics(tmp_path):
    save_checkpoint(tmp_path / "stage", "vit_conv")
    assert export(tmp_path / "stage", tmp_path / "out") == 0
    arrays, _ = read_params_and_meta(tmp_path / "stage")
    count = sum(a.size for name, a in arrays.items() if not name.endswith((".mean", ".var")))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"with {count:,} parameters" in text


def test_model_card_of_converted_weights_names_their_source(exported, tmp_path):
    text = (exported[1] / "README.md").read_text(encoding="utf-8")
    assert 'Trained from scratch on the dataset "folder"' in text and "converted" not in text
    weights = state_dict(create_model("vit", image_size=16, patch_size=2, width=24, num_classes=10))
    save_file(weights, tmp_path / "foreign.safetensors")
    assert convert(tmp_path / "foreign.safetensors", tmp_path / "checkpoint") == 0
    assert export(tmp_path / "checkpoint", tmp_path / "out") == 0
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Its weights were converted from `{tmp_path}/foreign.safetensors`." in text
    assert "from scratch" not in text


def test_model_card_of_a_run_has_its_results(tiny_recipe, tmp_path):
    assert export(tiny_recipe.folder / "finetune", tmp_path) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    evaluated = read_json(tiny_recipe.folder / "evaluate" / "result.json")
    assert f"| test accuracy, last epoch | {evaluated['test_top1']:.2f} % |" in text
    assert f"| calibration error | {evaluated['ece']:.2f} % |" in text
    assert f"on {evaluated['test_images']} test images" in text
    config = json.loads((tiny_recipe.folder / "pretrain" / "config.json").read_text())
    assert f"| pre-training: epochs | {config['pretrain']['epochs']} |" in text
    assert "| fine-tuning: learning rate | 0.01 |" in text
    assert "| images used without labels | 115 |" in text

    assert export(tiny_recipe.folder / "pretrain", tmp_path / "backbone") == 0
    text = (tmp_path / "backbone" / "README.md").read_text(encoding="utf-8")
    assert "has no classifier; it was pre-trained without labels" in text
    assert 'predictor.embed("photos")' in text and "## Classes" not in text
    after = read_json(tiny_recipe.folder / "pretrain" / "result.json")["knn_after"]
    assert f"| kNN accuracy on its features | {after:.2f} % |" in text
