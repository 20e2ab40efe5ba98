"""Process-wide setup: memory, precision, compilation cache, multi-process runs."""

import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smallvit_jax.errors import UserError
from smallvit_jax.process.others import all_processes_agree
from smallvit_jax.process.platform import platform, set_fused_attention
from smallvit_jax.process.sharding import make_mesh, split_batch

# Seconds to wait for all processes to join, for a heartbeat before a process counts as dead, and
# for the others at shutdown. Processes start together, so a longer wait to join is pointless.
START_TIMEOUT, HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT = 300, 30, 60
_EXIT_DELAY = 3  # seconds
_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    XLA on a CPU, and the prefetch thread everywhere, allocate their working memory again in each
    step; page faults on fresh memory took a sixth of a training step. Call this before anything
    uses a device, because threads keep the settings they started with. No effect without glibc.
    """
    arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2  # <malloc.h>
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def prepare(precision: str, compilation_cache: str, fused_attention: bool):
    """Applies process-wide JAX settings and returns the compute dtype of models.

    Args:
      precision: "float32" (matrix products in full float32 everywhere), "bfloat16", or "auto":
        bfloat16 on GPU and TPU, float32 on CPU. Parameters, softmax, norm statistics and losses
        stay float32.
      compilation_cache: folder for compiled programs, empty for none. The environment variable
        JAX_COMPILATION_CACHE_DIR takes precedence.
      fused_attention: whether attention may be one kernel, where there is one (see
        `models.fused_attention`).
    """
    set_fused_attention(fused_attention)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = os.path.expanduser(compilation_cache) or None
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if precision == "auto":
        precision = "float32" if platform() == "cpu" else "bfloat16"
    jax.config.update(
        "jax_default_matmul_precision", "highest" if precision == "float32" else "default"
    )
    return jnp.dtype(precision)


def stage_key(seed: int, stage: str) -> jax.Array:
    """Returns the PRNG key of a stage; every stage has a different one."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))


def join_processes(distributed: str) -> None:
    """Joins the other processes of a multi-process run, if this process was started as part of one.

    Call this before anything uses a device. In a multi-process run, only the first process prints
    to stdout and shows warnings.

    Args:
      distributed: "auto" joins if JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are
        set, or if Slurm or Open MPI started several processes; "on" always joins and leaves
        detection to JAX, which also recognizes TPU slices and Kubernetes; "off" never joins.

    Raises:
      UserError: the variables are incomplete or contradictory, or joining failed.
    """
    if distributed == "off":
        return
    arguments = _environment_arguments()
    if distributed == "auto" and not arguments and not _launched():
        return
    # Its SIGTERM handler would replace ours, which stops all processes together.
    jax.config.update("jax_enable_preemption_service", False)
    waiting = threading.Timer(START_TIMEOUT, _give_up)
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=START_TIMEOUT
            + 60,  # JAX's own timeout aborts with a stack trace
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"this process could not join the other processes of its run ({reason}); set "
            f"{', '.join(_ENVIRONMENT)}, or set runtime.distributed=off"
        ) from error
    finally:
        waiting.cancel()
    _connect()
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        warnings.simplefilter("ignore", UserWarning)


def _connect() -> None:
    """Runs a first collective while all processes are at the same point.

    On a CPU the first collective of a group of devices times out after 30 s, and later the
    processes may be further apart than that because of data loading or compilation.
    """
    all_processes_agree(True)
    ones = split_batch(np.ones(jax.device_count(), np.float32), make_mesh())
    jax.block_until_ready(jax.jit(jnp.sum)(ones))


def _give_up() -> None:
    print(
        f"error: the other processes of this run did not join within {START_TIMEOUT} s; start all "
        "of them, each with its own JAX_PROCESS_ID, and check that JAX_COORDINATOR_ADDRESS is a "
        "free port on the machine of the first process that the others can reach",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def leave_processes(code: int) -> None:
    """Exits with `code` after this process of a multi-process run failed.

    A normal exit would deadlock: JAX waits for the other processes, which wait for this one. JAX
    kills the others as soon as the first process exits, so that one waits before it exits.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        if jax.process_index() == 0:
            time.sleep(_EXIT_DELAY)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _environment_arguments() -> dict[str, Any]:
    """Reads arguments of `jax.distributed.initialize` from the environment; {} if none are set."""
    address, *numbers = (os.environ.get(name, "") for name in _ENVIRONMENT)
    if not (address or any(numbers)):
        return {}
    if not (":" in address and all(number.isdecimal() for number in numbers)) or not (
        int(numbers[1]) < int(numbers[0])
    ):
        given = ", ".join(f'{name}="{os.environ.get(name, "")}"' for name in _ENVIRONMENT)
        raise UserError(
            f"the environment has {given}; set all three: HOST:PORT of the first process, the "
            "number of processes, and the index of this process, counted from 0"
        )
    first = {"coordinator_address": address, "cluster_detection_method": "deactivate"}
    return first | {"num_processes": int(numbers[0]), "process_id": int(numbers[1])}


def _launched() -> bool:
    """Whether Slurm's srun or Open MPI's mpirun started this process as one of several."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and os.environ.get("SLURM_NTASKS", "1")
    return any(
        str(count).isdecimal() and int(count) > 1
        for count in (slurm, os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    )
