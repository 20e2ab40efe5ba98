"""The table of compiled programs: what is missing, and how rows read."""

import json
import subprocess
from types import SimpleNamespace

from benchmarks.compile_table import compile_one, missing, summarize

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
}


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
    assert first == ("h100", what, "2.6 of 16: TOO LARGE", "", "9,200", "756 s")
    assert rest == [
        ("v5e-8", what, "2.6 of 16", "18 (12.3 MB)", "9,200", "756 s"),
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
