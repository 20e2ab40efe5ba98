"""Damages a run in every way that may occur and records what the user sees.

    python -m benchmarks.damage_table --out benchmarks/results/damage_cpu.json

A tiny fine-tuning run is copied without its result, damaged, and restarted with the same command.
Prints a Markdown table; exits with 1 if a resumed run ends with different bits. Mounts small file
systems (`unshare`, Linux).
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.kill_campaign import compare  # first: it sets how programs are compiled
from smallvit_jax.workdir.environment import environment
from smallvit_jax.workdir.ownership import locked
from tests.checkpoints.cases import flip_stored_array, largest_file
from tests.data.tiny_tfds import encode, tiny_images, write_tfds
from tests.support.tiny_jobs import command, run_job

SETTINGS = {
    "dataset__name": "cifar10",
    "dataset__train_fraction": 1.0,
    "finetune__batch_size": 12,
    "runtime__checkpoint_every": 7,
}
STEPS = 16  # 96 images in batches of 12, two epochs; checkpoints at steps 14 and 16


def _newest(run: Path) -> Path:
    return run / "checkpoints" / str(STEPS)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _make_foreign(folder: Path) -> None:
    _empty(folder)
    (folder / "default").write_text("written by another program")


def _damage_all(run: Path) -> None:
    for step in (run / "checkpoints").iterdir():
        shutil.rmtree(step / "state")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda run: None,
    "largest file of the newest checkpoint cut in half": lambda run: os.truncate(
        largest_file(_newest(run) / "state"),
        largest_file(_newest(run) / "state").stat().st_size // 2,
    ),
    "half of the newest checkpoint deleted": lambda run: shutil.rmtree(_newest(run) / "state"),
    "newest checkpoint emptied": lambda run: _empty(_newest(run)),
    "one bit of an array flipped": lambda run: flip_stored_array(_newest(run) / "state"),
    "newest checkpoint replaced by another program's": lambda run: _make_foreign(_newest(run)),
    "a half-written checkpoint left behind": lambda run: shutil.copytree(
        _newest(run), run / "checkpoints/18.orbax-checkpoint-tmp"
    ),
    "every checkpoint damaged": _damage_all,
    "last line of metrics.jsonl cut": lambda run: os.truncate(
        run / "metrics.jsonl", (run / "metrics.jsonl").stat().st_size - 9
    ),
    "config.json cut": lambda run: os.truncate(run / "config.json", 40),
}


def again(run: Path, **changes) -> tuple[int, list[str]]:
    """Reruns the same command in this process; returns its exit code, warnings and errors."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = run_job("finetune", run, **SETTINGS, **changes)
    return code, _sentences(err.getvalue())


def _sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("warning:", "error:"))]


def in_use(run: Path) -> tuple[int, list[str]]:
    """Another live run uses the workdir."""
    with locked(run):
        return again(run)


def another_field(run: Path) -> tuple[int, list[str]]:
    """The same workdir with more epochs."""
    return again(run, finetune__epochs=3)


def no_dataset(run: Path) -> tuple[int, list[str]]:
    """The dataset is missing."""
    data = Path(os.environ["TFDS_DATA_DIR"])
    data.rename(f"{data}_gone")
    try:
        return again(run)
    finally:
        Path(f"{data}_gone").rename(data)


def mounted(options: str, fill: bool):
    """Runs the command in a workdir on its own file system, with a copy of the run."""

    def start(run: Path) -> tuple[int, list[str]]:
        (run / "checkpoints" / str(STEPS)).rename(f"{run}_newest")  # leaves steps to run
        copy = Path(f"{run}_copy")
        shutil.copytree(run, copy)
        ballast = f"head -c 99m /dev/zero > {run}/ballast 2>/dev/null; " if fill else ""
        script = (
            f"mount -t tmpfs -o size=6m none {run} && cp -r {copy}/. {run} && {ballast}"
            f'mount -o remount,{options} {run} && exec "$@"'
        )
        words = command("finetune", run, **SETTINGS)
        python = [sys.executable, "-m", "smallvit_jax.main", *words]
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *python],
            capture_output=True,
            text=True,
        )
        return done.returncode, _sentences(done.stderr)

    return start


STARTS: dict[str, Callable[[Path], tuple[int, list[str]]]] = {
    "another run live in the workdir": in_use,
    "finetune.epochs raised from 2 to 3": another_field,
    "dataset deleted": no_dataset,
    "workdir read-only": mounted("ro", fill=False),
    "disk full": mounted("rw", fill=True),
}


def run_table(folder: Path) -> list[dict[str, Any]]:
    """Creates the run and returns one row for each kind of damage."""
    images, labels = tiny_images(96)
    examples = [(encode(image), int(label)) for image, label in zip(images, labels, strict=True)]
    write_tfds(folder / "data", {"train": examples, "test": examples[:24]})
    os.environ["TFDS_DATA_DIR"] = str(folder / "data")
    whole = folder / "whole"
    code, seen = again(whole)
    assert code == 0, seen
    rows = []
    for name, damage in (DAMAGES | STARTS).items():
        run = folder / "run"
        shutil.copytree(whole, run)
        (run / "result.json").unlink()
        if name in DAMAGES:
            damage(run)
            code, seen = again(run)
        else:
            code, seen = damage(run)
        row = {"damage": name, "exit_code": code}
        row["seen"] = [line.replace(str(run), "runs/x").replace(str(folder), ".") for line in seen]
        row["differences"] = compare(whole, run) if code == 0 else None
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        for path in folder.glob("run*"):
            shutil.rmtree(path)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table for the documentation."""
    lines = ["| damage | what the user sees | exit code | result |", "|---|---|---|---|"]
    for row in rows:
        seen = "<br>".join(row["seen"]) or "nothing; the run resumes"
        differing = ", ".join(row["differences"] or ())
        end = f"differs in {differing.replace('.: ', '')}" if differing else "identical bits"
        end = "stopped" if row["differences"] is None else end
        lines.append(f"| {row['damage']} | {seen} | {row['exit_code']} | {end} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table and returns 1 if a resumed run ended with different bits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run_table(Path(folder))
    record = {
        "command": "python -m benchmarks.damage_table",
        "environment": environment(),
        "rows": rows,
    }
    if flags.out:
        flags.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(markdown(rows))
    return int(any(row["differences"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
