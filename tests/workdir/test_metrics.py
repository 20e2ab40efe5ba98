"""Metrics, configs and results: strict JSON, no duplicates after a resume, clear errors."""

import json
import math
import os
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit_jax.errors import UserError
from smallvit_jax.process.terminal import format_table
from smallvit_jax.workdir.metrics import RunLog
from smallvit_jax.workdir.records import (
    config_differences,
    read_config,
    read_result,
    write_config,
    write_result,
)


def strict(text: str):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def lines(folder: Path) -> list[dict]:
    return [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard shows: events by file; a session start purges its step and later ones."""
    from tensorboardX.proto.event_pb2 import Event

    shown = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log"):
                shown = [entry for entry in shown if entry[0] < event.step]
            shown += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return shown


def test_each_line_is_one_strict_json_object(tmp_path):
    with RunLog(tmp_path / "new/pretrain", restored_step=None) as log:
        log.write(4, 0.5, "train", {"loss": np.float32(0.1), "steps": jnp.asarray(3)})
        log.write(8, 1, "test", {"accuracy": math.nan, "loss": math.inf, "note": "é"})
        rows = log.read("test")
    assert lines(tmp_path / "new/pretrain") == [
        {"step": 4, "epoch": 0.5, "split": "train", "loss": float(np.float32(0.1)), "steps": 3},
        {
            "step": 8,
            "epoch": 1.0,
            "split": "test",
            "accuracy": "NaN",
            "loss": "Infinity",
            "note": "é",
        },
    ]
    assert len(rows) == 1
    assert math.isnan(rows[0]["accuracy"]) and rows[0]["loss"] == math.inf
    assert rows[0]["note"] == "é"
    shown = {(step, tag): value for step, tag, value in scalars(tmp_path / "new/pretrain")}
    assert shown[4, "train/loss"] == np.float32(0.1) and shown[4, "train/steps"] == 3
    assert math.isnan(shown[8, "test/accuracy"]) and len(shown) == 4


def test_value_cannot_override_the_step(tmp_path):
    with RunLog(tmp_path, restored_step=None) as log, pytest.raises(ValueError, match="step"):
        log.write(1, 0, "train", {"step": 2})


@settings(max_examples=25, deadline=None)
@given(
    last=st.integers(1, 12),
    restored=st.one_of(st.none(), st.integers(0, 12)),
    torn=st.integers(0, 40),
)
def test_resume_keeps_each_line_once_up_to_the_restored_step(
    tmp_path_factory, last, restored, torn
):
    """A run of 14 steps, killed at `last` (in the middle of a line), resumed from `restored`."""
    folder = tmp_path_factory.mktemp("run")

    def rows(first, stop):
        return [
            (step, step / 4, split, {"value": step * 10.0})
            for step in range(first, stop + 1)
            for split in ("train", "knn")
        ]

    log = RunLog(folder, restored_step=None)
    log.write_many(rows(0, last))
    log.flush()
    path = folder / "metrics.jsonl"
    restored = None if restored is None else min(restored, last - 1)
    path.write_bytes(path.read_bytes()[: -torn or None])  # the last line has at least 51 bytes
    with RunLog(folder, restored_step=restored) as log:
        kept = [row["step"] for row in log.read("train")]
        assert kept == list(range(0, (-1 if restored is None else restored) + 1))
        log.write_many(rows(len(kept), 14))
    expected = [(step, split, step * 10.0) for step in range(15) for split in ("train", "knn")]
    assert [(r["step"], r["split"], r["value"]) for r in lines(folder)] == expected
    assert scalars(folder) == [(step, f"{split}/value", v) for step, split, v in expected]


def test_torn_line_that_is_not_rewritten_gives_a_warning(tmp_path):
    with RunLog(tmp_path, restored_step=None) as log:
        log.write_many([(step, 0, "test", {"a": step}) for step in (1, 2)])
    os.truncate(tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").stat().st_size - 5)
    with pytest.warns(UserWarning, match="was damaged: lines of step 2 are lost"):
        RunLog(tmp_path, restored_step=2).close()


def test_inactive_process_reads_but_writes_nothing(tmp_path):
    with RunLog(tmp_path, restored_step=None) as log:
        log.write_many([(1, 0, "test", {"a": 1}), (2, 0, "test", {"a": 2})])
    before = sorted(os.listdir(tmp_path)), (tmp_path / "metrics.jsonl").read_bytes()
    with RunLog(tmp_path, restored_step=1, active=False) as log:
        log.write(2, 0, "test", {"a": 3})
        log.flush()
        assert [(row["step"], row["a"]) for row in log.read("test")] == [(1, 1), (2, 3)]
    assert before == (sorted(os.listdir(tmp_path)), (tmp_path / "metrics.jsonl").read_bytes())


def test_unwritable_workdir_gets_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/pretrain"):
        for action in (
            lambda: RunLog(folder, restored_step=None),  # noqa: B023
            lambda: write_config(folder, {}),  # noqa: B023
            lambda: write_result(folder, {}),  # noqa: B023
        ):
            with pytest.raises(UserError, match="is a file, but a folder is needed; choose"):
                action()
    if Path("/proc/self").is_dir():
        with pytest.raises(UserError, match="/proc/self/x cannot be written"):
            RunLog("/proc/self/x", restored_step=None)
    if os.getuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match=r"locked cannot be written \(permission denied\)"):
            RunLog(tmp_path / "locked", restored_step=None)


def test_full_disk_gets_one_sentence(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / f".config.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"the disk holding .*config.json is full; free space and"):
        write_config(tmp_path, {"a": 1})


def test_config_differences_are_listed():
    old = {"seed": 0, "views": {"scale": [0.4, 1.0], "flip": 0.5}, "gone": 1, "width": None}
    new = {"seed": 0, "views": {"scale": (0.4, 1.0), "flip": 0.0}, "added": (1, 2)}
    assert config_differences(old, new) == [
        ("views.flip", 0.5, 0.0),
        ("gone", 1, None),
        ("added", None, [1, 2]),
    ]


def test_config_survives_a_round_trip(tmp_path):
    config = {"seed": 3, "model": {"name": "vit", "scale": (0.1, 1 / 3), "width": None}}
    assert read_config(tmp_path) is None
    write_config(tmp_path, config)
    assert config_differences(read_config(tmp_path), config) == []
    (tmp_path / "config.json").write_text('{"seed"')
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        read_config(tmp_path)


def test_result_is_strict_json_with_the_environment(tmp_path):
    assert read_result(tmp_path / "finetune") is None
    write_result(tmp_path / "finetune", {"accuracy": np.float64(0.5), "loss": math.nan})
    result = read_result(tmp_path / "finetune")
    assert result["accuracy"] == 0.5 and result["loss"] == "NaN"
    assert result["environment"]["versions"]["numpy"] == np.__version__
    strict((tmp_path / "finetune/result.json").read_text())
    assert os.listdir(tmp_path / "finetune") == ["result.json"]


def test_table_columns_are_aligned():
    rows = [("top-1 accuracy", "61.2 %"), ("kNN", "8.0 %", "raw 3.1 %"), ("time", 12)]
    assert format_table("cifar10", rows).splitlines() == [
        "cifar10",
        "  top-1 accuracy  61.2 %",
        "  kNN              8.0 %  raw 3.1 %",
        "  time                12",
    ]
