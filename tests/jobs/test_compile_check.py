"""The compile check, with this machine's CPU in the place of an accelerator."""

import importlib.util

import jax
import pytest

from smallvit_jax.jobs import compile_check
from smallvit_jax.main import main
from smallvit_jax.plans import hardware
from smallvit_jax.plans.hardware import Chip
from smallvit_jax.process.platform import compiling_for, platform
from smallvit_jax.process.sharding import make_mesh
from tests.support.tiny_jobs import ROOT, TINY, read_json

NOT_TINY = ("report.at_end", "runtime.compilation_cache")


@pytest.fixture
def small_chips(monkeypatch):
    """A function that makes "v5e-1" a CPU with some bytes of memory."""

    def replace(memory):
        chip = Chip("cpu", memory, 1e12, 1e11, 1, "v5e")
        monkeypatch.setitem(hardware.CHIPS, "v5e", chip)
        monkeypatch.setattr(compile_check, "_mesh", lambda target: make_mesh())
        monkeypatch.setattr(compile_check, "_check_compiler", lambda target: None)

    return replace


def command(workdir, targets="v5e-1", **fields):
    fields = {k: v for k, v in TINY.items() if k not in NOT_TINY} | fields
    fields |= {"compile_check.targets": targets}
    return [
        f"--config={ROOT}/configs/compile_check.py:vit,digits",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def test_both_stages_are_compiled_and_described(tmp_path, capsys, small_chips):
    small_chips(10 * 2**30)
    assert main(command(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "v5e-1, pre-training with 24 images per step" in printed
    assert "compile check (estimates come from the programs, nothing was run)" in printed
    pretrain, finetune = read_json(tmp_path / "result.json")["programs"]
    assert (pretrain["stage"], finetune["stage"]) == ("pretrain", "finetune")
    for row in (pretrain, finetune):
        assert row["fits"] and row["collectives"] == {}  # one device
        sizes = row["bytes"]
        parts = ("arguments", "temporaries", "outputs", "program")
        assert sizes["peak"] == sum(sizes[name] for name in parts) > 143 * 16 * 16 * 3
        assert row["flops_by_dtype"] == {"float32": 1.0}  # what "auto" is on a CPU
        assert row["bytes_moved_per_step"] > sizes["temporaries"] / 10
        assert any(place.endswith(tuple("0123456789")) for place in row["largest_lines"])
    assert pretrain["flops_per_image"] > finetune["flops_per_image"]


@pytest.mark.slow
def test_too_large_step_gets_a_setting_with_which_it_fits(tmp_path, capsys, small_chips):
    small_chips(10 * 2**30)
    fields = {"compile_check.stages": "pretrain", "pretrain.batch_size": 128}
    fields |= {"dataset.train_fraction": 1.0}
    assert main(command(tmp_path / "large", **fields)) == 0
    (large,) = read_json(tmp_path / "large/result.json")["programs"]
    halved = fields | {"runtime.accumulate": 2}
    assert main(command(tmp_path / "halved", **halved)) == 0
    (smaller,) = read_json(tmp_path / "halved/result.json")["programs"]
    between = (large["bytes"]["peak"] + smaller["bytes"]["peak"]) / 2
    small_chips(between / (1 - compile_check._RESERVED))
    assert main(command(tmp_path / "tight", **fields)) == 0
    assert "it fits with --config.runtime.accumulate=2" in capsys.readouterr().out
    small_chips(10)
    assert main(command(tmp_path / "none", **fields)) == 0
    assert "no setting that was tried makes it fit" in capsys.readouterr().out


def test_compiler_that_refuses_a_large_program_is_understood(
    tmp_path, capsys, small_chips, monkeypatch
):
    """As libtpu does, instead of saying how large the program is."""
    small_chips(10 * 2**30)
    compile_program, tried = jax.stages.Lowered.compile, []

    def refuse_first(self, *args, **kwargs):
        tried.append(self)
        if len(tried) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 26.8G of 15.7G")
        return compile_program(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse_first)
    assert main(command(tmp_path, **{"compile_check.stages": "finetune"})) == 0
    printed = capsys.readouterr().out
    assert "NO: RESOURCE_EXHAUSTED: 26.8G of 15.7G" in printed
    assert "it fits with --config.runtime.accumulate=2" in printed
    (row,) = read_json(tmp_path / "result.json")["programs"]
    assert not row["fits"] and row["remedy"] == "runtime.accumulate=2"


def test_programs_compiled_before_a_failure_are_written(tmp_path, small_chips, monkeypatch):
    small_chips(10 * 2**30)
    check = compile_check._check

    def fail_second(config, data, stage, target, mesh):
        if stage == "finetune":
            raise KeyboardInterrupt
        return check(config, data, stage, target, mesh)

    monkeypatch.setattr(compile_check, "_check", fail_second)
    assert main(command(tmp_path)) == 130
    assert len(read_json(tmp_path / "result.json")["programs"]) == 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ({"targets": "v5e-8"}, ["needs the package libtpu", "compile-check-tpu"]),
        ({"targets": "h100"}, ["needs the package jax-cuda12-plugin", "compile-check-cuda"]),
        ({"targets": "v9"}, ['"v9"', "known: v4"]),
    ],
)
def test_what_is_missing_gets_one_sentence(tmp_path, capsys, monkeypatch, words, parts):
    find = importlib.util.find_spec
    hidden = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n in hidden else find(n))
    assert main(command(tmp_path, **words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts)


def test_folders_and_uneven_batches_are_refused(tmp_path, capsys, small_chips, monkeypatch):
    small_chips(10 * 2**30)
    folder = [word for word in command(tmp_path) if not word.startswith("--config=")]
    config = f"--config={ROOT}/configs/compile_check.py:vit,folder:{tmp_path}"
    assert main([config, *folder]) == 2
    assert "give a dataset of the table" in capsys.readouterr().err
    monkeypatch.setattr(compile_check, "_mesh", lambda target: _Mesh())
    assert main(command(tmp_path)) == 2
    assert "pretrain.batch_size=24 does not split evenly over the 7" in capsys.readouterr().err


class _Mesh:
    devices = range(7)


def test_platform_is_that_of_what_is_compiled_for():
    assert platform() == "cpu"
    with compiling_for("tpu"):
        assert platform() == "tpu"
    assert platform() == "cpu"
