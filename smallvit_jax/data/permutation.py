"""Random orders that are the same in every NumPy version."""

import numpy as np
from jaxtyping import Int64


def stable_permutation(count: int, *key: int) -> Int64[np.ndarray, " count"]:
    """Returns a permutation of 0 … count - 1 determined by the integers in `key`.

    Sorts 64-bit words from the Philox generator: NumPy guarantees that these never change, while
    the output of `Generator.permutation` may change between versions (NEP 19), and with it the
    batches of a resumed run.
    """
    seeds = [int(part) % 2**64 for part in key]  # SeedSequence rejects negative integers
    words = np.random.Philox(np.random.SeedSequence(seeds)).random_raw(count)
    return np.argsort(words, kind="stable")
