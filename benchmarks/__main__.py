"""Lists the benchmarks: `python -m benchmarks`."""

from typing import NamedTuple

from smallvit_jax.process.terminal import print_table


class Benchmark(NamedTuple):
    """A benchmark to run as `python -m benchmarks.NAME ARGUMENTS`."""

    name: str
    arguments: str
    shows: str
    duration: str  # on 2 CPU cores


BENCHMARKS = (
    Benchmark("speed", "--quick", "images/s of steps and jobs, with PyTorch in turns", "25 min"),
    Benchmark("speed", "", "the same, for every figure of docs/speed.md", "hours"),
    Benchmark(
        "pytorch_peer",
        "--model vit --stage pretrain",
        "images/s of one step in plain PyTorch (needs torch)",
        "15 s",
    ),
    Benchmark(
        "accelerator_day",
        "check --out FOLDER",
        "on a new GPU or TPU: what runs, parity, ceilings (then: speed, train)",
        "8 min each",
    ),
    Benchmark("accelerator_wheels", "FOLDER", "wheels for a machine without a network", "1 min"),
    Benchmark(
        "compiled_programs",
        "--out FILE",
        "which steps fit which GPU and TPU, and how fast they may be; nothing is run",
        "4 hours",
    ),
    Benchmark(
        "scaling",
        "--out FILE",
        "what devices send each other, and on paper what many chips would give",
        "5 min",
    ),
    Benchmark("parity", "", "docs/parity.md: differences from the reference", "2 min"),
    Benchmark("kill_campaign", "", "36 SIGKILLs: do runs resume to the same bits?", "8 min"),
    Benchmark("damage_table", "", "what a user sees for each kind of damaged run", "20 s"),
    Benchmark(
        "preset_sweep",
        "quickstart --workdir FOLDER",
        "how a preset's settings were chosen, on validation images",
        "1 hour",
    ),
    Benchmark(
        "few_labels",
        "--workdir FOLDER --data_dir DIR",
        "CIFAR-10 with few labels: each objective and training from scratch",
        "3 hours",
    ),
    Benchmark("corruptions", "", "seconds per 1,000 corrupted images", "15 s"),
    Benchmark("corruptions_picture", "FILE", "draws docs/images/corruptions.png", "1 s"),
    Benchmark("initial_attention", "FILE", "draws docs/images/initial_attention.png", "7 s"),
)


def main() -> None:
    """Prints a row for each benchmark: what to type, what it shows, how long it takes."""
    rows = [
        (f"python -m benchmarks.{b.name} {b.arguments}".strip(), b.shows, b.duration)
        for b in BENCHMARKS
    ]
    width = max(len(shows) for _, shows, _ in rows)
    rows = [(command, shows.ljust(width), duration) for command, shows, duration in rows]
    print_table("Benchmarks, with their time on two CPU cores", rows)


if __name__ == "__main__":
    main()
