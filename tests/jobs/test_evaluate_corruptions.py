"""Evaluating a checkpoint on corrupted images from the command line."""

import pytest

from smallvit_jax.evaluation.corruptions import BENCHMARK_KINDS
from smallvit_jax.evaluation.corruptions.frost_photographs import frost_photographs
from tests.data.tiny_tfds import write_tiny_dataset
from tests.evaluation.frost_pictures import install_frost_pictures
from tests.support.tiny_jobs import ROOT, main, preset_command, read_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a CIFAR-10 of 20 random images and a model fine-tuned on it."""
    folder = tmp_path_factory.mktemp("cifar10")
    write_tiny_dataset(folder, "cifar10", 20)
    changes = {"finetune__epochs": 1, "finetune__batch_size": 10}
    changes |= {"finetune__optimizer__warmup_epochs": 0}
    arguments = preset_command("finetune", "vit", "cifar10", folder / "run", folder, **changes)
    assert main(arguments) == 0
    return folder


def evaluate(folder, workdir, **fields) -> int:
    fields = {
        "evaluate.checkpoint": folder / "run",
        "evaluate.probe_blocks": 0,
        "evaluate.corruptions.kinds": 15,
        "evaluate.corruptions.images": 10,
        "evaluate.corruptions.cache": workdir / "kept",
        "evaluate.corruptions.processes": 1,
        "runtime.compilation_cache": "",
    } | {f"evaluate.corruptions.{name}": value for name, value in fields.items()}
    command = [f"--config={ROOT}/configs/evaluate.py:cifar10", f"--data_dir={folder}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    return main([*command, f"--workdir={workdir}"])


def test_errors_are_in_the_result_and_on_stdout(trained, tmp_path, monkeypatch, capsys):
    install_frost_pictures(tmp_path, monkeypatch)
    assert evaluate(trained, tmp_path / "out") == 0
    frost_photographs.cache_clear()
    corruptions = read_json(tmp_path / "out" / "result.json")["corruptions"]
    assert corruptions["source"] == "CIFAR-10-C (regenerated)" and corruptions["images"] == 10
    assert tuple(corruptions["errors"]) == BENCHMARK_KINDS and corruptions["skipped"] == {}
    every = [error for errors in corruptions["errors"].values() for error in errors]
    assert len(every) == 75 and all(error in range(0, 101, 10) for error in every)
    assert corruptions["mce15"] == pytest.approx(sum(every) / 75)
    assert "mce19" not in corruptions
    shown = capsys.readouterr().out
    for kind in BENCHMARK_KINDS:
        assert kind.replace("_", " ") in shown
    assert f"{corruptions['mce15']:.2f}" in shown
    assert len(list((tmp_path / "out" / "kept").glob("cifar10-*/*.npz"))) == 75


def test_missing_files_are_reported_before_evaluation(trained, tmp_path, capsys):
    assert evaluate(trained, tmp_path / "out", source="official") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "evaluate.corruptions.root" in message
    assert not (tmp_path / "out" / "result.json").exists()
