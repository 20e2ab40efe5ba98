"""What several processes of one run decide together."""

import jax
import numpy as np


def everywhere(good: bool) -> bool:
    """Whether all processes say so; they wait for each other."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(good)).all())
