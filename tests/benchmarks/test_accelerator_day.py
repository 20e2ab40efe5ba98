"""The parts of the accelerator day that need no measurement."""

import argparse
import importlib.metadata
import json

import jax
import pytest

from benchmarks import accelerator_day
from benchmarks.accelerator_day import (
    Part,
    _times_by_operation,
    check_items,
    check_rows,
    compare_with_cpu,
    estimates,
    pack,
    speed_rows,
    take_step,
    unpack,
)
from benchmarks.accelerator_wheels import PRESENT, needed
from benchmarks.timing import summarize


def part(folder, minutes=8.0):
    return Part("check", argparse.Namespace(out=folder, minutes=minutes))


def test_part_goes_on_where_it_stopped_and_records_failures(tmp_path, capsys):
    taken = []

    def measure(name):
        taken.append(name)
        if name == "b":
            raise RuntimeError("no such instruction")
        return {"value": name}

    items = [(name, lambda name=name: measure(name)) for name in "abc"]
    assert part(tmp_path).run(iter(items[:2]))
    assert not part(tmp_path, minutes=0.0).run(iter(items))  # too little time for another item
    assert part(tmp_path).run(iter(items))
    assert taken == ["a", "b", "c"]
    found = json.loads((tmp_path / "check.json").read_text())["items"]
    assert found["a"]["value"] == "a" and "no such instruction" in found["b"]["error"]


def test_every_family_stage_and_precision_takes_a_step():
    keys = [key for key, _ in check_items(rehearse=False)]
    steps = [key.removeprefix("step: ") for key in keys if key.startswith("step")]
    assert len(steps) == len(set(steps)) == 2 * (4 + 3 + 3)
    assert "cait lejepa bfloat16" in steps and "swin mae float32" not in steps


def test_step_is_taken_and_a_device_that_computes_otherwise_is_found(monkeypatch):
    about = accelerator_day.STAGES["finetune"]
    assert take_step("vit", about, "bfloat16", True)["losses"][0] > 0
    put, calls = jax.device_put, []

    def inexact(arguments, device):
        state, ready, *rest = put(arguments, device)
        calls.append(device)
        if len(calls) == 1:  # the accelerator; then the CPU
            ready = jax.tree.map(lambda x: x[:, ::-1] if x.ndim == 4 else x, ready)
        return state, ready, *rest

    monkeypatch.setattr(jax, "device_put", inexact)
    found = compare_with_cpu("vit", about, True)
    assert 1e-4 < found["largest"] < 0.5
    assert found["here"]["gradient_norm"] != found["cpu"]["gradient_norm"]


