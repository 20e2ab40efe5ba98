"""Repeated timing and its summary statistics."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Run = Callable[[int], None]
"""Runs a number of steps and returns when they are finished."""


def summarize(rates: Sequence[float]) -> dict[str, object]:
    """Best, median and spread (highest minus lowest, relative to the median) of rates."""
    median = statistics.median(rates)
    return {
        "best": round(max(rates), 3),
        "median": round(median, 3),
        "spread": round((max(rates) - min(rates)) / median, 4),
        "repeats": len(rates),
        "values": [round(rate, 3) for rate in rates],
    }


def seconds(run: Run, steps: int) -> float:
    """Wall time of `steps` steps."""
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


def steps_for(run: Run, duration: float, most: int = 10_000) -> int:
    """How many steps take about `duration` seconds; warms up first."""
    run(1)
    steps = 1
    while (took := seconds(run, steps)) < duration / 10 and steps < most:
        steps *= 4
    return max(1, min(most, round(duration * steps / took)))


def interleaved_rates(
    runs: Mapping[str, Run], images_per_step: int, duration: float, repeats: int
) -> dict[str, dict[str, object]]:
    """Images per second of each run, measured in turns so that machine drift affects all.

    Each repeat takes about `duration` seconds, at least one step.
    """
    steps = {name: steps_for(run, duration) for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            rates[name].append(steps[name] * images_per_step / seconds(run, steps[name]))
    return {name: summarize(values) for name, values in rates.items()}


def summarize_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict:
    """Ratio of the medians, and the lowest and highest ratio of measurements adjacent in time."""
    pairs = [a / b for a, b in zip(numerators, denominators, strict=True)]
    ratio = statistics.median(numerators) / statistics.median(denominators)
    return {
        "ratio": round(ratio, 4),
        "lowest": round(min(pairs), 4),
        "highest": round(max(pairs), 4),
    }
