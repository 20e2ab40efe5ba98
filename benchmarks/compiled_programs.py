"""What compiles for hardware that is not here: `python -m benchmarks.compiled_programs`.

Runs the job of `configs/compile_check.py` for each model, target and stage, each in its own
process, writes what it counted to a file and prints a table. Programs that are in the file already
are not compiled again, so one table may come from several calls.

With --compare, programs are compiled again and compared with those in the file, which stays as it
is: whatever takes more memory, traffic, operations, collectives or cycles is named.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.origin import origin
from benchmarks.processes import ROOT
from smallvit_jax.config.jobs import STAGES
from smallvit_jax.jobs.steps import STEPS
from smallvit_jax.process.terminal import print_table

MODELS = ("vit", "swin", "cait")
RESULTS = ROOT / "benchmarks" / "compiled_programs.json"
TOLERANCE = 0.03  # other versions of the compilers count a little differently
ALWAYS_COUNTED = ("bytes moved per step", "operations per step", "cycles per step")
TARGETS = ("h100", "v5e-8", "v6e-8", "v5p-8", "v4-8", "tpu7x-8")


def compile_one(model: str, target: str, stage: str, workdir: Path) -> dict[str, Any]:
    """The row of `result.json` for one program, with the model's name; or the job's error."""
    command = [sys.executable, "-m", "smallvit_jax", f"compile_check:{model},cifar10"]
    command += ["--workdir", str(workdir), f"--config.compile_check.targets={target}"]
    command += [f"--config.compile_check.stages={stage}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    about = {"model": model, "target": target, "stage": stage}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return about | {"error": lines[-1][:300]}
    (row,) = json.loads((workdir / "result.json").read_text())["programs"]
    return about | row


def missing(
    rows: Sequence[dict[str, Any]],
    models: Sequence[str],
    targets: Sequence[str],
    stages: Sequence[str],
) -> Iterator[tuple[str, str, str]]:
    """Model, target and stage of each program that is not in the rows or failed."""
    there = {(r["model"], r["target"], r["stage"]) for r in rows if "error" not in r}
    for target in targets:
        for model in models:
            for stage in stages:
                if (model, target, stage) not in there:
                    yield model, target, stage


def grown(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What one program has more of than before, by more than `TOLERANCE`; empty if nothing.

    A row without counts is of a program that failed or was refused, with the reason.
    """
    if "bytes" not in before:
        return []
    if "bytes" not in after:
        return [after.get("error") or after["reason"]]
    found = []
    counts, earlier_counts = _counts(after), _counts(before)
    for name, count in counts.items():
        earlier = earlier_counts.get(name, 0)
        if name in ALWAYS_COUNTED and earlier and not count:
            found.append(f"{name}: nothing was counted, instead of {earlier:,}")
        if count > earlier * (1 + TOLERANCE):
            found.append(f"{name}: {count:,} instead of {earlier:,}")
    return found


def _counts(row: dict[str, Any]) -> dict[str, int]:
    return {
        "bytes of temporaries": row["bytes"]["temporaries"],
        "bytes moved per step": row["bytes_moved_per_step"],
        "operations per step": row["kernels_per_step"],
        "cycles per step": row["cycles_per_step"],
        **{f"{kind} per step": count for kind, count in row["collectives"].items()},
        **{f"bytes of {kind}": count for kind, count in row["collective_bytes"].items()},
    }


def summarize(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each program, by target."""
    head = ("target", "model, stage", "GiB per device, of", "GB moved", "operations")
    table: list[tuple[str, ...]] = [(*head, "all-reduces", "images/s", "compiled in")]
    order = {name: number for number, name in enumerate((*TARGETS, *MODELS, *STEPS))}
    places = ("target", "model", "stage")
    for row in sorted(rows, key=lambda r: [order.get(r[k], len(order)) for k in places]):
        about = (row["target"], f"{row['model']}, {STAGES[row['stage']]}")
        if "bytes" not in row:
            table.append((*about, row.get("error") or row["reason"]))
            continue
        used, whole = (row["bytes"][name] / 2**30 for name in ("peak", "of"))
        sent = row["collective_bytes"].get("all-reduce", 0) / 1e6
        count = row["collectives"].get("all-reduce", 0)
        rate = float(f"{row['estimated_images_per_second']:.2g}")  # it is an estimate
        table.append(
            (
                *about,
                f"{used:.1f} of {whole:.0f}" + ("" if row["fits"] else ": TOO LARGE"),
                f"{row['bytes_moved_per_step'] / 1e9:.1f}",
                f"{row['kernels_per_step']:,}",
                f"{count} ({sent:.1f} MB)" if count else "",
                f"{rate:,.0f}",
                f"{row['compile_seconds']:.0f} s",
            )
        )
    return table


def main() -> int:
    """Compiles what is missing, writing each row as JSON, and prints the table; or compares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--stages", default=",".join(STEPS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of all programs")
    parser.add_argument("--compare", action="store_true", help="compile again and compare")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    wanted = [text.split(",") for text in (args.models, args.targets, args.stages)]
    for names, known in ((wanted[0], MODELS), (wanted[2], tuple(STEPS))):
        if unknown := set(names) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if args.compare:
        return _compare(rows, wanted)
    for program in list(missing(rows, *wanted)):
        print(*program, file=sys.stderr, flush=True)
        row = _compile(program)
        rows = [r for r in rows if _program(r) != program]
        about = origin("benchmarks.compiled_programs", sys.argv[1:])
        rows.append(row | {"commit": about["commit"]})
        args.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    print_table("compiled, not run; images/s are estimates from the programs", summarize(rows))
    return int(any("error" in row for row in rows))


def _compile(program: tuple[str, str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return compile_one(*program, Path(folder) / "run")


def _program(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["target"], row["stage"]


def _compare(rows: Sequence[dict[str, Any]], wanted: Sequence[Sequence[str]]) -> int:
    """Compiles those of the wanted programs again that have a row; 1 if something grew."""
    models, targets, stages = wanted
    more = 0
    for row in rows:
        model, target, stage = program = _program(row)
        if model in models and target in targets and stage in stages:
            sentences = grown(row, _compile(program))
            more += len(sentences)
            print(*program, "; ".join(sentences) or "as before", flush=True)
    return int(more > 0)


if __name__ == "__main__":
    sys.exit(main())
