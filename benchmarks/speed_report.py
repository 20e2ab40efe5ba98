"""Tables of speed results, for the terminal or as Markdown."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

# FLOP/s of dense matrix products from vendor data sheets, by a part of JAX's device kind.
NOMINAL_PEAKS = {
    "H200": {"bfloat16": 989e12, "float32": 67e12},
    "H100 80GB HBM3": {"bfloat16": 989e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def show(result: dict[str, Any], *, markdown: bool = False) -> None:
    """Prints the machine and command, then a table for each kind of figure."""
    console = Console(width=200 if markdown else None)
    console.print(heading(result), markup=False, highlight=False, soft_wrap=True)
    for table in tables(result):
        if not markdown:
            console.print(table)
            continue
        title, table.title, table.box = table.title, None, box.MARKDOWN
        with console.capture() as text:
            console.print(table)
        lines = [line.rstrip() for line in text.get().splitlines() if line.strip()]
        print(f"\n{title}\n", *lines, sep="\n")


def heading(result: dict[str, Any]) -> str:
    """Machine, versions, commit and command."""
    machine = result["machine"]
    versions = ", ".join(f"{k} {machine['versions'][k]}" for k in ("python", "jax", "flax"))
    changed = " with changes" if result["changed_files"] else ""
    peaks = ", ".join(
        f"{rate / 1e12:.3g} TFLOP/s in {precision}"
        for precision, rate in machine["matmul_flops_per_second"].items()
    )
    return (
        f"{machine['device_count']} x {machine['device_kind']} ({result['processor']}, "
        f"{result['cores']} cores), {versions}, commit {result['commit']}{changed}, "
        f"{result['date']}. Matrix products of {machine['matmul_side']} x "
        f"{machine['matmul_side']}: {peaks}.\n`{result['command']}`"
    )


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """Yields one table per kind of figure in the result; the last one lists failures."""
    for kind, (title, columns, row) in _TABLES.items():
        figures = [f for f in result["figures"] if f["figure"] == kind and "error" not in f]
        if not figures:
            continue
        table = Table("", title=title, title_justify="left")
        for name in columns:
            table.add_column(name, justify="right")
        for figure in figures:
            table.add_row(_about(figure), *row(figure, result))
        yield table
    failed = [figure for figure in result["figures"] if "error" in figure]
    if failed:
        table = Table("", "reason", title="Failed", title_justify="left")
        for figure in failed:
            table.add_row(f"{figure['figure']}: {_about(figure)}", figure["error"])
        yield table


def _about(figure: dict[str, Any]) -> str:
    names = ("model", "stage", "objective", "batch", "precision")
    return " ".join(str(figure[name]) for name in names if name in figure)


def _rate(summary: dict[str, Any]) -> str:
    """Median and spread."""
    return f"{_number(summary['median'])} ± {50 * summary['spread']:.1f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _gib(count: float | None) -> str:
    return "-" if not count else f"{count / 2**30:.2f}"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def _ratio(found: dict[str, float]) -> str:
    return f"{found['ratio']:.3f} ({found['lowest']:.3f} to {found['highest']:.3f})"


def nominal_peak(device_kind: str, precision: str) -> float | None:
    """FLOP/s from the data sheet, or None if the device is not listed."""
    for part, peaks in NOMINAL_PEAKS.items():
        if part in device_kind:
            return peaks.get(precision)
    return None


def _help_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    return [f"{figure['seconds']['median']:.2f} s"]


def _step_row(figure: dict[str, Any], result: dict[str, Any]) -> list[str]:
    rates, machine = figure["images_per_second"], result["machine"]
    flops = figure["update_matmul_flops_per_image"]
    used = rates["update"]["median"] * flops
    measured = machine["matmul_flops_per_second"].get(figure["precision"])
    nominal = nominal_peak(machine["device_kind"], figure["precision"])
    nominal = nominal and nominal * machine["device_count"]
    return [
        _rate(rates["complete"]),
        _rate(rates["update"]),
        f"{figure['compile_seconds']['complete']:.1f} s",
        f"{flops / 1e9:.2f}",
        f"{figure['xla_flops_per_image']['update'] / 1e9:.2f}",
        _percent(used / measured if measured else None),
        _percent(used / nominal if nominal else None),
        _gib(figure["device_peak_bytes"]),
    ]


def _augment_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    return [_rate(figure["images_per_second"]), "1 core" if figure["cores"] else "device"]


def _loop_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    rates = figure["images_per_second"]
    return [
        *(_rate(rates[name]) for name in ("step", "device", "host")),
        _ratio(figure["loop_share_of_step"]),
        _ratio(figure["host_share_of_device"]),
    ]


def _start_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    return [
        f"{figure['cold_seconds']:.1f} s",
        f"{figure['warm_seconds']:.1f} s",
        str(figure["warm_programs_stored"]),
        _gib(figure["cold_peak_rss_bytes"]),
        _gib(figure["warm_peak_rss_bytes"]),
    ]


def _feed_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    rates = figure["images_per_second"]
    return [_rate(rates["feed"]), _rate(rates["step"]), f"{figure['feed_to_step']:.1f}"]


def _peer_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    rates, ratios = figure["images_per_second"], figure["ratios"]
    compiled = "pytorch_compiled"
    return [
        _rate(rates["ours"]),
        _rate(rates["pytorch"]),
        _ratio(ratios["pytorch"]),
        _rate(rates[compiled]) if compiled in rates else "-",
        _ratio(ratios[compiled]) if compiled in ratios else "-",
    ]


def _unrolled_row(figure: dict[str, Any], _: dict[str, Any]) -> list[str]:
    rates, first = figure["images_per_second"], figure["first_round"]
    compiling = (first[name]["compile_seconds"]["update"] for name in ("loops", "unrolled"))
    return [
        _rate(rates["loops"]),
        _rate(rates["unrolled"]),
        _ratio(figure["ratios"]["unrolled"]),
        *(f"{seconds:.1f} s" for seconds in compiling),
    ]


_TABLES = {
    "step": (
        "The step, images per second",
        [
            *("complete", "from ready views", "compiled in", "GFLOP per image"),
            *("GFLOP, XLA's count", "share of measured peak", "of nominal peak", "device GiB"),
        ],
        _step_row,
    ),
    "augment": ("Augmentation alone, images per second", ["rate", "on"], _augment_row),
    "loop": (
        "The whole job and its bare step in turns, images per second",
        ["step", "job, device memory", "job, host memory", "job / step", "host / device"],
        _loop_row,
    ),
    "peer": (
        "Compared with plain PyTorch, from ready views, images per second",
        ["ours", "PyTorch", "ratio", "torch.compile", "ratio"],
        _peer_row,
    ),
    "feed": (
        "Photographs of 256 px from host memory, images per second",
        ["delivered to the devices", "consumed by the step at 224 px", "ratio"],
        _feed_row,
    ),
    "unrolled": (
        "Loops over identical blocks against unrolled blocks, images per second",
        ["loops", "unrolled", "ratio", "loops compiled in", "unrolled compiled in"],
        _unrolled_row,
    ),
    "start": (
        "From the command to the end of the first step",
        ["cold", "warm", "programs compiled in warm", "cold peak GiB", "warm peak GiB"],
        _start_row,
    ),
    "help": ("Time for --help", ["median"], _help_row),
}
