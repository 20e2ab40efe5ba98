"""The first hour on a GPU or TPU: `python -m benchmarks.accelerator_day PART --out FOLDER`.

    check    the device's measured ceilings; every family, stage and precision takes a step; parity
             with the recorded outputs; a step here and on the CPU
    speed    images/s of step and job against the ceilings, against PyTorch and the estimates from
             the compiled programs; the costliest operations
    train    pre-trains and fine-tunes on CIFAR-10 as far as the time goes

Each part writes FOLDER/PART.json after every item, skips what is already there, starts nothing that
may end after --minutes, and prints a table last: give the same command again to go on. `--rehearse`
does all of it with the smallest models, to see on a CPU that everything runs.
"""

import argparse
import functools
import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.origin import origin
from benchmarks.processes import ROOT, MeasurementError, Session
from smallvit_jax.plans.hardware import read_targets
from tests.support.quick_programs import use_quick_programs

FAMILIES = ("vit", "swin", "cait")
STAGES = {  # what a training step is of: its stage and objective
    "dino": {"stage": "pretrain"},
    "lejepa": {"stage": "pretrain", "objective": "lejepa"},
    "mae": {"stage": "pretrain", "objective": "mae"},
    "finetune": {"stage": "finetune"},
}
BATCHES = (128, 256, 512, 1024)
PARITY_LIMIT = 1e-4  # float32 on a GPU sums in another order than the CPU that the limits are of
SLOWEST_ITEM = 360.0  # seconds to expect of an item before any was measured; compiling takes most
COMPILED = ROOT / "benchmarks/compiled_programs.json"  # by benchmarks.compiled_programs
TINY = {  # --rehearse
    "vit": {"width": 8, "depth": 1, "heads": 2},
    "swin": {"width": 4, "heads": 1},
    "cait": {"width": 8, "depth": 1, "heads": 2},
}
CHUNK = 15 * 2**20  # bytes of each piece of a packed run

Item = tuple[str, Callable[[], dict[str, Any]]]


class Part:
    """Runs the items of one part that are not in its file yet, while there is time."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.file = args.out / f"{name}.json"
        self._deadline = time.monotonic() + 60 * args.minutes
        self.found: dict[str, Any] = {"items": {}}
        if self.file.exists():
            self.found = json.loads(self.file.read_text())
        self.found |= origin("benchmarks.accelerator_day", sys.argv[1:])

    def run(self, items: Iterator[Item]) -> bool:
        """Returns whether all items are done; a failed one is recorded and not tried again."""
        for key, measure in items:
            if key in self.found["items"]:
                continue
            left = self._deadline - time.monotonic()
            if left < self._longest(key) and self.found["items"]:
                print(f"{key} and what follows: not enough time; give the same command again")
                return False
            print(f"[{left:4.0f} s left] {key}", file=sys.stderr, flush=True)
            started = time.monotonic()
            try:
                result = measure()
            except Exception as error:  # the other items still run
                traceback.print_exc()
                result = {"error": f"{type(error).__name__}: {error}"[:500]}
            result["seconds"] = round(time.monotonic() - started, 1)
            self.found["items"][key] = result
            self.save()
        return True

    def _longest(self, key: str) -> float:
        """Seconds of the longest item of this kind so far."""
        kind = key.partition(":")[0]
        alike = [f["seconds"] for k, f in self.found["items"].items() if k.startswith(kind)]
        return 1.2 * max(alike, default=SLOWEST_ITEM)

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")


def check_items(rehearse: bool) -> Iterator[Item]:
    """Ceilings, a step of everything, parity, and a step on both devices."""
    yield "machine", functools.partial(measure_machine, rehearse)
    for family, name in _steps_to_take(rehearse):
        for precision in ("float32", "bfloat16"):
            step = functools.partial(take_step, family, STAGES[name], precision, rehearse)
            yield f"step: {family} {name} {precision}", step
    for tokens in (17, 65):
        yield f"attention: {tokens} tokens", functools.partial(compare_attention, tokens, rehearse)
    for family in FAMILIES[:1] if rehearse else FAMILIES:
        yield f"parity: {family}", functools.partial(measure_parity, family, rehearse)
        for name, about in STAGES.items():
            if name in ("dino", "finetune"):
                compare = functools.partial(compare_with_cpu, family, about, rehearse)
                yield f"as on the CPU: {family} {name}", compare


def _steps_to_take(rehearse: bool) -> Iterator[tuple[str, str]]:
    """Families and stages, without those that are refused or that compile for minutes on a CPU."""
    for family in FAMILIES:
        for name in STAGES:
            refused = name == "mae" and family != "vit"
            long = rehearse and family != "vit" and name != "finetune"
            if not refused and not long:
                yield family, name


def measure_machine(rehearse: bool) -> dict[str, Any]:
    """Versions, rate of matrix products and bandwidth of copies within the device's memory."""
    import jax
    import jax.numpy as jnp

    from benchmarks.measure import machine
    from benchmarks.timing import interleaved_rates

    found = machine(["float32", "bfloat16"], 0.1 if rehearse else 1.0, 2 if rehearse else 5)
    values = jnp.zeros((1 if rehearse else 256) * 2**20, jnp.float32)
    copy = jax.jit(lambda x: x + 1)  # reads and writes each value once

    def run(count):
        for _ in range(count):
            result = copy(values)
        result.block_until_ready()

    rate = interleaved_rates({"copy": run}, 1, 0.1 if rehearse else 0.5, 3)["copy"]
    return found | {"copy_bytes_per_second": rate["best"] * 2 * values.nbytes}


