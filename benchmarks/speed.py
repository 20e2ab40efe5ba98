"""Measures training speed: `python -m benchmarks.speed [--quick] [--out FILE]`.

Prints progress on stderr and tables at the end, and writes every figure as JSON.
`python -m benchmarks.speed --table FILE...` prints the tables of earlier results as Markdown.
See docs/speed.md for the meaning of each figure.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import speed_report
from benchmarks.origin import origin
from benchmarks.processes import ROOT, MeasurementError, Session, is_running, wait
from benchmarks.synthetic_data import write_cifar10
from benchmarks.timing import summarize, summarize_ratio
from smallvit_jax.config.choices import OBJECTIVES

FIGURES = ("help", "step", "augment", "loop", "start", "peer", "feed", "unrolled")


def measure_help(session: Session, _: dict[str, Any]) -> dict[str, Any]:
    """Seconds until `--help` returns."""
    times = []
    for _ in range(session.repeats):
        start = time.perf_counter()
        process, log = session.start("smallvit_jax.main", "--help")
        wait(process, log)
        times.append(time.perf_counter() - start)
    return {"seconds": {**summarize(times), "best": round(min(times), 3)}}


def measure_step(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """The complete step, and the step without augmentation."""
    return session.measure(
        "step",
        **about,
        duration=session.duration,
        repeats=session.repeats,
        parts=["complete", "update"],
    )


def measure_augmentation(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """Augmentation alone: on one core of a CPU, otherwise on the device."""
    about = {name: value for name, value in about.items() if name != "precision"}
    return session.measure(
        "augment",
        **about,
        duration=session.duration,
        repeats=session.repeats,
        pin=session.platform == "cpu",
    )


def measure_loop(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """The whole job against its bare step, and host memory against device memory."""
    quick = session.quick
    return session.measure(
        "loop", **about, duration=1.0 if quick else 4.0, repeats=2 if quick else 4
    )


def measure_feed(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """Photographs that the host path delivers and that fine-tuning at 224 pixels consumes."""
    timing = dict(duration=session.duration, repeats=session.repeats)
    found = session.measure("feed", batch=about["batch"], stored_size=256, **timing)
    step = session.measure("step", **about, **timing, parts=["complete"], image_size=224)
    rates = {
        "feed": found["images_per_second"],
        "step": step["images_per_second"]["complete"],
    }
    return {
        "images_per_second": rates,
        "feed_to_step": round(rates["feed"]["median"] / rates["step"]["median"], 1),
    }


def measure_start(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the command to the end of the first step, with a cold and a warm cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cifar10(folder, images=2 * about["batch"])
        found: dict[str, Any] = {}
        for kind in ("cold", "warm"):
            before = _files(folder / "cache")
            seconds, memory = _first_step(session, about, folder, kind)
            found[f"{kind}_seconds"] = round(seconds, 2)
            found[f"{kind}_peak_rss_bytes"] = memory
            found[f"{kind}_programs_stored"] = len(_files(folder / "cache") - before)
        return found


def _first_step(
    session: Session, about: dict[str, Any], folder: Path, name: str
) -> tuple[float, int]:
    """Runs a job of two steps; returns the seconds to the end of the first, and peak memory."""
    stage = about["stage"]
    settings = {
        f"{stage}.batch_size": about["batch"],
        f"{stage}.epochs": 1,
        "pretrain.knn_every": 0,
        "finetune.passes_per_epoch": 1,
        "runtime.precision": about["precision"],
        "runtime.checkpoint_every": 1,
        "runtime.compilation_cache": folder / "cache",
        "pretrain.objective": about.get("objective", "dino"),
    }
    start = time.perf_counter()
    process, log = session.start(
        "smallvit_jax.main",
        f"--config={ROOT}/configs/{stage}.py:{about['model']},cifar10",
        f"--workdir={folder / name}",
        f"--data_dir={folder}",
        *(f"--config.{field}={value}" for field, value in settings.items()),
        JAX_COMPILATION_CACHE_DIR=str(folder / "cache"),
    )
    metrics, finished = folder / name / "metrics.jsonl", None
    while finished is None and is_running(process):
        if metrics.exists() and '"train"' in metrics.read_text():
            finished = time.perf_counter() - start
        time.sleep(0.01)
    memory = wait(process, log)
    if finished is None:
        raise MeasurementError("the job ended before finishing a step")
    return finished, memory


def _files(folder: Path) -> set[str]:
    """Names of the programs in a compilation cache."""
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if path.name.endswith("-cache")}


def measure_peer(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """Our step without augmentation and the same step in PyTorch, in turns."""
    device = "cpu" if session.platform == "cpu" else "cuda"
    peer = [
        *("--model", about["model"], "--stage", about["stage"]),
        *("--batch", str(about["batch"]), "--device", device),
        *("--duration", str(session.duration), "--repeats", "2"),
        *(["--bf16"] if about["precision"] == "bfloat16" else []),
    ]
    contenders = {
        "ours": lambda: _update_alone(session, about),
        "pytorch": lambda: session.run("benchmarks.pytorch_peer", *peer),
    }
    if session.torch_compile:
        contenders["pytorch_compiled"] = lambda: session.run(
            "benchmarks.pytorch_peer", *peer, "--compile"
        )
    return side_by_side(contenders, session.rounds)


def measure_unrolled(session: Session, about: dict[str, Any]) -> dict[str, Any]:
    """The step with loops over identical blocks, and with unrolled blocks."""
    contenders = {
        "loops": lambda: _update_alone(session, about),
        "unrolled": lambda: _update_alone(session, about, unrolled=True),
    }
    return side_by_side(contenders, session.rounds)


def _update_alone(session: Session, about: dict[str, Any], **options: Any) -> dict[str, Any]:
    return session.measure(
        "step", **about, duration=session.duration, repeats=2, parts=["update"], **options
    )


def side_by_side(contenders: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Runs contenders in turns; ratios compare the first with each of the others."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    found: dict[str, Any] = {}
    for number in range(rounds):
        for name, measure in contenders.items():
            result = measure()
            rate = result["images_per_second"]
            rates[name].append(rate.get("update", rate)["median"])
            if number == 0:  # with an empty compilation cache
                kept = ("compile_seconds", "peak_rss_bytes", "device_peak_bytes")
                found[name] = {key: result[key] for key in kept if result.get(key)}
    first, *others = contenders
    return {
        "images_per_second": {name: summarize(values) for name, values in rates.items()},
        "ratios": {other: summarize_ratio(rates[first], rates[other]) for other in others},
        "first_round": found,
    }


_MEASURES = {
    "help": measure_help,
    "step": measure_step,
    "augment": measure_augmentation,
    "loop": measure_loop,
    "start": measure_start,
    "peer": measure_peer,
    "feed": measure_feed,
    "unrolled": measure_unrolled,
}


def plan(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what to measure, in order: each figure with its settings."""
    if "help" in args.only:
        yield "help", {}
    stages: list[dict[str, str]] = []
    for stage in args.stages:
        others = [objective for objective in args.objectives if objective != "dino"]
        if stage != "pretrain" or "dino" in args.objectives:
            stages.append({"stage": stage})
        if stage == "pretrain":
            stages += [{"stage": stage, "objective": objective} for objective in others]
    for model, stage, batch, precision in itertools.product(
        args.models, stages, args.batch, args.precision
    ):
        about = {"model": model, **stage, "batch": batch, "precision": precision}
        for figure in args.only:
            if figure == "feed" and stage["stage"] != "finetune":
                continue
            ours_alone = figure == "peer" and ("objective" in stage or not _has_torch())
            again = figure == "augment" and (
                precision != args.precision[0] or model != args.models[0]
            )
            if figure != "help" and not ours_alone and not again:
                yield figure, about


