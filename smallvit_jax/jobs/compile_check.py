"""Compiles the training steps for accelerators that are not here: do they fit, and how fast?"""

import importlib.util
import math
import os
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from smallvit_jax.config.check import validate
from smallvit_jax.config.jobs import JOBS, STAGES
from smallvit_jax.config.tree import part_of, set_value
from smallvit_jax.config.values import as_text
from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.flops import flops_by_dtype
from smallvit_jax.jobs.steps import STEPS, StageStep
from smallvit_jax.plans.data_and_model import DatasetReader, DatasetShapes
from smallvit_jax.plans.hardware import Target, describe_card, read_targets
from smallvit_jax.process import runtime
from smallvit_jax.process.platform import compiling_for
from smallvit_jax.process.terminal import print_table
from smallvit_jax.training.hlo import read_program
from smallvit_jax.training.loop import compile_block
from smallvit_jax.training.placement import (
    ACCELERATOR_SHARE,
    DeviceBlock,
    HostBlock,
    fetch,
    stored_bytes,
)
from smallvit_jax.workdir.files import make_folder
from smallvit_jax.workdir.records import write_config, write_result

SOURCE_LINES = 5  # printed per program
_RESERVED = 0.06  # of the memory, which the runtime keeps for itself
_COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}
_PARTS = (2, 4, 8)  # tried for runtime.accumulate and to divide the batch by, if it is too large
# The autotuning of Triton's products needs the card.
_GPU_OPTIONS: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}


def run(config: ConfigDict, workdir: Path, reader: DatasetReader) -> dict[str, Any]:
    """Compiles each stage for each of `compile_check.targets`; returns what `result.json` has.

    Reads no images: their number and size are in the dataset table. Raises UserError if a target is
    unknown or its compiler is not installed.
    """
    del reader
    targets = read_targets(config.compile_check.targets)
    for target in targets:
        _check_compiler(target)
    chosen = config.compile_check.stages
    stages = tuple(STEPS) if chosen == "both" else (chosen,)
    data = DatasetShapes().load(config)
    if config.finetune.drloc.weight and "finetune" in stages:
        raise UserError("the compile check leaves out drloc; set finetune.drloc.weight to 0")
    make_folder(workdir)
    write_config(workdir, part_of(config, JOBS["compile_check"].uses))
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for target in targets:
        mesh = _mesh(target)
        for stage in stages:
            rows.append(_check(config, data, stage, target, mesh))
            _show(rows[-1])
            result = write_result(workdir, {"job": "compile_check", "programs": rows})
    _show_table(rows)
    print(f"  results: {workdir / 'result.json'}")
    return result


def _check_compiler(target: Target) -> None:
    modules = _COMPILERS[target.chip.platform]
    if not any(importlib.util.find_spec(module) for module in modules):
        raise UserError(
            f"compiling for {target.name} needs the package {modules[0].replace('_', '-')}; "
            f"pip install 'smallvit_jax[compile-check-{target.chip.platform}]'"
        )


def _mesh(target: Target) -> Mesh:
    from jax.experimental import topologies

    chip = target.chip
    if chip.platform == "tpu":
        # Without these, libtpu looks for a TPU of this machine, and waits for it.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        options: dict[str, Any] = dict(chip.options or {})
        if target.chips == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=target.topology, **options
        )
    else:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=describe_card(chip),
            topology="1x1x1",
        )
    devices: np.ndarray = np.array(found.devices[: target.devices])
    return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))


def _check(config: ConfigDict, data: Any, stage: str, target: Target, mesh: Mesh) -> dict[str, Any]:
    """Compiles one stage for one target; if it does not fit, looks for a setting that does."""
    found = _compile(config, data, stage, target, mesh)
    if found["fits"]:
        return found
    for field, value in _remedies(config, stage):
        changed = config.copy_and_resolve_references()
        set_value(changed, field, value)
        as_stage = changed.copy_and_resolve_references()
        as_stage.job = stage
        try:
            validate(as_stage)  # batch norm and LeJEPA need the whole batch, for example
            smaller = _compile(changed, data, stage, target, mesh)
        except UserError:
            continue
        if smaller["fits"]:
            return found | {"remedy": f"{field}={as_text(value)}", "with_remedy": smaller["bytes"]}
    return found | {"remedy": None}


def _remedies(config: ConfigDict, stage: str) -> Iterator[tuple[str, Any]]:
    """Settings to try, those first that do not change the training."""
    for parts in _PARTS:
        if parts > config.runtime.accumulate:
            yield "runtime.accumulate", parts
    if not config.runtime.remat:
        yield "runtime.remat", True
    for parts in _PARTS:
        yield f"{stage}.batch_size", config[stage].batch_size // parts


