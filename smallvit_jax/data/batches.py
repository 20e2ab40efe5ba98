"""The order of training images, as a pure function of seed and step."""

import functools

import numpy as np
from jaxtyping import Int32

from smallvit_jax.data.permutation import stable_permutation
from smallvit_jax.errors import UserError

_BATCH_KEY = 2  # makes these random orders differ from others with the same seed


class BatchOrder:
    """Which images steps 0, 1, 2, … train on; stateless.

    An epoch is `passes` shuffled passes over the images, one after the other; images that do not
    fill a batch are dropped only at the end of the epoch (reference utils/sampler.py:23: three
    passes of 50,000 in batches of 256 are 585 steps). Raises UserError for a batch larger than the
    training set; `field` is the batch size's name in the message.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        passes: int = 1,
        *,
        field: str = "batch_size",
    ):
        if batch_size < 1:
            raise UserError(f"{field}={batch_size} is not a valid batch size; give at least 1")
        if passes < 1:
            raise ValueError(f"passes={passes} must be at least 1")
        if num_examples < batch_size:
            raise UserError(
                f"{field}={batch_size} is larger than the {num_examples} training images; choose "
                f"at most {num_examples}, or use more images"
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.passes = passes
        self.field = field
        self.steps_per_epoch = num_examples * passes // batch_size
        # Two epochs, because a block may span both. Threads may share the cache.
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffle_epoch)

    def indices(self, step: int) -> Int32[np.ndarray, " batch"]:
        """The images of one step; steps count from 0 across epochs."""
        epoch, row = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[row]

    def block(self, step: int, count: int) -> Int32[np.ndarray, "count batch"]:
        """The images of `count` steps from `step` on, across epoch boundaries."""
        return np.stack([self.indices(s) for s in range(step, step + count)])

    def _shuffle_epoch(self, epoch: int) -> Int32[np.ndarray, "steps batch"]:
        order = np.concatenate(
            [
                stable_permutation(self.num_examples, self.seed, _BATCH_KEY, epoch, number)
                for number in range(self.passes)
            ]
        )
        used = order[: self.steps_per_epoch * self.batch_size].astype(np.int32)
        used.flags.writeable = False  # callers get views
        return used.reshape(self.steps_per_epoch, self.batch_size)
