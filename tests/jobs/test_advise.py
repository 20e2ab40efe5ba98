"""Advice, from the command line to a command that can be run."""

import shlex

import pytest

from smallvit_jax.command.flags import read_flags, resolve
from smallvit_jax.config.check import validate
from smallvit_jax.config.values import set_from_text
from smallvit_jax.jobs import advise
from smallvit_jax.main import main
from smallvit_jax.plans import advice, finetuning, pretraining
from smallvit_jax.plans.data_and_model import DatasetReader
from tests.jobs.test_own_images import draw
from tests.support.tiny_jobs import ROOT, TINY


@pytest.fixture(autouse=True)
def _small_and_short(monkeypatch):
    """The presets' models are too slow for tests; one block of steps is measured."""

    def small(preset):
        def use(config):
            preset.use(config)
            for path in ("model.width", "model.depth", "model.heads"):
                set_from_text(config, path, str(TINY[path]))
            config.pretrain.views.local_crops = 1

        return preset._replace(use=use)

    monkeypatch.setattr(advice, "PRESETS", tuple(small(preset) for preset in advice.PRESETS))
    monkeypatch.setattr(advise, "SECONDS", 0.0)
    monkeypatch.chdir(ROOT)


def advised(capsys, *words):
    """The printed table, and config and data of the printed command."""
    assert main(["--config", *words]) == 0
    table, _, command = capsys.readouterr().out.partition("Run:")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "smallvit_jax.main"]
    config, workdir, _ = resolve(read_flags(words[3:]))
    validate(config)
    return table, config, workdir, DatasetReader().load(config)


def test_command_for_a_folder_can_be_run(tmp_path, capsys):
    for channel in range(2):
        draw(tmp_path / "my photos" / f"class {channel}", 30, channel)
    table, config, workdir, data = advised(
        capsys,
        f"configs/advise.py:{tmp_path}/my photos",
        "--config.dataset.labels_per_class=5",
        "--config.advise.minutes=0.01",
    )
    assert config.job == "recipe" and str(workdir) == "runs/my photos"
    assert config.dataset.labels_per_class == 5
    assert config.pretrain.batch_size <= 48 and config.finetune.batch_size <= 10
    assert config.pretrain.epochs == advice.PRESETS[0].fewest_epochs
    pretraining.make_plan(config, data)
    finetuning.make_plan(config, data)
    assert "48 of 32 x 32 pixels" in table and "2, 5" in table
    assert "longer than advise.minutes=0.01" in table


@pytest.mark.slow
def test_images_without_classes_are_for_pretraining(tmp_path, capsys):
    draw(tmp_path / "flat", 60, 0)
    table, config, workdir, data = advised(
        capsys, f"configs/advise.py:{tmp_path}/flat", "--workdir", "elsewhere"
    )
    assert config.job == "pretrain" and str(workdir) == "elsewhere"
    pretraining.make_plan(config, data)
    assert "labels per class" not in table


def test_fields_that_advice_chooses_are_refused(capsys):
    words = ["advise:digits", "--config.pretrain.epochs=3"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "advice chooses pretrain.epochs itself" in error and error.count("\n") == 1


def test_other_jobs_need_a_workdir(capsys):
    assert main(["--config", "configs/quickstart.py"]) == 2
    assert "--workdir is missing" in capsys.readouterr().err