def _compile(
    config: ConfigDict, data: Any, stage: str, target: Target, mesh: Mesh
) -> dict[str, Any]:
    batch = config[stage].batch_size
    lowered, flops = lower_block(config, data, stage, mesh, target)
    about = {
        "target": target.name,
        "stage": stage,
        "batch_size": batch,
        "devices": len(mesh.devices),
        "flops_per_image": sum(flops.values()) / batch,
    }
    started = time.monotonic()
    try:
        program, text = compile_and_read(lowered, target)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return about | {"fits": False, "reason": _first_sentence(error)}
    seconds = time.monotonic() - started
    memory: Any = program.memory_analysis()
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    peak = sum(sizes.values())
    figures = read_program(text)
    total = sum(flops.values())
    moved = sum(figures.bytes.values())
    chip = target.chip
    arithmetic = total / len(mesh.devices) / (chip.flops / chip.devices)
    traffic = moved / (chip.bandwidth / chip.devices)
    return about | {
        "fits": peak <= (1 - _RESERVED) * target.memory_per_device,
        "bytes": sizes | {"peak": peak, "of": int(target.memory_per_device)},
        "compile_seconds": round(seconds, 1),
        "collectives": dict(figures.collectives),
        "collective_bytes": dict(figures.collective_bytes),
        "flops_by_dtype": {name: count / max(1, total) for name, count in flops.items()},
        "bytes_moved_per_step": moved,
        "kernels_per_step": figures.kernels,
        "cycles_per_step": figures.cycles.total(),
        "largest_lines": dict(figures.bytes.most_common(SOURCE_LINES)),
        "seconds_of_arithmetic": arithmetic,
        "seconds_of_memory_traffic": traffic,
        "estimated_images_per_second": batch / max(arithmetic, traffic, 1e-9),
    }


def compile_and_read(
    lowered: jax.stages.Lowered, target: Target
) -> tuple[jax.stages.Compiled, str]:
    """The program and its text.

    jaxlib cannot print programs with gathers on a chip's SparseCores; then, the text is the one
    that libtpu writes, which leaves out the estimated cycles.
    """
    if target.chip.platform == "cuda":
        program = lowered.compile(compiler_options=_GPU_OPTIONS)
        return program, program.as_text() or ""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, str | bool] = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        program = lowered.compile(compiler_options=options)
        try:
            return program, program.as_text() or ""
        except jax.errors.JaxRuntimeError:
            (file,) = Path(folder).glob("*after_optimizations.txt")
            return program, file.read_text()


def lower_block(
    config: ConfigDict, data: Any, stage: str, mesh: Mesh, target: Target
) -> tuple[jax.stages.Lowered, Mapping[str, float]]:
    """A stage's block of steps, ready to compile for the mesh, and FLOPs of a step by dtype.

    Raises UserError if the batch does not split evenly over the mesh.
    """
    platform = {"cuda": "gpu"}.get(target.chip.platform, target.chip.platform)
    batch, parts = config[stage].batch_size, len(mesh.devices) * config.runtime.accumulate
    if batch % parts or not batch:
        raise UserError(
            f"{stage}.batch_size={batch} does not split evenly over the {len(mesh.devices)} "
            f"devices of {target.name}; choose a multiple of {parts}"
        )
    with compiling_for(platform):
        dtype = runtime.prepare(config.runtime.precision, "", config.runtime.fused_attention)
        jax.config.update("jax_compilation_cache_dir", None)
        step = STEPS[stage](config, data, dtype)
        arguments = _abstract_arguments(config, step, target, mesh)
        block = compile_block(step.function, fetch, config.runtime.steps_per_dispatch, mesh)
        lowered: Any = block.trace(*arguments).lower(lowering_platforms=(target.chip.platform,))
        flops = flops_by_dtype(step.function, *_one_step(arguments, step, batch))
    return lowered, flops


def _first_sentence(error: Exception) -> str:
    """What the compiler says about a program that is too large, such as how much it would take."""
    words = " ".join(str(error).split())
    return textwrap.shorten(words, 200, placeholder=" ...")


def _abstract_arguments(
    config: ConfigDict, step: StageStep, target: Target, mesh: Mesh
) -> tuple[Any, ...]:
    """The arguments of the compiled block as shapes with their places on the mesh."""
    whole = NamedSharding(mesh, P())
    by_step = NamedSharding(mesh, P(None, "data"))

    def shape(array: Any, sharding: NamedSharding = whole) -> Any:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    rows, batch = config.runtime.steps_per_dispatch, step.order.batch_size
    indices: Any = jax.ShapeDtypeStruct((rows, batch), jnp.int32, sharding=by_step)
    images, labels = step.images
    placement = config.runtime.data_placement
    if placement == "auto":
        size = stored_bytes(len(images), math.prod(images.shape[1:]), target.chip.platform)
        fits = size <= ACCELERATOR_SHARE * target.memory_per_device
        placement = "device" if fits else "host"
    block: DeviceBlock | HostBlock
    stored: Any
    if placement == "device":
        height, width, channels = images.shape[1:]
        stored = jax.ShapeDtypeStruct(
            (len(images), height * width * channels), jnp.uint8, sharding=whole
        )
        classes = shape(labels.astype(np.int32))
        block = DeviceBlock(stored, classes, indices, (height, width, channels))
    else:
        stored = jax.ShapeDtypeStruct((rows, batch, *images.shape[1:]), jnp.uint8, sharding=by_step)
        block = HostBlock(stored, indices)
    schedule = {
        name: jax.ShapeDtypeStruct(
            (rows,), bool if values.dtype == bool else jnp.float32, sharding=whole
        )
        for name, values in step.schedule.items()
    }
    key, count = jax.random.key(0), jnp.zeros((), jnp.int32)
    return jax.tree.map(shape, step.state), block, schedule, shape(key), shape(count)