def _has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    listed = lambda text: text.split(",")  # noqa: E731
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--models", type=listed, default=["vit"], help="from vit,swin,cait")
    parser.add_argument("--stages", type=listed, default=["pretrain", "finetune"])
    parser.add_argument(
        "--objectives", type=listed, default=["dino"], help=f"from {','.join(OBJECTIVES)}"
    )
    parser.add_argument("--batch", type=numbers, help="default: 16 on a CPU, otherwise 256")
    parser.add_argument("--precision", type=listed, help="default: float32, on a GPU also bfloat16")
    parser.add_argument(
        "--only", type=listed, default=list(FIGURES[:-1]), help=f"from {','.join(FIGURES)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the side-by-side figures")
    parser.add_argument("--torch_compile", action="store_true", help="also run compiled PyTorch")
    parser.add_argument("--quick", action="store_true", help="short, rough trial run")
    parser.add_argument("--out", type=Path, help="default: ./speed_<device>.json")
    parser.add_argument("--table", type=Path, nargs="+", help="only print results as Markdown")
    args = parser.parse_args(words)
    for name, given, known in (
        ("objectives", args.objectives, OBJECTIVES),
        ("only", args.only, FIGURES),
    ):
        if unknown := set(given) - set(known):
            parser.error(
                f"--{name}={','.join(sorted(unknown))} is unknown; choose from {','.join(known)}"
            )
    return args


def main(words: Sequence[str] | None = None) -> int:
    args = parse(words)
    if args.table:
        for file in args.table:
            speed_report.show(json.loads(file.read_text()), markdown=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder), quick=args.quick)
        about = session.measure(
            "machine",
            precisions=args.precision,
            duration=session.duration / 3,
            repeats=session.repeats,
        )
        session.rounds, session.torch_compile = args.rounds, args.torch_compile
        session.platform = about["platform"]
        cpu = session.platform == "cpu"
        args.batch = args.batch or [16 if cpu else 256]
        args.precision = args.precision or (["float32"] if cpu else ["float32", "bfloat16"])
        for figure, what in plan(args):
            measure = _MEASURES[figure]
            session.record(figure, what, lambda m=measure, w=what: m(session, w))
    result = {
        **origin("benchmarks.speed", sys.argv[1:] if words is None else words),
        "cores": about["threads"],
        "machine": about,
        "figures": session.figures,
    }
    kind = about["device_kind"].replace(" ", "_").lower()
    out = args.out or Path(f"speed_{kind}.json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    speed_report.show(result)
    print(f"wrote {out}")
    return int(any("error" in figure for figure in session.figures))


if __name__ == "__main__":
    sys.exit(main())
