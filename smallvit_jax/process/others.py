"""What several processes of one run decide together."""

import jax
import numpy as np


def all_processes_agree(good: bool) -> bool:
    """Whether all processes say so; they wait for each other."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(good)).all())


def lost_another_process(error: Exception) -> bool:
    """Whether work that several processes do together failed because one of them has gone."""
    if not jax.distributed.is_initialized():
        return False
    signs = ("gloo", "nccl", "coordination service", "heartbeat", "barrier", "connection reset")
    return any(sign in str(error).lower() for sign in signs)
