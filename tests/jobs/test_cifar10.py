"""One step of each stage on real photographs, if available."""

import math

import pytest

from tests.conftest import REAL_IMAGES
from tests.support.tiny_jobs import ROOT, main, read_metrics

PHOTOGRAPHS = REAL_IMAGES / "tfds_small"


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="SMALLVIT_REAL_IMAGES has no tfds_small/")
def test_one_step_of_reference_recipe_with_shallow_model(tmp_path):
    fields = {
        "dataset.train_fraction": 0.005,  # 10 images: one step per epoch
        "model.depth": 2,  # the reference has 9, which take a minute to compile
        "pretrain.epochs": 1,
        "pretrain.batch_size": 8,
        "pretrain.views.local_crops": 2,
        "pretrain.knn_every": 0,
        "finetune.epochs": 1,
        "finetune.passes_per_epoch": 1,
        "finetune.batch_size": 8,
        "evaluate.batch_size": 100,
        "runtime.compilation_cache": "",
    }
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    for job, more in (("pretrain", ""), ("finetune", tmp_path / "pretrain")):
        command = [f"--config={ROOT}/configs/{job}.py:vit,cifar10", f"--workdir={tmp_path / job}"]
        command += [f"--data_dir={PHOTOGRAPHS}", f"--config.finetune.init_from={more}"]
        assert main([*command, *arguments]) == 0
    for row in read_metrics(tmp_path / "pretrain", "train"):
        assert math.isfinite(row["loss"]) and row["gradient_norm"] > 0
        assert 0 < row["mutual_information"] < math.log(1024)
        assert 0 < row["teacher_entropy"] < math.log(1024)
    (row,) = read_metrics(tmp_path / "finetune", "train")
    assert row["loss"] == pytest.approx(math.log(10), abs=0.5) and row["gradient_norm"] > 0
    (row,) = read_metrics(tmp_path / "finetune", "test")
    assert row["loss"] == pytest.approx(math.log(10), abs=0.5)
