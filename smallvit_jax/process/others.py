"""Coordination between the processes of one run."""

import jax
import numpy as np


def all_processes_agree(good: bool) -> bool:
    """Whether `good` is true in every process; all processes must call it."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(good)).all())


def lost_another_process(error: Exception) -> bool:
    """Whether a collective operation failed because another process died."""
    if not jax.distributed.is_initialized():
        return False
    signs = ("gloo", "nccl", "coordination service", "heartbeat", "barrier", "connection reset")
    return any(sign in str(error).lower() for sign in signs)
