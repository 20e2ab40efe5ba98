"""Coordination between the processes of one run."""

from typing import Any

import jax
import numpy as np


def all_processes_agree(good: bool) -> bool:
    """Whether `good` is true in every process; all processes must call it."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(good)).all())


def from_first_process(values: Any) -> Any:
    """Returns the first process's arrays in every process; all processes must call it."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return jax.device_get(multihost_utils.broadcast_one_to_all(values))


def lost_another_process(error: Exception) -> bool:
    """Whether a collective operation failed because another process died."""
    if not jax.distributed.is_initialized():
        return False
    signs = ("gloo", "nccl", "coordination service", "heartbeat", "barrier", "connection reset")
    return any(sign in str(error).lower() for sign in signs)
