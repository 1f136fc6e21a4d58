"""Accuracy of a model on the pool, estimated from an audit set, or from samples that were drawn to train it.

Labels of samples drawn with known probabilities, all above zero, give an unbiased estimate even if they were drawn for training
(LURE; Farquhar, Gal and Rainforth 2021, arXiv 2101.11665; Kossen et al. 2021, arXiv 2103.05331). With M draws of N samples, the
m-th with probability q_m given those before it, and losses L_m,

    R = 1/M sum_m v_m L_m,    v_m = 1 + (N - M) / (N - m) * (1 / ((N - m + 1) q_m) - 1).

The interval is Wilson's for the number of uniform draws that have the same variance as R (the sum of the squared martingale
differences that make up LURE), with Student's t for the effective number of terms in that variance (Satterthwaite 1946), since
few errors with large weights carry little information.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError

__all__ = ["Estimate", "audit_figure", "audit_interval", "lure", "lure_weights", "majority_accuracy"]


@dataclass(frozen=True)
class Estimate:
    """Accuracy, or another figure that is named, and its confidence interval, in [0, 1], and the number of labels used."""

    accuracy: float
    low: float
    high: float
    n: int
    figure: str = "accuracy"


def audit_interval(correct: int, n: int, level: float = 0.95) -> Estimate:
    """Accuracy from n labels of uniformly drawn samples, with Wilson's interval; without labels the interval is [0, 1]."""
    if not 0 <= correct <= n:
        raise DataError(f"{correct} of {n} labels cannot be correct")
    if not n:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    low, high = _wilson(correct / n, n, _normal_quantile(0.5 + level / 2))
    return Estimate(correct / n, low, high, n)


def audit_figure(name: str, p: NDArray[np.float32], labels: NDArray[np.int64]) -> Estimate | None:
    """Another figure than the accuracy from labels of uniformly drawn samples, with its bootstrap interval at 95 %.

    Args:
        name: Name of the figure, one of :data:`ssl_diffusion.inference.class_metrics.METRICS`.
        p: Probabilities, float32 (n, K), n at least 1.
        labels: Classes, int64 (n,) in [0, K), or 0/1 for every class, (n, K), for multi-label data.

    Returns:
        The figure; None where no label allows it.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], np.float32)
        >>> audit_figure("balanced-accuracy", p, np.array([0, 0, 1])).accuracy
        0.5
    """
    from ssl_diffusion.inference.class_metrics import METRICS, bootstrap_intervals, class_metrics

    key, found = name.replace("-", "_"), class_metrics(p, labels)
    if not np.isfinite(found[key]):
        return None
    low, high = bootstrap_intervals(p, labels)[key]
    low, high = (low, high) if np.isfinite([low, high]).all() else (0.0, 1.0)
    return Estimate(found[key], low, high, len(labels), METRICS[name])


def majority_accuracy(labels: NDArray[np.int64]) -> float:
    """Accuracy of always saying the most frequent class.

    Args:
        labels: Classes, int64 (n,) in [0, K), n at least 1.

    Example:
        >>> majority_accuracy(np.array([0, 2, 2, 2]))
        0.75
    """
    return float(np.bincount(labels).max() / len(labels))


def lure_weights(probabilities: NDArray[np.float64], n_pool: int) -> NDArray[np.float64]:
    """v_m of the module's docstring, (M,).

    Args:
        probabilities: Probabilities q_m of the draws in their order, each given the earlier ones, in (0, 1], (M,).
        n_pool: Number of samples in the pool, N, at least M.

    Raises:
        DataError: If a probability is not in (0, 1], or there are more draws than samples.
    """
    q = np.asarray(probabilities, dtype=np.float64)
    if not ((q > 0) & (q <= 1 + 1e-9)).all():
        raise DataError("probabilities of draws must be above 0 and at most 1: these samples were not drawn at random")
    if len(q) > n_pool:
        raise DataError(f"{len(q)} draws from {n_pool} samples are not possible")
    m = np.arange(1, len(q) + 1)
    factor = (n_pool - len(q)) / np.maximum(n_pool - m, 1)
    weights: NDArray[np.float64] = 1 + factor * (1 / ((n_pool - m + 1) * q) - 1)
    return weights


def lure(correct: NDArray[np.bool_], probabilities: NDArray[np.float64], n_pool: int, level: float = 0.95) -> Estimate:
    """Accuracy on the pool from labels of samples drawn with known probabilities.

    Args:
        correct: Whether the model that drew predicted the label, in the order of the draws, (M,).
        probabilities: See :func:`lure_weights`.
        n_pool: Number of samples in the pool, N.
        level: Confidence level of the interval.

    Raises:
        DataError: See :func:`lure_weights`.
    """
    q = np.asarray(probabilities, dtype=np.float64)
    weights = lure_weights(q, n_pool)
    if (n := len(q)) < 2:
        return Estimate(float("nan"), 0.0, 1.0, n)
    loss = 1.0 - np.asarray(correct, dtype=np.float64)
    risk = float((weights * loss).mean())
    # R is the mean of c_m a_m, and each a_m is unbiased given the earlier draws.
    m = np.arange(1, n + 1)
    a = loss / (n_pool * q) + np.concatenate([[0.0], np.cumsum(loss)[:-1]]) / n_pool
    c = n_pool * (n_pool - n) / (np.maximum(n_pool - m, 1) * (n_pool - m + 1))
    parts = np.square(c * (a - risk)) / n**2
    # At 0 and 1 the variance is 0 whatever the number of draws.
    inside = float(np.clip(risk, 0.5 / n, 1 - 0.5 / n))
    variance = parts.sum()
    if variance > 0:
        draws, degrees = inside * (1 - inside) / variance, variance**2 / np.square(parts).sum()
    else:
        draws, degrees = weights.sum() ** 2 / np.square(weights).sum(), n
    low, high = _wilson(1 - inside, draws, _student_quantile(0.5 + level / 2, max(degrees, 1)))
    return Estimate(1 - float(np.clip(risk, 0, 1)), low, high, n)


# The functions below are those that scipy.stats asks, which takes over a second to import.
def _normal_quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def _student_quantile(p: float, degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, p))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(max(0.0, p * (1 - p) / n) + z * z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
