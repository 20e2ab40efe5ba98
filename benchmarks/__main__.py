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
    Benchmark("speed", "", "the same, for every model and figure", "3 hours"),
    Benchmark("pytorch_peer", "", "images/s of one step in plain PyTorch (needs torch)", "1 min"),
    Benchmark("parity", "", "docs/parity.md: differences from the reference", "1 hour"),
    Benchmark("kill_campaign", "", "36 SIGKILLs: do runs resume to the same bits?", "15 min"),
    Benchmark("damage_table", "", "what a user sees for each kind of damaged run", "5 min"),
    Benchmark("corruptions", "", "seconds per 1,000 corrupted images", "5 min"),
    Benchmark("corruptions_picture", "FILE", "draws docs/images/corruptions.png", "10 s"),
    Benchmark("initial_attention", "FILE", "draws docs/images/initial_attention.png", "1 min"),
)


def main() -> None:
    """Prints a row for each benchmark: what to type, what it shows, how long it takes."""
    rows = [
        (f"python -m benchmarks.{b.name} {b.arguments}".strip(), b.shows, b.duration)
        for b in BENCHMARKS
    ]
    width = max(len(shows) for _, shows, _ in rows)
    rows = [(command, shows.ljust(width), duration) for command, shows, duration in rows]
    print_table("Benchmarks, with their time on two CPU cores; each takes --help", rows)


if __name__ == "__main__":
    main()
