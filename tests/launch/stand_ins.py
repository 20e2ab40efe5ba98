"""Starts the scripts of `launch/` with stand-ins for gcloud, srun, scontrol and smallvit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.tiny_jobs import ROOT, TINY

FAKES = Path(__file__).parent / "fakes"
LAUNCH = ROOT / "launch"
SETTINGS = TINY | {"pretrain.knn_every": 0, "runtime.upload_every": 0.2}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a script: the stand-ins first on the PATH, one cache of programs."""
    return os.environ | {
        "PATH": f"{FAKES}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FAKE_PYTHON": sys.executable,
        "FAKE_SMALLVIT": str(FAKES / "smallvit"),
        "FAKE_CLOUD": str(folder / "cloud"),
        "FAKE_SLURM": str(folder),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "RESTART_AFTER": "0.1",
        **more,
    }


def arguments(workdir: Path | str, epochs: int, checkpoint_every: int) -> list[str]:
    """The arguments of smallvit for a tiny pre-training."""
    fields = SETTINGS | {"pretrain.epochs": epochs, "runtime.checkpoint_every": checkpoint_every}
    fields = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["pretrain:vit,digits", "--workdir", str(workdir), *fields]


def start(script: str, words: list[str], folder: Path, **more: str) -> subprocess.Popen:
    """Starts a script in `folder`; its output goes to the file `<script>.log` there."""
    with open(folder / f"{script}.log", "a") as log:
        return subprocess.Popen(
            ["bash", str(LAUNCH / script), *words],
            cwd=folder,
            env=environment(folder, **more),
            stdout=log,
            stderr=log,
        )


def wait_until(reached: Callable[[], bool], process: subprocess.Popen, timeout: float = 120):
    """Waits until `reached()`; fails if the process ends first."""
    deadline = time.monotonic() + timeout
    while not reached():
        assert process.poll() is None, f"ended with {process.returncode} before"
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def calls(folder: Path) -> list[list[str]]:
    """The arguments of each call of gcloud so far."""
    file = folder / "cloud/calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def running_vm(folder: Path) -> Path | None:
    """The home folder of the VM that exists and was not taken away, if any."""
    current = folder / "cloud/current"
    home = folder / "cloud/vms" / current.read_text() if current.exists() else None
    return home if home and (home / "pid").exists() and not (home / "preempted").exists() else None


def take_away(vm: Path) -> None:
    """Kills everything on a VM at once, as a preemption whose notice went by."""
    os.killpg(int((vm / "pid").read_text()), signal.SIGKILL)
    (vm / "preempted").touch()
