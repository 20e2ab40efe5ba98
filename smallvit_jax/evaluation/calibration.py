"""Whether a classifier's probabilities can be believed."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def calibration(
    probabilities: Float[np.ndarray, "count classes"],
    labels: Int[np.ndarray, " count"],
    bins: int = 15,
) -> dict[str, Any]:
    """Expected calibration error in %, and what it is made of.

    Predictions fall into `bins` of equal width by the probability of the predicted class, the upper
    end belonging to the bin; the error is the mean over images of |accuracy - confidence| of their
    bin (Guo et al., 2017, equation 3). `bins` has one entry for each that is not empty: images,
    mean confidence and accuracy, both in %.
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
