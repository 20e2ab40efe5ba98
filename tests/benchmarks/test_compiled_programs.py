"""The table of compiled programs: what is missing, and how rows read."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks.compiled_programs import RESULTS, compile_one, grown, missing, summarize

ROW = {
    "model": "vit",
    "target": "v5e-8",
    "stage": "pretrain",
    "fits": True,
    "bytes": {"peak": 2.6 * 2**30, "of": 16 * 2**30},
    "collectives": {"all-reduce": 18},
    "collective_bytes": {"all-reduce": 12.3e6},
    "estimated_images_per_second": 9184.0,
    "compile_seconds": 756.2,
    "bytes_moved_per_step": 10.5e9,
    "kernels_per_step": 2618,
    "cycles_per_step": 0,
}
ROW["bytes"]["temporaries"] = 2**31


def test_only_missing_and_failed_programs_are_compiled():
    rows = [ROW, ROW | {"stage": "finetune", "error": "killed"}]
    assert list(missing(rows, ["vit"], ["v5e-8", "h100"], ["pretrain", "finetune"])) == [
        ("vit", "v5e-8", "finetune"),
        ("vit", "h100", "pretrain"),
        ("vit", "h100", "finetune"),
    ]


def test_rows_say_whether_a_program_fits():
    large = ROW | {"target": "h100", "fits": False, "collectives": {}, "collective_bytes": {}}
    refused = {key: ROW[key] for key in ("model", "target")} | {"stage": "finetune"}
    _, first, *rest = summarize([ROW, refused | {"reason": "needs 20 GiB"}, large])
    what = "vit, pre-training"
    assert first == ("h100", what, "2.6 of 16: TOO LARGE", "10.5", "2,618", "", "9,200", "756 s")
    assert rest == [
        ("v5e-8", what, "2.6 of 16", "10.5", "2,618", "18 (12.3 MB)", "9,200", "756 s"),
        ("v5e-8", "vit, fine-tuning", "needs 20 GiB"),
    ]


def test_row_is_that_of_the_job(tmp_path, monkeypatch):
    def run(command, **options):
        assert "compile_check:cait,cifar10" in command
        assert command[-2:] == [
            "--config.compile_check.targets=h100",
            "--config.compile_check.stages=finetune",
        ]
        row = {"target": "h100", "stage": "finetune", "fits": True}
        (tmp_path / "result.json").write_text(json.dumps({"programs": [row]}))
        return SimpleNamespace(returncode=code, stderr="a warning\nit needs the plugin\n")

    monkeypatch.setattr(subprocess, "run", run)
    program = ("cait", "h100", "finetune")
    code = 0
    assert compile_one(*program, tmp_path)["fits"]
    code = 2
    assert compile_one(*program, tmp_path)["error"] == "it needs the plugin"


def test_what_grew_is_named():
    assert grown(ROW, ROW | {"kernels_per_step": 2600, "bytes_moved_per_step": 10.6e9}) == []
    more = ROW | {"kernels_per_step": 3000, "collectives": {"all-reduce": 18, "all-gather": 1}}
    assert grown(ROW, more) == [
        "operations per step: 3,000 instead of 2,618",
        "all-gather per step: 1 instead of 0",
    ]
    assert grown(ROW, {"error": "it needs the plugin"}) == ["it needs the plugin"]
    refused = {"reason": "needs 20 GiB"}
    assert grown(ROW, refused) == ["needs 20 GiB"]
    assert grown(refused, refused) == grown(refused, ROW) == []
    assert grown(ROW, ROW | {"kernels_per_step": 0}) == [
        "operations per step: nothing was counted, instead of 2,618"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "compiler"), [("h100", "jax_cuda12_plugin"), ("v5e-8", "libtpu")]
)
def test_no_program_has_grown(target, compiler):
    """Fine-tuning of the ViT, the quickest to compile; --compare does the same for all."""
    pytest.importorskip(compiler)
    command = [sys.executable, "-m", "benchmarks.compiled_programs", "--compare"]
    command += ["--models", "vit", "--stages", "finetune", "--targets", target]
    done = subprocess.run(command, cwd=RESULTS.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as before" in done.stdout
