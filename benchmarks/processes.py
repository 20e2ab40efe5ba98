"""Runs each measurement in its own process, so that none inherits memory or compiled programs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Session:
    """Runs measurements in their own processes and collects the results."""

    def __init__(self, folder: Path, *, quick: bool):
        self.folder, self.quick = folder, quick
        self.figures: list[dict[str, Any]] = []
        self.duration = 0.3 if quick else 1.5  # seconds per repeat
        self.repeats = 2 if quick else 5
        self.platform = "cpu"
        self.rounds = 3  # of side-by-side measurements
        self.torch_compile = False
        self._start = time.monotonic()

    def record(
        self, what: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Adds the figure that `measure()` returns, or the error that it raises."""
        label = " ".join(map(str, (what, *about.values())))
        self._say(label)
        try:
            found = measure()
        except MeasurementError as error:
            self._say(f"{label}: {error}")
            found = {"error": str(error)}
        self.figures.append({"figure": what, **about, **found})
        return None if "error" in found else found

    def measure(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Runs `benchmarks.measure` and returns its result, with the process's peak memory."""
        return self.run("benchmarks.measure", json.dumps({"what": what, **arguments}))

    def run(self, module: str, *arguments: str) -> dict[str, Any]:
        """Runs a module whose last line of stdout is a JSON object."""
        process, log = self.start(module, *arguments)
        output = process.stdout.read()
        memory = wait(process, log)
        return {**json.loads(output.splitlines()[-1]), "peak_rss_bytes": memory}

    def start(self, module: str, *arguments: str, **environment: str):
        """Starts a module in a fresh process; returns it and the file of its stderr."""
        log = self.folder / "stderr.txt"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **self._environment(), **environment},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        return process, log

    def _environment(self) -> dict[str, str]:
        """Shares compiled programs among the processes of this benchmark only."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONWARNINGS": "ignore",
        }

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:4.0f} s] {text}", file=sys.stderr, flush=True)


class MeasurementError(Exception):
    """A measurement process failed."""


def wait(process: subprocess.Popen, log: Path) -> int:
    """Waits for a process and returns its peak resident memory in bytes."""
    if process.stdout:
        process.stdout.read()
        process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        raise MeasurementError(f"exit code {process.returncode}: {lines[-1][:300]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_running(process: subprocess.Popen) -> bool:
    """Whether a process is still running; does not reap it."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
