"""Reading and writing real torch.save files; skipped without PyTorch."""

import argparse
import json

import numpy as np
import pytest

from smallvit_jax import load_checkpoint
from smallvit_jax.errors import UserError
from smallvit_jax.interop.torch_files import infer_model, read_file
from smallvit_jax.interop.torch_weights import load_state_dict, state_dict
from smallvit_jax.main import main
from smallvit_jax.models import create_model, resolve_options
from tests.support.golden_formulas import fill

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def weights(golden):
    shapes = golden("model_vit_32")["state_dict"]
    return {key: torch.from_numpy(fill(key, tuple(shape))) for key, shape, _ in shapes}


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """The three kinds of file that the reference's scripts write."""
    folder = tmp_path_factory.mktemp("pth")
    backbone = {k: v for k, v in weights.items() if not k.startswith("head.")}
    wrapped = {f"backbone.{k}": v for k, v in backbone.items()}
    wrapped["mlphead.last_layer.weight_g"] = torch.ones(1024, 1)
    content = {
        "pretrain": {
            "student": {f"module.{k}": v + 1 for k, v in wrapped.items()},
            "teacher": wrapped,
            "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 7,
            "args": argparse.Namespace(arch="vit", epochs=200),
            "view_pred_loss": {"center": torch.zeros(1, 1024)},
        },
        "finetune": {"model_state_dict": weights, "epoch": 3, "scheduler": {"step": 1}},
        "bare": weights,
    }
    for name, value in content.items():
        torch.save(value, folder / f"{name}.pth")
    return folder


def convert(source, workdir, *flags):
    place = ["--config", "configs/convert.py:cifar10", "--workdir", str(workdir)]
    return main([*place, f"--config.convert.source={source}", *flags])


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "bare"])
def test_each_kind_of_file_becomes_a_checkpoint(files, weights, tmp_path, kind):
    assert convert(files / f"{kind}.pth", tmp_path) == 0
    model = load_checkpoint(tmp_path)
    loaded = state_dict(model)
    expected = {k: v for k, v in weights.items() if kind != "pretrain" or "head." not in k}
    assert set(loaded) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(loaded[key], value.numpy(), err_msg=key)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["model"]["num_classes"] == (0 if kind == "pretrain" else 10)


def test_student_can_be_read_instead(files, weights):
    student = read_file(files / "pretrain.pth", "student")
    np.testing.assert_array_equal(student["cls_token"], weights["cls_token"].numpy() + 1)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_exported_file_keeps_the_reference_order(files, weights, tmp_path, kind):
    assert convert(files / f"{kind}.pth", tmp_path / "in") == 0
    assert convert(tmp_path / "in", tmp_path / "out") == 0
    content = torch.load(tmp_path / "out" / "model.pth", weights_only=True)
    if kind == "finetune":
        back = content["model_state_dict"]
        assert list(back) == list(weights)
    else:
        back = {k.removeprefix("backbone."): v for k, v in content["teacher"].items()}
        # finetune.py:150 pairs entries by position, and the classifier's come last.
        assert list(back) == list(weights)[: len(back)]
    for key, value in back.items():
        assert torch.equal(value, weights[key]), key


TINY = {
    "vit": {"image_size": 64, "patch_size": 8, "width": 24, "depth": 2, "mlp_ratio": 4.0},
    "swin": {"image_size": 64, "patch_size": 4, "width": 12, "depths": (1, 2), "heads": 2},
    "cait": {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "class_depth": 1},
}


@pytest.mark.parametrize("family", TINY)
def test_model_is_inferred_from_the_weights(family):
    weights = state_dict(create_model(family, num_classes=7, **TINY[family]))
    found = infer_model(weights, "x.pth")
    options = resolve_options(**found)
    assert found.items() >= {"name": family, "num_classes": 7, **TINY[family]}.items()
    assert options["heads"] == {"vit": 12, "swin": 2, "cait": 4}[family]
    load_state_dict(create_model(**options), weights)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_vit_without_class_token_is_inferred(positions):
    options = {"image_size": 32, "patch_size": 4, "pool": "mean", "pos_embed": positions}
    weights = state_dict(create_model("vit", width=24, depth=1, **options))
    found = infer_model(weights, "x.pth")
    assert resolve_options(**found).items() >= options.items()
    load_state_dict(create_model(**found), weights)