def _one_step(arguments: tuple[Any, ...], step: StageStep, batch: int) -> tuple[Any, ...]:
    """The arguments of the step function, for counting its arithmetic."""
    state, _, schedule, key, _ = arguments
    images = jax.ShapeDtypeStruct((batch, *step.images.images.shape[1:]), jnp.uint8)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    row = {name: jax.ShapeDtypeStruct((), array.dtype) for name, array in schedule.items()}
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, key))
    return plain[0], images, labels, plain[1], row


def _show(row: dict[str, Any]) -> None:
    head = f"{row['target']}, {STAGES[row['stage']]} with {row['batch_size']} images per step"
    print_table(head, _figures(row) if "bytes" in row else [("fits", f"NO: {row['reason']}")])
    others = sorted(set(row.get("collectives", ())) - {"all-reduce"})
    if others:
        print(f"  warning: {', '.join(others)}: only all-reduce was expected", flush=True)
    if not row["fits"]:
        print(f"  too large for {row['target']}: {_remedy(row)}", flush=True)


def _remedy(row: dict[str, Any]) -> str:
    if row["remedy"] is None:
        return "no setting that was tried makes it fit; choose a smaller model"
    return f"it fits with --config.{row['remedy']}"


def _figures(row: dict[str, Any]) -> list[tuple[str, str]]:
    sizes, moved = row["bytes"], row["bytes_moved_per_step"] or 1
    shares = [f"{100 * share:.1f} % {name}" for name, share in row["flops_by_dtype"].items()]
    return [
        ("fits", "yes" if row["fits"] else "NO"),
        *((name, _gigabytes(sizes[name])) for name in ("arguments", "temporaries", "program")),
        ("together, of", f"{_gigabytes(sizes['peak'])}, {_gigabytes(sizes['of'])}"),
        ("compiled in", f"{row['compile_seconds']:.0f} s"),
        ("collectives per step", _collectives(row)),
        ("arithmetic per image", f"{row['flops_per_image'] / 1e9:.2f} GFLOP"),
        ("precision of products", ", ".join(shares)),
        ("memory traffic per step and device", _gigabytes(row["bytes_moved_per_step"])),
        ("operations per step", f"{row['kernels_per_step']:,}{_cycles(row)}"),
        ("estimated, not measured", f"{row['estimated_images_per_second']:,.0f} images/s"),
        *(
            (f"  {100 * count / moved:.0f} % of the traffic", place)
            for place, count in row["largest_lines"].items()
        ),
    ]


def _collectives(row: dict[str, Any]) -> str:
    sent = row["collective_bytes"]
    texts = [f"{n} {kind} ({sent[kind] / 1e6:.1f} MB)" for kind, n in row["collectives"].items()]
    return ", ".join(texts) or "none"


def _cycles(row: dict[str, Any]) -> str:
    cycles = row["cycles_per_step"]
    return f", {cycles / 1e6:.1f} million cycles by the compiler's estimate" if cycles else ""


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _show_table(rows: list[dict[str, Any]]) -> None:
    head = ("target, stage", "fits", "GiB per device", "of", "images/s, estimated", "compiled in")
    table: list[tuple[str, ...]] = [head]
    for row in rows:
        fits = "yes" if row["fits"] else f"with {row['remedy']}" if row["remedy"] else "no"
        cells = [f"{row['target']}, {STAGES[row['stage']]}", fits]
        if sizes := row.get("bytes"):
            rate = _rounded(row["estimated_images_per_second"])
            cells += [f"{sizes['peak'] / 2**30:.2f}", f"{sizes['of'] / 2**30:.0f}"]
            cells += [f"{rate:,.0f}", f"{row['compile_seconds']:.0f} s"]
        table.append(tuple(cells))
    print_table("compile check (estimates come from the programs, nothing was run)", table)


def _rounded(value: float) -> float:
    """Two significant digits: it is an estimate."""
    digits = 1 - math.floor(math.log10(max(value, 1e-9)))
    return round(value, digits)
