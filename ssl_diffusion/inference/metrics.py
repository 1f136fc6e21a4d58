"""Figures of merit of predictions: accuracy, negative log-likelihood, calibration."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

__all__ = ["classification_metrics", "expected_calibration_error"]


def classification_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """`accuracy`, `nll` and `ece` of logits (n, K) against labels (n,), or (n, K) with 0/1 for multi-label data.

    Example:
        >>> logits = np.array([[2.0, 0.0], [0.0, 2.0]], np.float32)
        >>> classification_metrics(logits, np.array([0, 1]))["accuracy"]
        1.0
    """
    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    if y.ndim == 2:
        p = z.sigmoid().numpy()
        right = (p > 0.5) == (labels > 0.5)
        confidence = np.maximum(p, 1 - p)
        nll = functional.binary_cross_entropy_with_logits(z, y.float())
    else:
        p = z.softmax(dim=1).numpy()
        right = p.argmax(axis=1) == labels
        confidence = p.max(axis=1)
        nll = functional.cross_entropy(z, y)
    return {
        "accuracy": float(right.mean()),
        "nll": float(nll),
        "ece": expected_calibration_error(confidence.ravel(), right.ravel()),
    }


def expected_calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean over samples of |accuracy - confidence| of their bin; 0 is perfectly calibrated, lower is better.

    Args:
        confidence: probability of the predicted class, (n,), in [0, 1].
        right: whether the prediction was right, (n,).
        bins: number of equally wide bins over [0, 1].

    Example:
        >>> expected_calibration_error(np.array([0.75] * 4, np.float32), np.array([True, True, True, False]))
        0.0
    """
    index = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
