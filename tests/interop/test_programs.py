"""Exported programs compute what the model computes, for any batch size, with a description."""

import json
import sys

import jax
import numpy as np
import pytest

from smallvit_jax.main import main
from tests.support.tiny_checkpoint import CLASSES, MEAN, STD, TINY, draw_images, save_checkpoint
from tests.support.tiny_jobs import ROOT

VARIANTS = {
    "vit_lsa": {"lsa": True, "pool": "mean", "pos_embed": "sincos"} | TINY["vit"],
    "vit_spt": {"name": "vit", "stem": "spt"} | TINY["vit"],
}
VARIANTS["vit_lsa"]["name"] = "vit"


def export(source, workdir, kind) -> int:
    command = [f"--config={ROOT}/configs/convert.py", f"--workdir={workdir}"]
    return main([*command, f"--config.convert.source={source}", f"--config.convert.format={kind}"])


def logits(model, images):
    normalized = (images / 255 - np.array(MEAN)) / np.array(STD)
    return np.asarray(model(np.asarray(normalized, np.float32)))


_QUICK = ("vit", "vit_lsa")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
        for name in (*TINY, *VARIANTS)
    ]
)
def stage(request, tmp_path, monkeypatch):
    """A stage folder, its model, and its image size."""
    for name, options in VARIANTS.items():
        monkeypatch.setitem(TINY, name, options)
    model = save_checkpoint(tmp_path / "stage", request.param)
    return tmp_path / "stage", model, TINY[request.param].get("image_size", 8)


def test_stablehlo_equals_the_model(stage, tmp_path):
    pytest.importorskip("flatbuffers")
    source, model, size = stage
    assert export(source, tmp_path / "out", "stablehlo") == 0
    exported = jax.export.deserialize((tmp_path / "out" / "model.stablehlo").read_bytes())
    assert exported.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 5):
        images = draw_images(count, size)
        np.testing.assert_allclose(exported.call(images), logits(model, images), atol=1e-5)
    described = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert (described["class_names"], described["size"]) == (list(CLASSES), size)


def test_without_flatbuffers_there_is_one_sentence(tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "stage")
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert export(tmp_path / "stage", tmp_path / "out", "stablehlo") == 2
    error = capsys.readouterr().err
    assert "writing a StableHLO file needs flatbuffers" in error and "Traceback" not in error
