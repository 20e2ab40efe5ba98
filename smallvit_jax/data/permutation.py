"""Random orders that stay the same in every numpy version."""

import numpy as np
from jaxtyping import Int64


def stable_permutation(count: int, *key: int) -> Int64[np.ndarray, " count"]:
    """Returns the order of 0 … count - 1 that belongs to the integers of `key`.

    It sorts 64-bit words of the Philox generator: numpy promises to keep those, while the output of
    `Generator.permutation` may change between versions (NEP 19), and with it the batches of a
    resumed run.
    """
    seeds = [int(part) % 2**64 for part in key]  # SeedSequence takes no negative integers
    words = np.random.Philox(np.random.SeedSequence(seeds)).random_raw(count)
    return np.argsort(words, kind="stable")
