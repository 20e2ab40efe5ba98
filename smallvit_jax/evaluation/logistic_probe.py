"""Logistic regression on frozen features, as a classifier to start fine-tuning from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

UNSEEN = 10.0  # how far below the smallest bias those of classes without labels are


class Classifier(NamedTuple):
    """A linear classifier: logits = features · kernel + bias."""

    kernel: Float[np.ndarray, "width classes"]
    bias: Float[np.ndarray, " classes"]


def fit_classifier(
    features: Float[np.ndarray, "labeled width"],
    labels: Int[np.ndarray, " labeled"],
    all_features: Float[np.ndarray, "images width"],
    num_classes: int,
) -> Classifier:
    """Fits multinomial logistic regression and returns it for features as they are.

    Features are standardized with the mean and deviation of `all_features`, which need no labels;
    the regression has scikit-learn's default L2 penalty (C = 1). The standardization is folded into
    the returned weights. A class without labels is never predicted.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    mean, std = all_features.mean(axis=0), np.maximum(all_features.std(axis=0), 1e-6)
    present = np.unique(labels)
    weights = np.zeros((features.shape[1], num_classes))
    bias = np.zeros(num_classes)
    if len(present) > 1:
        fitted = LogisticRegression(max_iter=1000).fit((features - mean) / std, labels)
        rows, constants = fitted.coef_, fitted.intercept_
        if len(present) == 2:  # scikit-learn has one row, whose sign tells the two apart
            rows, constants = np.stack([-rows[0], rows[0]]) / 2, np.array([-0.5, 0.5]) * constants
        weights[:, present], bias[present] = rows.T, constants
    bias[np.setdiff1d(np.arange(num_classes), present)] = bias.min() - UNSEEN
    kernel = weights / std[:, None]
    return Classifier(kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32))
