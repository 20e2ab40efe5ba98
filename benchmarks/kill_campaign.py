"""Kills runs with SIGKILL at random moments and checks that they end as if uninterrupted.

    python -m benchmarks.kill_campaign --kills 36 --out benchmarks/results/kill_campaign_cpu.json

Tiny jobs on the digits are killed a random delay after they have written something (`TRIGGERS`). A
killed run is restarted with the same command until it has been killed often enough, then left to
finish and compared with an uninterrupted run: every array of the last checkpoints, every byte of
`metrics.jsonl`, and `result.json` except for times. Exits with 1 if anything differs.
"""

import argparse
import dataclasses
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.quick_programs import use_quick_programs

use_quick_programs()  # before anything imports JAX

from smallvit_jax.process.terminal import print_table  # noqa: E402
from smallvit_jax.workdir.environment import environment  # noqa: E402
from tests.support.tiny_jobs import checkpoint_steps, finish, read_checkpoint, read_json, start_job  # noqa: E402

CASES = tuple(itertools.product(("pretrain", "finetune", "recipe"), ("device", "host")))
# 144 images in 12 batches per epoch; checkpoints every 5 steps, so mostly within an epoch.
SETTINGS = {
    "pretrain__batch_size": 12,
    "pretrain__epochs": 5,
    "finetune__batch_size": 12,
    "finetune__epochs": 5,
    "runtime__checkpoint_every": 5,
}
TIMES = ("seconds", "images_per_second")  # fields of result.json that may differ
STEPS_PER_EPOCH = 12
_PATIENCE = 300.0  # seconds in which a run must end or reach its trigger


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a run has written so far."""

    opened: frozenset  # event files; a stage opens one before it compiles
    half_written: frozenset
    finished: frozenset
    results: frozenset
    training: int  # lines of metrics.jsonl
    epochs: int  # lines that end an epoch, just before an evaluation
    evaluations: int


def look(workdir: Path) -> Seen:
    """Reads a run's files, leaving out what cannot be read yet."""
    folders = [workdir, *(path for path in workdir.glob("*") if path.is_dir())]
    steps = [path for folder in folders for path in folder.glob("checkpoints/[0-9]*")]
    rows = []
    for path in (folder / "metrics.jsonl" for folder in folders):
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:  # the line is incomplete
                continue
    training = [row for row in rows if row["split"] == "train"]
    return Seen(
        opened=frozenset(path for folder in folders for path in folder.glob("events.*")),
        half_written=frozenset((path, _number(path)) for path in steps if "tmp" in path.name),
        finished=frozenset(path for path in steps if path.name.isdecimal()),
        results=frozenset(path for folder in folders for path in folder.glob("result.json")),
        training=len(training),
        epochs=sum(row["step"] % STEPS_PER_EPOCH == 0 for row in training),
        evaluations=len(rows) - len(training),
    )


