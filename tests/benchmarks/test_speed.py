"""The benchmark's plan and its tables."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import speed, speed_report
from benchmarks.processes import MeasurementError, Session, is_running
from benchmarks.timing import summarize

ABOUT = {"model": "vit", "stage": "pretrain", "batch": 16, "precision": "bfloat16"}
STEP = {
    "figure": "step",
    **ABOUT,
    "images_per_second": {"complete": summarize([1e5, 3e5, 2e5]), "update": summarize([2e5])},
    "compile_seconds": {"complete": 12.34, "update": 5.0},
    "update_matmul_flops_per_image": 2e9,
    "xla_flops_per_image": {"complete": 3e8, "update": 2.5e8},
    "device_peak_bytes": 3 * 2**30,
}
RESULT = {
    "command": "python -m benchmarks.speed",
    "commit": "abc",
    "changed_files": 0,
    "date": "2026-01-01",
    "cores": 2,
    "processor": "a processor",
    "machine": {
        "device_kind": "NVIDIA H200",
        "device_count": 2,
        "versions": {"python": "3.12", "jax": "0.11", "flax": "0.12"},
        "matmul_side": 8192,
        "matmul_flops_per_second": {"bfloat16": 8e14},
    },
    "figures": [STEP, {"figure": "peer", **ABOUT, "error": "exit code 1: no memory"}],
}


def test_tables_show_rates_shares_and_failures(tmp_path, capsys):
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(RESULT))
    assert speed.main(["--table", str(file)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    # 2e5 images/s x 2e9 FLOP = 4e14: half of the measured peak, 20.2 % of two cards' nominal peak.
    cells = [cell.strip() for cell in rows[1].strip(" |").split("|")]
    assert cells == [
        *("vit pretrain 16 bfloat16", "200,000 ± 50.0 %", "200,000 ± 0.0 %", "12.3 s"),
        *("2.00", "0.25", "50.0 %", "20.2 %", "3.00"),
    ]
    assert "exit code 1: no memory" in rows[-1]


@pytest.mark.parametrize("has_torch", [True, False])
def test_peer_needs_pytorch_and_augmentation_runs_once(has_torch, monkeypatch):
    monkeypatch.setattr(speed, "_has_torch", lambda: has_torch)
    args = speed.parse(["--models=vit,swin", "--batch=16", "--precision=float32,bfloat16"])
    planned = [
        (figure, about.get("model"), about.get("precision")) for figure, about in speed.plan(args)
    ]
    assert planned.count(("peer", "swin", "float32")) == (2 if has_torch else 0)
    assert planned.count(("augment", "vit", "float32")) == 2  # both stages
    assert not [p for p in planned if p[0] == "augment" and p[1:] != ("vit", "float32")]
    assert planned.count(("step", "swin", "bfloat16")) == 2
    assert planned[0][0] == "help"
    assert {about["stage"] for figure, about in speed.plan(args) if figure == "feed"} == {
        "finetune"
    }


def test_unknown_figure_is_refused(capsys):
    with pytest.raises(SystemExit):
        speed.parse(["--only=steps"])
    assert "--only=steps is unknown" in capsys.readouterr().err


def test_nominal_peak_is_known_only_for_some_devices():
    assert speed_report.nominal_peak("NVIDIA H200", "bfloat16") == 989e12
    assert speed_report.nominal_peak("cpu", "float32") is None


def test_failed_measurement_is_recorded_with_its_reason(tmp_path):
    session = Session(tmp_path, quick=True)
    assert session.record("step", {}, lambda: session.run("benchmarks.no_such_module")) is None
    assert "No module named" in session.figures[0]["error"]
    with pytest.raises(MeasurementError, match="No module named"):
        session.run("benchmarks.no_such_module")


def test_process_is_running_until_it_ends():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(process)
    process.wait()


def test_photo_feed_is_compared_with_the_step_at_its_size(tmp_path, monkeypatch):
    session, requested = Session(tmp_path, quick=True), {}

    def measured(what, **arguments):
        requested[what] = arguments
        rate = summarize([{"feed": 900.0, "step": 30.0}[what]])
        return {"images_per_second": rate if what == "feed" else {"complete": rate}}

    monkeypatch.setattr(session, "measure", measured)
    assert speed.measure_feed(session, ABOUT)["feed_to_step"] == 30.0
    assert (requested["feed"]["stored_size"], requested["step"]["image_size"]) == (256, 224)


def test_side_by_side_compares_the_first_with_the_others():
    rates = {"ours": iter([20.0, 30.0]), "theirs": iter([10.0, 10.0])}

    def contender(name):
        return lambda: {"images_per_second": summarize([next(rates[name])]), "compile_seconds": 3}

    found = speed.side_by_side({name: contender(name) for name in rates}, rounds=2)
    assert found["ratios"] == {"theirs": {"ratio": 2.5, "lowest": 2.0, "highest": 3.0}}
    assert found["first_round"]["ours"] == {"compile_seconds": 3}