def _steps(family: str, about: dict[str, str], precision: str, batch: int, rehearse: bool):
    from benchmarks.training_steps import make_steps

    options = TINY[family] if rehearse else {}
    about = {key: value for key, value in about.items() if key != "stage"} | options
    return lambda stage: make_steps(family, stage, batch, precision, **about)


def take_step(family: str, about: dict[str, str], precision: str, rehearse: bool) -> dict[str, Any]:
    """Compiles the complete step and takes it twice; the losses must be finite."""
    import jax
    import numpy as np

    steps = _steps(family, about, precision, 2 if rehearse else 64, rehearse)(about["stage"])
    arguments = (steps.images, steps.labels, jax.random.key(0), steps.schedule)
    started = time.perf_counter()
    program = jax.jit(steps.complete).lower(steps.state, *arguments).compile()
    compiling = time.perf_counter() - started
    state, first = program(steps.state, *arguments)
    _, second = program(state, *arguments)
    losses = [float(first["loss"]), float(second["loss"])]
    if not np.isfinite(losses).all():
        raise MeasurementError(f"losses {losses}")
    return {"losses": losses, "compile_seconds": round(compiling, 1)}


def measure_parity(family: str, rehearse: bool) -> dict[str, Any]:
    """The largest differences from the recorded outputs of the PyTorch reference."""
    from benchmarks import parity
    from smallvit_jax.process import runtime

    runtime.prepare("float32", "", True)
    if rehearse:
        recorded = parity.read_golden(f"model_{family}_32")
        model = parity.filled_model(family, num_classes=10)
        part, size, tag = parity.RESOLUTIONS[0]
        found = parity.output_differences(model, recorded[part], size, tag, lambda f: f)
        worst = {name: value for name, (value, _) in found.worst.items()}
    else:
        worst = parity._training_differences(family, parity._Progress(4))
    worst = {name: float(value) for name, value in worst.items()}
    return {
        "largest": max(worst.values()),
        "limit": PARITY_LIMIT,
        "above": sorted(name for name, value in worst.items() if value > PARITY_LIMIT),
        "differences": worst,
    }


def compare_with_cpu(family: str, about: dict[str, str], rehearse: bool) -> dict[str, Any]:
    """Loss and gradient norm of a float32 step from ready views, here and on the host's CPU."""
    import jax

    steps = _steps(family, about, "float32", 2 if rehearse else 16, rehearse)(about["stage"])
    arguments = (steps.state, steps.ready, jax.random.key(0), steps.schedule)
    metrics = {}
    for name, device in (("here", jax.devices()[0]), ("cpu", jax.devices("cpu")[0])):
        moved = jax.device_put(arguments, device)
        metrics[name] = {k: float(v) for k, v in jax.jit(steps.update)(*moved)[1].items()}
    relative = {
        name: abs(metrics["here"][name] - value) / max(abs(value), 1e-30)
        for name, value in metrics["cpu"].items()
        if name in ("loss", "gradient_norm")
    }
    return {"relative_differences": relative, "largest": max(relative.values()), **metrics}


