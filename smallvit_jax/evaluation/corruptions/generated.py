"""Corrupts a whole split in worker processes, ahead of its use, with a cache on disk."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from jaxtyping import Int, UInt8

from smallvit_jax.errors import UserError
from smallvit_jax.evaluation.corruptions import corrupt
from smallvit_jax.evaluation.corruptions.cache import CorruptionCache

Part = Callable[[], UInt8[np.ndarray, "part size size 3"]]

_IMAGES_AT_ONCE = 100
_SETTINGS_AHEAD = 2  # prepared while one is in use; each takes the memory of a split


def corrupted_splits(
    images: UInt8[np.ndarray, "images size size 3"],
    indices: Int[np.ndarray, " images"],
    settings: Sequence[tuple[str, int]],
    *,
    processes: int = 1,
    cache: CorruptionCache | None = None,
) -> Iterator[tuple[str, int, UInt8[np.ndarray, "images size size 3"]]]:
    """Yields (kind, severity, corrupted images) for each of `settings`, in order.

    `indices` are the images' positions in their split, which seed the random draws. `processes` is
    how many processes corrupt images; 0 means one per core available to this process. Images in
    `cache` are read, others are generated and added to it. Raises UserError if a worker process
    dies.
    """
    parts = -(-len(images) // _IMAGES_AT_ONCE)
    processes = min(processes or _usable_cores(), parts * len(settings))
    with contextlib.ExitStack() as stack:
        pool = None
        pending: deque[tuple[str, int, np.ndarray | None, list[Part] | None]] = deque()
        for kind, severity in settings:
            kept = cache.read(kind, severity) if cache else None
            if kept is None and processes > 1 and pool is None:
                pool = stack.enter_context(_worker_processes(processes))
            work = None if kept is not None else _start(pool, images, indices, kind, severity)
            pending.append((kind, severity, kept, work))
            if len(pending) > _SETTINGS_AHEAD:
                yield _finish(*pending.popleft(), cache)
        while pending:
            yield _finish(*pending.popleft(), cache)


def _start(pool: Executor | None, images, indices, kind: str, severity: int) -> list[Part]:
    """Returns functions that return the parts of a split; without a pool, they do the work too."""
    work: list[Part] = []
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        arguments = (images[part], kind, severity, indices[part])
        if pool is None:
            work.append(functools.partial(corrupt, *arguments))
        else:
            work.append(pool.submit(corrupt, *arguments).result)
    return work


def _finish(kind: str, severity: int, kept, work, cache: CorruptionCache | None):
    if kept is not None:
        return kind, severity, kept
    try:
        corrupted = np.concatenate([result() for result in work])
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process died while generating {kind} images, perhaps out of memory; set "
            "--config.evaluate.corruptions.processes=1"
        ) from error
    if cache:
        cache.write(kind, severity, corrupted)
    return kind, severity, corrupted


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _worker_processes(count: int) -> Iterator[Executor]:
    # Not forked, which is unsafe while JAX's threads are running.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    """Leaves Ctrl-C to the parent process, and exits with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, daemon=True).start()