def test_half_precision_becomes_float32(weights, tmp_path):
    torch.save({k: v.bfloat16() for k, v in weights.items()}, tmp_path / "half.pth")
    read = read_file(tmp_path / "half.pth")
    assert all(value.dtype == np.float32 for value in read.values())
    expected = weights["norm.weight"].bfloat16().float().numpy()
    np.testing.assert_array_equal(read["norm.weight"], expected)


class Surprise:
    """Any object that is not a tensor, container or Namespace."""


def test_other_objects_are_refused(tmp_path):
    torch.save({"model_state_dict": {}, "extra": Surprise()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"objects of .*Surprise, which could run code when loaded"):
        read_file(tmp_path / "x.pth")


def test_invalid_files_get_a_specific_error(tmp_path, files):
    (tmp_path / "text.pth").write_text("not a torch file")
    (tmp_path / "short.pth").write_bytes((files / "bare.pth").read_bytes()[:5000])
    changed = bytearray((files / "bare.pth").read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(changed)
    contents = {
        "list": [1, 2],
        "empty": {"model_state_dict": {}},
        "tensors": {"model_state_dict": [torch.zeros(1)]},
        "wrapped": {"model": {"cls_token": torch.zeros(1)}},
        "student": {"student": {"cls_token": torch.zeros(1)}},
        "number": {"cls_token": 5},
        "sparse": {"cls_token": torch.zeros(2).to_sparse()},
        "nan": {"cls_token": torch.full((2,), torch.nan)},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
    for name, words in {
        "text": "was not written by torch.save",
        "short": "was not written by torch.save",
        "changed": "is damaged",
        "list": "of type list, not a state dict",
        "empty": "has no weights",
        "tensors": "model_state_dict is not a state dict but a list",
        "wrapped": r"inside 'model'.*save only that entry",
        "student": "has no teacher; give --config.convert.network=student",
        "number": "its 'cls_token' is of type int",
        "sparse": "cls_token is not a plain tensor",
        "nan": "cls_token has values that are not finite",
        "none": "there is no file",
    }.items():
        with pytest.raises(UserError, match=words):
            read_file(tmp_path / f"{name}.pth")


def test_mismatches_are_listed_together(files, weights, tmp_path, capsys):
    wrong = dict(weights)
    del wrong["norm.bias"]
    wrong["blocks.0.extra"] = torch.zeros(2)
    wrong["cls_token"] = torch.zeros(1, 1, 5)
    torch.save(wrong, tmp_path / "wrong.pth")
    assert convert(tmp_path / "wrong.pth", tmp_path / "out") == 2
    message = capsys.readouterr().err
    for words in ("missing norm.bias", "unexpected blocks.0.extra", "cls_token has shape"):
        assert words in message


@pytest.mark.parametrize("change", ["missing", "wrong rank"])
@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("vit", "blocks.0.mlp.fc1.weight"),
        ("vit", "pos_embed"),
        ("cait", "blocks.0.attn.proj_l.weight"),
        ("swin", "layers.0.blocks.0.mlp.fc1.weight"),
    ],
)
def test_error_names_bad_weights_that_determine_options(family, key, change):
    """The option falls back to the family's default, and loading lists the mismatch."""
    weights = state_dict(create_model(family, **TINY[family]))
    weights[key] = np.zeros(5, np.float32)
    if change == "missing":
        del weights[key]
    with pytest.raises(UserError, match=key):
        load_state_dict(create_model(**infer_model(weights, "x.pth")), weights)


def test_convert_to_another_dataset_and_missing_source(files, tmp_path, capsys):
    torch.save({}, tmp_path / "unused.pth")
    source = files / "finetune.pth"
    flags = ["--config", "configs/convert.py:digits", "--workdir", str(tmp_path / "x")]
    assert main([*flags, f"--config.convert.source={source}"]) == 0  # ten classes too
    assert convert(tmp_path / "missing.pth", tmp_path / "y") == 2
    assert "does not exist" in capsys.readouterr().err