def _number(path: Path) -> int:
    """Inode number, which distinguishes a file from an earlier one with the same name."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


@dataclasses.dataclass(frozen=True)
class Trigger:
    """When to kill a run: a random delay after `reached(before, now)` becomes true."""

    reached: Callable[[Seen, Seen], bool]
    longest_delay: float  # seconds
    fresh_cache: bool = False  # empty compilation cache, so that compiling takes long


TRIGGERS = {
    "starting": Trigger(lambda before, now: True, 4.0),
    "compiling": Trigger(
        lambda before, now: bool(now.opened - before.opened), 3.0, fresh_cache=True
    ),
    "training": Trigger(lambda before, now: now.training > before.training, 0.1),
    "evaluating": Trigger(lambda before, now: now.epochs > before.epochs, 0.02),
    "after an evaluation": Trigger(lambda before, now: now.evaluations > before.evaluations, 0.01),
    "writing a checkpoint": Trigger(
        lambda before, now: bool(now.half_written - before.half_written), 0.02
    ),
    "after a checkpoint": Trigger(lambda before, now: bool(now.finished - before.finished), 0.02),
    "after a stage": Trigger(lambda before, now: bool(now.results - before.results), 0.5),
}


def kill_once(job: str, workdir: Path, name: str, delay: float, **settings):
    """Starts a run and kills it; returns what it has written, or None if it ended first."""
    trigger = TRIGGERS[name]
    with tempfile.TemporaryDirectory() as empty:
        before = look(workdir)
        cache = Path(empty) if trigger.fresh_cache else None
        process = start_job(job, workdir, cache=cache, **settings)
        try:
            deadline = time.monotonic() + _PATIENCE
            while process.poll() is None and not trigger.reached(before, look(workdir)):
                if time.monotonic() > deadline:
                    raise TimeoutError(f'{job} did not reach "{name}" within {_PATIENCE:.0f} s')
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            process.kill()
            _, errors = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return look(workdir)
    if process.returncode != 0:
        raise RuntimeError(f"{job} failed without being killed: {errors}")
    return None


def run_case(
    job: str, placement: str, folder: Path, triggers: list[tuple[str, float]]
) -> dict[str, Any]:
    """Kills one job at each (trigger, delay) in turn and compares it with an uninterrupted run.

    A run that ends before it is killed is compared, and a new run gets the remaining kills.
    """
    settings = SETTINGS | {"runtime__data_placement": placement}
    whole = folder / "whole"
    finish(start_job(job, whole, **settings))
    case = {"job": job, "placement": placement, "kills": [], "runs": 0, "differences": []}
    left = list(triggers)
    while left:
        workdir = folder / f"killed{case['runs']}"
        case["runs"] += 1
        while left:
            name, delay = left.pop(0)
            seen = kill_once(job, workdir, name, delay, **settings)
            if seen is None:  # it ended first
                break
            case["kills"].append(
                {
                    "trigger": name,
                    "delay": round(delay, 4),
                    "training_lines": seen.training,
                    "newest_checkpoint": max((int(p.name) for p in seen.finished), default=None),
                    "half_written_checkpoint": bool(seen.half_written),
                }
            )
        else:
            finish(start_job(job, workdir, **settings))
        case["differences"] += compare(whole, workdir)
    case["arrays"] = sum(len(_arrays(stage)) for stage in stages(whole))
    return case


def stages(workdir: Path) -> list[Path]:
    """The stage folders of a run that have checkpoints."""
    return sorted(path.parent for path in workdir.rglob("checkpoints"))


def compare(whole: Path, other: Path) -> list[str]:
    """Lists all differences between two finished runs, except for times."""
    found = []
    for stage in stages(whole):
        name, twin = stage.relative_to(whole), other / stage.relative_to(whole)
        if checkpoint_steps(stage)[-1] != checkpoint_steps(twin)[-1]:
            found.append(f"{name}: last step")
        expected, actual = _arrays(stage), _arrays(twin)
        found += [
            f"{name}: {key}"
            for key in sorted(expected.keys() | actual.keys())
            if expected.get(key) != actual.get(key)
        ]
        if (stage / "metrics.jsonl").read_bytes() != (twin / "metrics.jsonl").read_bytes():
            found.append(f"{name}: metrics.jsonl")
    for file in sorted(whole.rglob("result.json")):
        twin = other / file.relative_to(whole)
        if _without_times(read_json(file), whole) != _without_times(read_json(twin), other):
            found.append(str(file.relative_to(whole)))
    return found


def _arrays(stage: Path) -> dict[str, tuple[str, tuple, bytes]]:
    """Every array of the newest checkpoint, as dtype, shape and bytes."""
    return {
        f"{item}.{name}": (array.dtype.name, array.shape, array.tobytes())
        for item in ("state", "params")
        for name, array in read_checkpoint(stage, item)[0].items()
    }


def _without_times(value: Any, workdir: Path) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v, workdir) for k, v in value.items() if k not in TIMES}
    return value.replace(str(workdir), "") if isinstance(value, str) else value


def draw_triggers(generator: random.Random, job: str, count: int) -> list[tuple[str, float]]:
    """Draws random moments, each kind about equally often; only a recipe has a next stage."""
    names = [name for name in TRIGGERS if job == "recipe" or name != "after a stage"]
    rounds = [generator.sample(names, len(names)) for _ in range(-(-count // len(names)))]
    chosen = list(itertools.chain(*rounds))[:count]
    return [(name, generator.uniform(0, TRIGGERS[name].longest_delay)) for name in chosen]


def run_campaign(kills: int, seed: int) -> dict[str, Any]:
    """Spreads the kills evenly over `CASES`; returns the results, ready for JSON."""
    generator, started = random.Random(seed), time.monotonic()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (job, placement) in enumerate(CASES):
            share = kills // len(CASES) + (number < kills % len(CASES))
            triggers = draw_triggers(generator, job, share)
            where = Path(folder) / f"{job}_{placement}"
            cases.append(run_case(job, placement, where, triggers))
            print(f"{job}, {placement}: {_row(cases[-1])[1:]}", file=sys.stderr, flush=True)
    return {
        "command": f"python -m benchmarks.kill_campaign --kills {kills} --seed {seed}",
        "environment": environment(),
        "kills": sum(len(case["kills"]) for case in cases),
        "by_trigger": dict(Counter(kill["trigger"] for c in cases for kill in c["kills"])),
        "half_written_checkpoints": sum(
            kill["half_written_checkpoint"] for c in cases for kill in c["kills"]
        ),
        "differences": sum(len(case["differences"]) for case in cases),
        "seconds": round(time.monotonic() - started, 1),
        "cases": cases,
    }


def _row(case: dict[str, Any]) -> tuple:
    half = sum(kill["half_written_checkpoint"] for kill in case["kills"])
    name = f"{case['job']}, {case['placement']}"
    return name, len(case["kills"]), half, case["runs"], case["arrays"], len(case["differences"])


def main() -> int:
    """Runs the campaign, prints its table and returns 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    flags = parser.parse_args()
    record = run_campaign(flags.kills, flags.seed)
    if flags.out:
        flags.out.write_text(json.dumps(record, indent=1) + "\n")
    header = ("job, images", "kills", "while writing a checkpoint", "runs", "arrays", "differences")
    print_table(f"{record['kills']} kills", [header, *map(_row, record["cases"])])
    return 1 if record["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
