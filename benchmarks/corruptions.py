"""Measures the time to generate corrupted test images: `python -m benchmarks.corruptions`.

Reports seconds per 1,000 images, for each kind on one core and for all settings with several
processes, including their startup. Images are colored waves, so there is nothing to download.
`--out` adds the results to a JSON file, one entry per size.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from smallvit_jax.evaluation.corruptions import KINDS, SEVERITIES, SIZES, missing_kinds
from smallvit_jax.evaluation.corruptions.generated import corrupted_splits


def measure(images: int, size: int, processes: int) -> dict:
    """Seconds per 1,000 images: for each kind in this process, and for all with `processes`."""
    pictures, indices = waves(images, size), np.arange(images)
    kinds = [kind for kind in KINDS if kind not in missing_kinds()]
    by_kind = {}
    for kind in kinds:
        # Fills the caches of lookup tables before timing.
        list(corrupted_splits(pictures[:1], indices[:1], [(kind, s) for s in SEVERITIES]))
        by_kind[kind] = _seconds(pictures, indices, [kind], 1)
    result = {
        "images": images,
        "size": size,
        "settings": len(kinds) * len(SEVERITIES),
        "seconds_per_1000": {kind: round(seconds, 2) for kind, seconds in by_kind.items()},
        "all_on_one_core": round(sum(by_kind.values()), 1),
        "processes": processes,
    }
    if processes > 1:
        result["all_with_processes"] = round(_seconds(pictures, indices, kinds, processes), 1)
    return result


def waves(count: int, size: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Smooth images in all colors, each one different."""
    speed, phase = np.random.default_rng(0).uniform(0.1, 0.5, (2, count, 1, 1, 3))
    y, x = np.mgrid[:size, :size]
    wave = np.sin(speed * y[..., None] + 20 * phase) * np.cos(phase * x[..., None] + 20 * speed)
    return (128 + 110 * wave).astype(np.uint8)


def _seconds(pictures, indices, kinds, processes: int) -> float:
    """Wall time per 1,000 images for some kinds at every severity."""
    settings = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    started = time.perf_counter()
    for _ in corrupted_splits(pictures, indices, settings, processes=processes):
        pass
    return (time.perf_counter() - started) * 1000 / len(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32, choices=SIZES, help="pixels per side")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--out", type=Path, help="JSON file to add the results to")
    arguments = parser.parse_args()
    result = measure(arguments.images, arguments.size, arguments.processes)
    print(f"seconds per 1,000 images, {arguments.size} px, one core, severities 1 to 5")
    for kind, seconds in result["seconds_per_1000"].items():
        print(f"  {kind:18} {seconds:6.2f}")
    print(f"  {'all':18} {result['all_on_one_core']:6.1f}")
    if "all_with_processes" in result:
        print(f"all with {arguments.processes} processes: {result['all_with_processes']:.1f}")
    for kind, reason in missing_kinds().items():
        print(f"skipped {kind}: {reason}")
    if arguments.out:
        kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
        kept[f"{arguments.size} pixels"] = result
        arguments.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