def compare_attention(tokens: int, rehearse: bool) -> dict[str, Any]:
    """The attention of this platform against plain products, in bfloat16: outputs and gradients."""
    import jax
    import jax.numpy as jnp

    from smallvit_jax.models.attention import attend
    from smallvit_jax.models.fused_attention import fused_attend
    from smallvit_jax.models.lane_attention import attend_in_lanes

    crops = 2 if rehearse else 512
    keys = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(keys[0], (crops, tokens, 3, 12, 16), jnp.bfloat16)
    gradient = jax.random.normal(keys[1], (crops, tokens, 12, 16), jnp.bfloat16)

    def both(attention):
        values, backward = jax.vjp(attention, qkv)
        return values, backward(gradient)[0]

    special = attend_in_lanes if jax.default_backend() == "tpu" else fused_attend
    found = jax.jit(both, static_argnums=0)(special)
    expected = jax.jit(both, static_argnums=0)(lambda x: attend(*(x[:, :, i] for i in range(3))))
    differences = {
        name: float(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max())
        for name, a, b in zip(("outputs", "gradients"), found, expected, strict=True)
    }
    return {"largest": max(differences.values()), **differences}


def check_rows(items: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each item: the ceilings, losses, or the largest difference."""
    for key, found in items.items():
        if "error" in found:
            yield key, f"FAILED: {found['error'][:90]}"
        elif key == "machine":
            rates = found["matmul_flops_per_second"]
            peaks = ", ".join(f"{rate / 1e12:.3g} TFLOP/s {name}" for name, rate in rates.items())
            bandwidth = f"{found['copy_bytes_per_second'] / 1e9:,.0f} GB/s copied"
            yield key, f"{found['device_kind']}: {peaks}, {bandwidth}"
        elif "losses" in found:
            first, second = found["losses"]
            yield key, f"loss {first:.3f}, {second:.3f}; compiled in {found['compile_seconds']} s"
        else:
            yield key, f"largest difference {found['largest']:.1e}"


def speed_items(rehearse: bool, session: Session) -> Iterator[Item]:
    """Each measurement runs in a process of its own."""
    timing = {"duration": 0.1 if rehearse else 1.0, "repeats": 2 if rehearse else 3}
    batches = (2,) if rehearse else BATCHES

    def measure(what: str, family: str, about: dict[str, str], batch: int, **more: Any):
        options = TINY[family] if rehearse else {}
        arguments = {"model": family, "batch": batch, "precision": "bfloat16", **about, **options}
        return session.measure(what, **arguments, **timing, **more)

    middle = batches[len(batches) // 2]
    for batch in (middle, *(batch for batch in batches if batch != middle)):
        for family, name in _steps_to_take(rehearse):
            if batch == middle or name in ("dino", "finetune"):
                step = functools.partial(measure, "step", family, STAGES[name], batch)
                both = functools.partial(step, parts=["complete", "update"])
                yield f"step: {family} {name} {batch}", both
    if session.platform != "tpu":  # which has no such switch
        what = {"plain_attention": True, "parts": ["complete", "update"]}
        plain = functools.partial(measure, "step", "vit", STAGES["dino"], middle, **what)
        yield f"step: vit dino {middle}, plain attention", plain
    for name in ("dino",) if rehearse else ("dino", "finetune"):
        profile = functools.partial(costliest_operations, "vit", STAGES[name], middle, rehearse)
        yield f"costs: vit {name} {middle}", profile
    for name in ("finetune",) if rehearse else ("dino", "finetune"):
        yield (
            f"loop: vit {name} {middle}",
            functools.partial(measure, "loop", "vit", STAGES[name], middle),
        )
    if not rehearse:
        for family in FAMILIES:
            for name in ("dino", "finetune"):
                peer = functools.partial(measure_peer, session, family, STAGES[name], middle)
                yield f"peer: {family} {name} {middle}", peer


def measure_peer(
    session: Session, family: str, about: dict[str, str], batch: int
) -> dict[str, Any]:
    """The same step in plain PyTorch."""
    words = ["--model", family, "--stage", about["stage"], "--batch", str(batch)]
    words += ["--device", "cpu" if session.platform == "cpu" else "cuda", "--bf16"]
    words += ["--duration", "1.0", "--repeats", "3"]
    return session.run("benchmarks.pytorch_peer", *words)


def costliest_operations(
    family: str, about: dict[str, str], batch: int, rehearse: bool, steps_traced: int = 5
) -> dict[str, Any]:
    """Share of the device's time of the operations that take most, from a profile of some steps."""
    import jax

    steps = _steps(family, about, "bfloat16", batch, rehearse)(about["stage"])
    arguments = (steps.images, steps.labels, jax.random.key(0), steps.schedule)
    program = jax.jit(steps.complete).lower(steps.state, *arguments).compile()
    state, _ = jax.block_until_ready(program(steps.state, *arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps_traced):
                state, _ = program(state, *arguments)
            jax.block_until_ready(state)
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    times = _times_by_operation(events)
    total = sum(times.values()) or 1.0
    return {
        "microseconds_per_step": total / steps_traced,
        "operations": len(times),
        "shares": {name: time / total for name, time in times.most_common(5)},
    }


def _times_by_operation(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """Microseconds by operation, on devices if the trace has any, else on the host's threads."""
    names = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event.get("name") == "process_name"
    }
    devices = {pid for pid, name in names.items() if "/device:" in name}
    times: Counter[str] = Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        if event.get("ph") == "X" and operation and (not devices or event["pid"] in devices):
            source = event["args"].get("source", "")
            place = f" ({source.rsplit('smallvit_jax/', 1)[-1]})" if source else ""
            times[operation.rstrip(".0123456789") + place] += event["dur"]
    return times


def estimates(device_kind: str, file: Path = COMPILED) -> dict[str, dict[str, float]]:
    """The estimates from the programs compiled for this kind of device, by item of the part speed.

    Images/s and bytes of memory per device, for the device's part of the batch.
    """
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    found = {}
    for row in rows:
        (target,) = read_targets(row["target"])
        if target.chip.device_kind == device_kind and "bytes" in row:
            name = "dino" if row["stage"] == "pretrain" else row["stage"]
            batch = row["batch_size"] // row["devices"]
            found[f"step: {row['model']} {name} {batch}"] = {
                "images_per_second": row["estimated_images_per_second"] / row["devices"],
                "bytes": row["bytes"]["peak"],
            }
    return found


def speed_rows(
    items: dict[str, Any], machine: dict[str, Any], estimated: dict[str, dict[str, float]]
) -> Iterator[tuple[str, ...]]:
    """A row for each item: images/s, their share of a ceiling, and the estimates."""
    peak = machine.get("matmul_flops_per_second", {}).get("bfloat16")
    yield "", "images/s", "share of the measured peak", "estimated images/s", "GiB used, planned"
    for key, found in items.items():
        if "error" in found:
            yield key, f"FAILED: {found['error'][:90]}"
        elif "shares" in found:
            yield key, ""
            for name, share in found["shares"].items():
                yield f"  {100 * share:.0f} % {name}", ""
        elif key.startswith("step"):
            rates = {part: rate["median"] for part, rate in found["images_per_second"].items()}
            used = rates["update"] * found["update_matmul_flops_per_image"]
            share = f"{100 * used / peak:.1f} %" if peak else "-"
            yield key, f"{rates['complete']:,.0f}", share, *_beside(found, estimated.get(key))
        elif key.startswith("loop"):
            share = found["loop_share_of_step"]["ratio"]
            yield (
                key,
                f"{found['images_per_second']['device']['median']:,.0f}",
                f"{share:.3f} of step",
            )
        else:
            rate = found["images_per_second"]
            yield key, f"{rate.get('update', rate)['median']:,.0f}"


def _beside(found: dict[str, Any], estimated: dict[str, float] | None) -> Iterator[str]:
    if estimated:
        yield f"{estimated['images_per_second']:,.0f}"
        if used := found.get("device_peak_bytes"):
            yield f"{used / 2**30:.1f}, {estimated['bytes'] / 2**30:.1f}"


def train(args: argparse.Namespace) -> int:
    """Runs the recipe for --minutes, then stops it; packs the run in pieces under --out.

    The run goes on from the pieces of an earlier call, if --out has them.
    """
    folder = Path(tempfile.mkdtemp()) / "run"
    unpack(args.out, folder)
    fields = {
        "pretrain.objective": args.objective,
        "pretrain.epochs": args.epochs,
        "finetune.epochs": args.finetune_epochs,
        "runtime.checkpoint_every": 200,
        "report.at_end": "false",
    }
    config = args.config
    if args.rehearse:
        config = f"{ROOT}/configs/recipe.py:vit,digits"
        tiny = {f"model.{name}": value for name, value in TINY["vit"].items()}
        fields |= tiny | {"pretrain.batch_size": 64, "dataset.train_fraction": 0.1}
        fields |= {"model.patch_size": 4, "finetune.batch_size": 16}
        fields |= {"pretrain.epochs": 20, "finetune.epochs": 10}
    command = [sys.executable, "-m", "smallvit_jax.main", "--config", config]
    command += ["--workdir", str(folder), *(f"--config.{k}={v}" for k, v in fields.items())]
    command += [f"--config.{field}" for field in args.field]
    command += ["--data_dir", str(args.data_dir)] if args.data_dir else []
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        code = _wait_or_stop(process, 60 * args.minutes)
    finally:
        process.kill()  # if it did not save in time, its last checkpoint counts
        pack(folder, args.out)
    print(f"exit code {code}: {'done' if code == 0 else 'give the same command again to go on'}")
    for stage in ("pretrain", "finetune"):
        metrics = folder / stage / "metrics.jsonl"
        if metrics.exists():
            (args.out / f"{stage}-metrics.jsonl").write_bytes(metrics.read_bytes())
            rows = [json.loads(line) for line in metrics.read_text().splitlines()]
            for row in [row for row in rows if row["split"] != "train"][-3:]:
                print(stage, json.dumps(row))
    if (folder / "result.json").exists():
        (args.out / "train.json").write_bytes((folder / "result.json").read_bytes())
    return 0 if code in (0, 143) else code


def _wait_or_stop(process: subprocess.Popen, seconds: float) -> int:
    """Stops a run that takes longer, so that it saves a checkpoint; returns its exit code."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(120)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def pack(folder: Path, out: Path) -> None:
    """Writes the run as `run.tar.NNNN`, pieces small enough to be copied back from a machine."""
    out.mkdir(parents=True, exist_ok=True)
    archive = out / "run.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "run", filter=_without_lock)
    pieces = set()
    with open(archive, "rb") as file:
        for number, data in enumerate(iter(lambda: file.read(CHUNK), b"")):
            piece = out / f"run.tar.{number:04d}"
            new = piece.with_name(f"new.{piece.name}")
            new.write_bytes(data)
            pieces.add(piece)
    for piece in pieces:  # the old ones stay until the new ones are complete
        piece.with_name(f"new.{piece.name}").replace(piece)
    for piece in set(out.glob("run.tar.*")) - pieces:
        piece.unlink()
    archive.unlink()


def _without_lock(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if info.name.endswith("/.lock") else info


def unpack(out: Path, folder: Path) -> None:
    """Restores a packed run, if there is one."""
    pieces = sorted(out.glob("run.tar.*"))
    if not pieces:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.parent / "run.tar"
    with open(archive, "wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    with tarfile.open(archive) as tar:
        tar.extractall(folder.parent, filter="data")
    archive.unlink()


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator_day",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=("check", "speed", "train"))
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and packed runs")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rehearse", action="store_true", help="the smallest models, briefly")
    parser.add_argument("--config", default=f"{ROOT}/configs/recipe.py:vit,cifar10", help="train")
    parser.add_argument("--objective", default="dino", help="train: pretrain.objective")
    parser.add_argument("--epochs", type=int, default=200, help="train: pretrain.epochs")
    parser.add_argument("--finetune_epochs", type=int, default=100, help="train: finetune.epochs")
    parser.add_argument(
        "--field", action="append", default=[], help="train: a further FIELD=VALUE; may be repeated"
    )
    parser.add_argument("--data_dir", type=Path, help="train: folder with prepared datasets")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Runs one part and prints its table."""
    from smallvit_jax.process.terminal import print_table

    args = parse(words)
    if args.rehearse:
        use_quick_programs()
    # This process profiles; those that it starts need the device's memory too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.part == "train":
        return train(args)
    part = Part(args.part, args)
    if args.part == "check":
        part.run(check_items(args.rehearse))
        rows = list(check_rows(part.found["items"]))
    else:
        checked = args.out / "check.json"
        machine = json.loads(checked.read_text())["items"]["machine"] if checked.exists() else {}
        if "platform" not in machine:
            print(f"run the part check first: {checked} has no figures of the machine")
            return 2
        with tempfile.TemporaryDirectory() as folder:
            session = Session(Path(os.environ.get("DAY_CACHE") or folder), quick=args.rehearse)
            session.platform = machine["platform"]
            part.run(speed_items(args.rehearse, session))
        part.found["estimates"] = estimates(machine["device_kind"])
        part.save()
        rows = list(speed_rows(part.found["items"], machine, part.found["estimates"]))
    print_table(f"{args.part}: {part.file}", rows)
    return int(any("error" in found for found in part.found["items"].values()))


if __name__ == "__main__":
    sys.exit(main())
