"""Process-wide settings of a run: precision, compiled-program cache, its other processes."""

import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from smallvit_jax.errors import UserError
from smallvit_jax.process.others import all_processes_agree
from smallvit_jax.process.sharding import make_mesh, split_batch

# Seconds. Processes start together, so who waits longer for another waits in vain; one whose
# machine has gone silent counts as dead after the second; the third is for the end of a run.
START_TIMEOUT, HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT = 300, 30, 60
_LEAVE_TIME = 3
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step instead of returning it.

    XLA on a CPU, and the prefetch thread everywhere, ask for their working memory anew in each
    step; touching pages that the system has just handed out took a sixth of a training step.
    Call it before anything that uses a device: threads keep the settings they began with. Only
    glibc has them; elsewhere nothing happens.
    """
    arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2  # <malloc.h>
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def prepare(precision: str, compilation_cache: str):
    """Applies the settings to JAX and returns the dtype that models compute in.

    Args:
      precision: "float32" (matrix products in full float32 everywhere), "bfloat16", or "auto":
        bfloat16 on GPU and TPU, float32 on CPU. Parameters, softmax, norms' statistics and
        losses stay float32.
      compilation_cache: folder for compiled programs; empty: none. The environment's
        JAX_COMPILATION_CACHE_DIR comes first.

    All settings are for the whole process.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = os.path.expanduser(compilation_cache) or None
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    jax.config.update(
        "jax_default_matmul_precision", "highest" if precision == "float32" else "default"
    )
    return jnp.dtype(precision)


def stage_key(seed: int, stage: str) -> jax.Array:
    """The key that all randomness of a stage derives from; other stages have others."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))


def join_processes(distributed: str) -> None:
    """Makes this process part of a run of several, where it was started as one of them.

    Call it before anything that uses a device. Only the first process prints to stdout then, and
    gives the warnings that all of them would give.

    Args:
      distributed: "auto" joins where the environment has JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
        and JAX_PROCESS_ID, or where Slurm or Open MPI has started several processes; "on" leaves it
        to JAX, which recognises TPU slices and Kubernetes, too; "off" stays alone.

    Raises:
      UserError: the variables contradict each other, or the other processes do not come.
    """
    if distributed == "off":
        return
    by_hand = _place_by_hand()
    if distributed == "auto" and not by_hand and not _launched():
        return
    # Its SIGTERM handler would take the place of ours, which stops all processes together.
    jax.config.update("jax_enable_preemption_service", False)
    waiting = threading.Timer(START_TIMEOUT, _give_up)
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **by_hand,
            initialization_timeout=START_TIMEOUT + 60,  # then it aborts, with a stack trace
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"this process could not join the others of its run ({reason}); give it its place by "
            f"{', '.join(_BY_HAND)}, or set runtime.distributed=off"
        ) from error
    finally:
        waiting.cancel()
    _connect()
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        warnings.simplefilter("ignore", UserWarning)


def _connect() -> None:
    """Lets the processes find each other while they are at the same point.

    On a CPU a group of devices that communicates for the first time gives up after 30 s, which is
    less than what loading data or compiling may take longer in one process than in another.
    """
    all_processes_agree(True)
    ones = split_batch(np.ones(jax.device_count(), np.float32), make_mesh())
    jax.block_until_ready(jax.jit(jnp.sum)(ones))


def _give_up() -> None:
    print(
        f"error: the other processes of this run have not come within {START_TIMEOUT} s; start "
        "them all, each with its own JAX_PROCESS_ID, and see that JAX_COORDINATOR_ADDRESS is a "
        "free port of the first one's machine that the others can reach",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def leave_processes(code: int) -> None:
    """Exits with `code` from a run of several processes that has failed in this one.

    Otherwise JAX would wait at exit until the others end, who wait for this one. When the first
    process goes, JAX ends the others at once: it leaves them some seconds to end by themselves.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        if jax.process_index() == 0:
            time.sleep(_LEAVE_TIME)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _place_by_hand() -> dict[str, str | int]:
    """Arguments of `jax.distributed.initialize` from the environment; none where it has none."""
    address, *numbers = (os.environ.get(name, "") for name in _BY_HAND)
    if not (address or any(numbers)):
        return {}
    if not (":" in address and all(number.isdecimal() for number in numbers)) or not (
        int(numbers[1]) < int(numbers[0])
    ):
        given = ", ".join(f'{name}="{os.environ.get(name, "")}"' for name in _BY_HAND)
        raise UserError(
            f"the environment has {given}; set all three: HOST:PORT of the first process, how many "
            "processes there are, and which of them this one is, counted from 0"
        )
    place = {"coordinator_address": address, "cluster_detection_method": "deactivate"}
    return place | {"num_processes": int(numbers[0]), "process_id": int(numbers[1])}


def _launched() -> bool:
    """Whether Slurm's srun or Open MPI's mpirun has started this process as one of several."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and os.environ.get("SLURM_NTASKS", "1")
    return any(
        str(count).isdecimal() and int(count) > 1
        for count in (slurm, os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    )
