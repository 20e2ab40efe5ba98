"""RankMe: the effective rank of features, a measure of their quality that needs no labels."""

import numpy as np
from jaxtyping import Float


def rankme(features: Float[np.ndarray, "count width"], epsilon: float = 1e-7) -> float:
    """Effective rank of features, from 1 to their width (Garrido et al., ICML 2023, eq. 1).

    The exponential of the entropy of the singular values, divided by their sum. Comparable only
    between runs of the same width. 1 means that all features are multiples of one vector.
    """
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = singular / max(singular.sum(), epsilon) + epsilon
    return float(np.exp(-(shares * np.log(shares)).sum()))
