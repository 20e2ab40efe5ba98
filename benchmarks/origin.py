"""Where a result comes from: code version, command, date and processor."""

import datetime
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def origin(module: str, words: Sequence[str]) -> dict[str, Any]:
    """The code version, command and date of the figures that `python -m module words` measures."""
    changed = _git("status", "--porcelain", "--", "smallvit_jax", "configs", "benchmarks/*.py")
    return {
        "command": shlex.join(["python", "-m", module, *words]),
        "commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        "changed_files": len(changed.splitlines()),
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    """The processor's name, if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
