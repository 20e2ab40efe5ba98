"""How well a classifier's probabilities match its accuracy."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def calibration(
    probabilities: Float[np.ndarray, "count classes"],
    labels: Int[np.ndarray, " count"],
    bins: int = 15,
) -> dict[str, Any]:
    """Returns the expected calibration error in % as `ece`, and the bins it is computed from.

    Predictions fall into `bins` bins of equal width by the probability of the predicted class; a
    bin includes its upper end. The error is the mean over images of |accuracy - confidence| in
    their bin (Guo et al., 2017, equation 3). The returned `bins` list the nonempty ones: number of
    images, mean confidence and accuracy, both in %.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    entries = [
        {
            "images": int(here.sum()),
            "confidence": float(confidence[here].mean() * 100),
            "accuracy": float(correct[here].mean() * 100),
        }
        for here in (index == i for i in range(bins))
        if here.any()
    ]
    gaps = [abs(e["accuracy"] - e["confidence"]) * e["images"] for e in entries]
    return {"ece": sum(gaps) / len(labels), "bins": entries}