def test_packed_run_is_restored(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator_day, "CHUNK", 1000)
    run = tmp_path / "run"
    (run / "pretrain").mkdir(parents=True)
    (run / "pretrain/weights").write_bytes(bytes(range(256)) * 20)
    (run / ".lock").touch()
    pack(run, tmp_path / "out")
    pieces = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(pieces) > 5 and pieces[0] == "run.tar.0000"
    (run / "pretrain/weights").write_bytes(b"short")
    pack(run, tmp_path / "later")
    for piece in (tmp_path / "out").iterdir():
        (tmp_path / "later" / piece.name).write_bytes(piece.read_bytes())
    pack(run, tmp_path / "later")  # fewer pieces than before
    unpack(tmp_path / "later", tmp_path / "short/run")
    assert (tmp_path / "short/run/pretrain/weights").read_bytes() == b"short"
    (run / "pretrain/weights").write_bytes(bytes(range(256)) * 20)
    unpack(tmp_path / "out", tmp_path / "elsewhere/run")
    copied = tmp_path / "elsewhere/run"
    assert (copied / "pretrain/weights").read_bytes() == (run / "pretrain/weights").read_bytes()
    assert not (copied / ".lock").exists()
    unpack(tmp_path / "nothing", tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_times_are_those_of_devices():
    names = {1: "/device:GPU:0", 2: "/host:CPU"}
    events = [
        {"name": "process_name", "pid": pid, "args": {"name": name}} for pid, name in names.items()
    ]
    source = "/x/smallvit_jax/models/attention.py:7"
    for operation, pid, duration in [("fusion.1", 1, 3.0), ("fusion.2", 1, 4.0), ("dot", 2, 9.0)]:
        args = {"hlo_op": operation, "source": source}
        events.append({"ph": "X", "name": "x", "pid": pid, "dur": duration, "args": args})
    assert _times_by_operation(events) == {"fusion (models/attention.py:7)": 7.0}


def test_tables_have_a_row_for_each_item():
    machine = {
        "device_kind": "H100",
        "matmul_flops_per_second": {"bfloat16": 8e14},
        "copy_bytes_per_second": 3e12,
    }
    step = {
        "images_per_second": {"complete": summarize([9e3]), "update": summarize([1e4])},
        "update_matmul_flops_per_image": 4e9,
        "device_peak_bytes": 6 * 2**30,
    }
    promised = {"step: vit dino 512": {"images_per_second": 1.2e4, "bytes": 5.5 * 2**30}}
    items = {"machine": machine, "step: vit": {"losses": [1.0, 2.0], "compile_seconds": 3}}
    items |= {"parity: vit": {"largest": 1e-6}, "step: swin": {"error": "out of memory"}}
    text = str(list(check_rows(items)))
    assert "800 TFLOP/s bfloat16, 3,000 GB/s" in text and "1.0e-06" in text
    assert "FAILED: out of memory" in text
    loop = {"images_per_second": {"device": {"median": 8e3}}, "loop_share_of_step": {"ratio": 0.97}}
    peer = {"images_per_second": {"median": 5e3}}
    costs = {"shares": {"fusion": 0.6, "dot": 0.2}}
    items = {"step: vit dino 512": step, "loop: vit": loop, "peer: vit": peer, "costs: vit": costs}
    assert list(speed_rows(items, machine, promised))[1:] == [
        # 1e4 images/s x 4e9 FLOP of 8e14 FLOP/s
        ("step: vit dino 512", "9,000", "5.0 %", "12,000", "6.0, 5.5"),
        ("loop: vit", "8,000", "0.970 of step"),
        ("peer: vit", "5,000"),
        ("costs: vit", ""),
        ("  60 % fusion", ""),
        ("  20 % dot", ""),
    ]


def test_estimates_are_those_for_this_kind_of_device(tmp_path):
    about = {"model": "vit", "stage": "pretrain", "batch_size": 512, "bytes": {"peak": 7}}
    rows = [
        about | {"target": "h100", "devices": 1, "estimated_images_per_second": 9000.0},
        about | {"target": "v5e-8", "devices": 8, "estimated_images_per_second": 8000.0},
        {"target": "h100", "model": "cait", "stage": "pretrain", "error": "no compiler"},
    ]
    file = tmp_path / "compiled.json"
    file.write_text(json.dumps({"rows": rows}))
    for kind, batch, rate in (("NVIDIA H100 80GB HBM3", 512, 9000.0), ("TPU v5 lite", 64, 1000.0)):
        expected = {f"step: vit dino {batch}": {"images_per_second": rate, "bytes": 7}}
        assert estimates(kind, file) == expected
    assert estimates("cpu", file) == estimates("TPU v4", tmp_path / "none.json") == {}


def test_wheels_are_those_the_package_needs():
    versions = needed("smallvit_jax", frozenset(PRESENT | {"matplotlib"}))
    assert versions["flax"] == importlib.metadata.version("flax")
    assert "tensorstore" in versions  # orbax needs it
    assert not {"jax", "numpy", "matplotlib", "contourpy", "pytest"} & versions.keys()


@pytest.mark.slow
def test_rehearsal_runs_everything(tmp_path):
    for name in ("check", "speed", "train"):
        assert accelerator_day.main([name, "--rehearse", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "train.json").exists() and list(tmp_path.glob("run.tar.*"))
