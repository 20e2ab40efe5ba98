"""Reading datasets, choosing subsets of them, ordering batches and keeping the images where steps
need them."""

from smallvit_jax.data.reading import DatasetInfo, load_split

__all__ = ["DatasetInfo", "load_split"]
