"""Whole jobs and a bare step, taking turns in one process.

Each contender works for one turn while the others wait, round after round, so that changes in the
machine's speed affect all of them.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ml_collections import ConfigDict

from benchmarks.synthetic_data import write_cifar10
from benchmarks.timing import Run
from smallvit_jax.jobs import finetune, pretrain
from smallvit_jax.plans.data_and_model import DatasetReader

Turn = Callable[[], None]
"""Ends the contender's turn and returns when its next one starts."""
Contender = Callable[[Turn], None]

_EVALUATOR = {
    "pretrain": (pretrain, "FeatureEvaluator"),
    "finetune": (finetune, "AccuracyEvaluator"),
}


def take_turns(contenders: Mapping[str, Contender]) -> dict[str, list[float]]:
    """Measures the seconds of each turn except the first, which compiles and warms up.

    Every contender calls `turn` once when it is ready and then after each turn, as often as the
    others. Work after the last turn is not timed and does not disturb the others.
    """
    relay = _Relay(list(contenders))
    threads = [
        threading.Thread(target=relay.run, args=(name, contender), daemon=True)
        for name, contender in contenders.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if relay.error is not None:
        raise relay.error
    return {name: turns[1:] for name, turns in relay.seconds.items()}


class _Relay:
    """Lets one thread at a time run, in a fixed order."""

    def __init__(self, names: Sequence[str]):
        self._names = list(names)
        self._running = 0
        self._changed = threading.Condition()
        self._started: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.error: BaseException | None = None

    def run(self, name: str, contender: Contender) -> None:
        try:
            self._wait(name)  # setup is done one contender at a time, too
            contender(lambda: self._turn(name))
        except BaseException as error:  # must reach the main thread and stop the others
            self.error = self.error or error
        finally:
            with self._changed:
                self._names.remove(name)
                self._running = self._running % max(1, len(self._names))
                self._changed.notify_all()

    def _turn(self, name: str) -> None:
        if name in self._started:
            self.seconds[name].append(time.perf_counter() - self._started[name])
        with self._changed:
            self._running = (self._running + 1) % len(self._names)
            self._changed.notify_all()
        self._wait(name)
        self._started[name] = time.perf_counter()

    def _wait(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self.error is not None or self._names[self._running] == name
            )
        if self.error is not None:
            raise RuntimeError("another contender failed")


def repeated(run: Run, steps: int, repeats: int) -> Contender:
    """A contender that runs `steps` steps per turn."""

    def contender(turn: Turn) -> None:
        turn()
        for _ in range(repeats + 1):
            run(steps)
            turn()

    return contender


def jobs(config: ConfigDict, folder: Path, steps: int, repeats: int) -> dict[str, Contender]:
    """The config's job with its images in device memory and in host memory.

    A turn is an epoch of `steps` steps. Writes images and results to `folder`. Take the turns
    inside `evaluations_end_turns`.
    """
    stage = config.job
    write_cifar10(folder, images=steps * config[stage].batch_size)

    def job(placement: str) -> Contender:
        own = config.copy_and_resolve_references()
        own[stage].epochs = repeats + 1
        own.finetune.passes_per_epoch = 1
        own.runtime.data_placement = placement
        own.runtime.checkpoint_every = 10**9  # only one, after the last turn
        own.runtime.compilation_cache = ""
        module, _ = _EVALUATOR[stage]

        def contender(turn: Turn) -> None:
            _turn_of[threading.get_ident()] = turn
            module.run(own, folder / placement, DatasetReader(folder))

        return contender

    return {placement: job(placement) for placement in ("device", "host")}


_turn_of: dict[int, Turn] = {}  # by thread


def evaluations_end_turns(stage: str) -> contextlib.AbstractContextManager:
    """Replaces the evaluation of a stage's job by the end of the turn of the job's thread."""

    def evaluate(*_: Any) -> dict[str, dict[str, float]]:
        _turn_of[threading.get_ident()]()
        return {"test": {"top1": 0.0, "top5": 0.0, "loss": 0.0}}

    return mock.patch.object(*_EVALUATOR[stage], lambda *_, **__: evaluate)
