"""Runs one measurement in its own process: `python -m benchmarks.measure '{"what": …}'`.

`benchmarks.speed` starts it; the result is the last line of stdout, as JSON. The keys other than
`what` are arguments of the function with that name; unknown ones are fields of `config.model`.
"""

import contextlib
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loop_turns
from benchmarks.timing import interleaved_rates, steps_for, summarize, summarize_ratio
from benchmarks.training_steps import TrainingSteps, make_config, make_steps, unrolled_loops
from smallvit_jax.config import default_config
from smallvit_jax.data.batches import BatchOrder
from smallvit_jax.evaluation.flops import matmul_flops
from smallvit_jax.process.platform import set_fused_attention
from smallvit_jax.process.runtime import keep_freed_memory
from smallvit_jax.process.sharding import make_mesh
from smallvit_jax.training.placement import make_source
from smallvit_jax.workdir.environment import environment

PHOTOGRAPHS = 1000  # images of 256 x 256 pixels for measuring the host path: 200 MB
_KEYS = 16  # PRNG keys that a measurement cycles through


def machine(precisions: list[str] | None, duration: float, repeats: int) -> dict[str, Any]:
    """The machine and its speed on large matrix products.

    Float32 products are true float32, as in training (JAX's precision "highest").
    """
    cpu = jax.default_backend() == "cpu"
    side = 2048 if cpu else 8192
    precisions = precisions or (["float32"] if cpu else ["float32", "bfloat16"])
    peak = {}
    for precision in precisions:
        a, b = jax.random.normal(jax.random.key(0), (2, side, side), precision)
        product = jax.jit(functools.partial(jnp.matmul, precision="highest"))

        def run(steps, a=a, b=b, product=product):
            for _ in range(steps):
                result = product(a, b)
            result.block_until_ready()

        times = interleaved_rates({"product": run}, 1, duration, repeats)["product"]
        peak[precision] = times["best"] * 2 * side**3
    return {**environment(), "matmul_side": side, "matmul_flops_per_second": peak}


def step(
    model: str,
    stage: str,
    batch: int,
    precision: str,
    duration: float,
    repeats: int,
    parts: list[str],
    unrolled: bool = False,
    plain_attention: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Images per second, compile time and FLOPs of the step's `parts` (complete, update).

    The state's device memory is donated from step to step, as in training.
    """
    steps = make_steps(model, stage, batch, precision, **options)
    set_fused_attention(not plain_attention)
    with unrolled_loops() if unrolled else contextlib.nullcontext():
        runs, compiling, xla = {}, {}, {}
        for part in parts:
            start = time.perf_counter()
            program = _compile(steps, part)
            compiling[part] = round(time.perf_counter() - start, 2)
            xla[part] = _xla_flops(program) / batch
            runs[part] = _runner(steps, part, program)
        flops = matmul_flops(
            steps.update, steps.state, steps.ready, jax.random.key(0), steps.schedule
        )
    rates = interleaved_rates(runs, batch, duration, repeats)
    return {
        "images_per_second": rates,
        "compile_seconds": compiling,
        "update_matmul_flops_per_image": flops / batch,
        "xla_flops_per_image": xla,
        "device_peak_bytes": _device_peak(),
    }


def augment(
    model: str,
    stage: str,
    batch: int,
    duration: float,
    repeats: int,
    pin: bool,
    **options: Any,
) -> dict[str, Any]:
    """Images per second of the augmentation alone, on one core if `pin`."""
    steps = make_steps(model, stage, batch, "float32", **options)
    program = jax.jit(steps.augment).lower(steps.images, jax.random.key(0)).compile()
    keys = _keys()

    def run(count):
        for i in range(count):
            views = program(steps.images, keys[i % _KEYS])
        jax.block_until_ready(views)

    rates = interleaved_rates({"augment": run}, batch, duration, repeats)["augment"]
    return {"images_per_second": rates, "cores": 1 if pin else None}


def loop(
    model: str,
    stage: str,
    batch: int,
    precision: str,
    duration: float,
    repeats: int,
    **options: Any,
) -> dict[str, Any]:
    """The whole job from device memory and from host memory, in turns with its bare step.

    A turn is an epoch of about `duration` seconds, at least one dispatch.
    """
    steps = make_steps(model, stage, batch, precision, **options)
    bare = _runner(steps, "complete", _compile(steps, "complete"))
    count = steps_for(bare, duration, most=200)
    count = max(1, round(count / 8)) * 8  # whole dispatches
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(model, stage, batch, **options)
        config.runtime.precision = precision
        contenders = loop_turns.jobs(config, Path(folder), count, repeats)
        contenders["step"] = loop_turns.repeated(bare, count, repeats)
        with loop_turns.evaluations_end_turns(stage):
            times = loop_turns.take_turns(contenders)
    rates = {name: [count * batch / t for t in values] for name, values in times.items()}
    return {
        "images_per_second": {name: summarize(values) for name, values in rates.items()},
        "steps_per_turn": count,
        "loop_share_of_step": summarize_ratio(rates["device"], rates["step"]),
        "host_share_of_device": summarize_ratio(rates["host"], rates["device"]),
    }


def feed(batch: int, stored_size: int, duration: float, repeats: int) -> dict[str, Any]:
    """Images per second that the host path delivers to the devices, without a training step."""
    count = max(PHOTOGRAPHS, batch)
    images = np.random.default_rng(0).integers(
        0, 256, (count, stored_size, stored_size, 3), np.uint8
    )
    order = BatchOrder(count, batch, 0, field="batch")
    mesh, block = make_mesh(), default_config().runtime.steps_per_dispatch
    with make_source(images, np.zeros(count), order, mesh, "host", block) as source:
        next_step = 0

        def run(blocks: int) -> None:
            nonlocal next_step
            for _ in range(blocks):
                jax.block_until_ready(source.block(next_step, block))
                next_step += block

        rates = interleaved_rates({"feed": run}, batch * block, duration, repeats)["feed"]
    return {"images_per_second": rates}


def _keys() -> list[jax.Array]:
    return list(jax.random.split(jax.random.key(1), _KEYS))


def _arguments(steps: TrainingSteps, part: str, key: jax.Array) -> tuple:
    """The arguments of the part after the state."""
    if part == "complete":
        return steps.images, steps.labels, key, steps.schedule
    return steps.ready, key, steps.schedule


def _compile(steps: TrainingSteps, part: str):
    function = jax.jit(getattr(steps, part), donate_argnums=0)
    return function.lower(steps.state, *_arguments(steps, part, jax.random.key(0))).compile()


def _runner(steps: TrainingSteps, part: str, program) -> Callable[[int], None]:
    """Returns a function that runs a number of steps, passing the state from each to the next."""
    state = jax.tree.map(lambda x: jnp.array(x, copy=True), steps.state)
    keys = _keys()

    def run(count: int) -> None:
        nonlocal state
        for i in range(count):
            state, _ = program(state, *_arguments(steps, part, keys[i % _KEYS]))
        jax.block_until_ready(state)

    return run


def _xla_flops(program) -> float:
    """XLA's own count for a program, in which a loop's body counts once."""
    analysis = program.cost_analysis() or {}
    return float(analysis.get("flops", float("nan")))


def _device_peak() -> int | None:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def main() -> None:
    arguments = json.loads(sys.argv[1])
    if arguments.get("pin"):  # before JAX counts the cores for its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keep_freed_memory()  # as every job does
    measurement = {"machine": machine, "step": step, "augment": augment, "loop": loop, "feed": feed}
    result = measurement[arguments.pop("what")](**arguments)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
