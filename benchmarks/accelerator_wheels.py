"""Wheels for a machine without a network: `python -m benchmarks.accelerator_wheels FOLDER`.

Run it with the Python version of that machine, in an environment in which smallvit_jax is
installed. Downloads what the package needs there, in the versions installed here, except what a
machine with JAX for its accelerator has already. There:

    pip install --no-index --no-deps --target ~/site FOLDER/*.whl && export PYTHONPATH=~/site
"""

import argparse
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

PRESENT = {"jax", "jaxlib", "ml-dtypes", "numpy", "opt-einsum", "scipy", "setuptools"}
NO_WHEEL = {"promise"}  # pure Python, built here
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17")


def needed(name: str, without: frozenset[str]) -> dict[str, str]:
    """Versions of the distributions that `name` needs, without some and what only those need."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            key = re.sub("[-_.]+", "-", requirement.name).lower()
            marker = requirement.marker
            applies = any(
                not marker or marker.evaluate({"extra": extra}) for extra in (*extras, "")
            )
            if applies and key not in without and key not in found:
                found[key] = importlib.metadata.version(key)
                waiting.append((key, frozenset(requirement.extras)))
    return found


def main() -> int:
    """Downloads the wheels and prints their number and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--without", default="", help="distributions to leave out, as in matplotlib,pyarrow"
    )
    args = parser.parse_args()
    folder, without = args.folder, PRESENT | set(filter(None, args.without.split(",")))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    versions = needed("smallvit_jax", frozenset(without))
    wheels = [f"{n}=={v}" for n, v in versions.items() if n not in NO_WHEEL]
    platforms = [f"--platform={name}_x86_64" for name in PLATFORMS]
    download = [*pip, "download", "--no-deps", "--only-binary=:all:", *platforms]
    subprocess.run([*download, "--dest", str(folder), *wheels], check=True)
    built = [f"{name}=={versions[name]}" for name in NO_WHEEL & versions.keys()]
    if built:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), *built], check=True)
    sizes = [file.stat().st_size for file in folder.glob("*.whl")]
    print(f"{len(sizes)} wheels, {sum(sizes) / 1e6:.0f} MB in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
