"""Figures of merit that a common class cannot make look good: of every class alike, and of classes in an order."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import cohen_kappa_score

from ssl_diffusion.errors import DataError, nearest_names, shown

__all__ = [
    "METRICS",
    "bootstrap_intervals",
    "check_metric",
    "class_metrics",
    "figure_of_merit",
    "macro_f1",
    "one_versus_rest",
    "ordinal_metrics",
]

# name of a figure: the same in words
METRICS: dict[str, str] = {
    "accuracy": "accuracy",
    "balanced-accuracy": "balanced accuracy",
    "macro-f1": "macro F1",
    "auroc": "AUROC",
    "average-precision": "average precision",
}

_DRAWS = 200


def class_metrics(p: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float]:
    """Figures in which every class that occurs counts the same, beside the accuracy of always saying the most frequent class.

    Args:
        p: Class probabilities, (n, K).
        labels: Classes, int64 (n,), or 0/1 for every class, (n, K), for multi-label data.

    Returns:
        `balanced_accuracy` (mean recall; of multi-label data the mean of recalls of "yes" and "no"), `macro_f1`, `auroc` and
        `average_precision` (means of one class versus the rest), `majority_accuracy`. NaN where no class allows it.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> class_metrics(p, np.array([0, 0, 1]))["balanced_accuracy"]
        1.0
    """
    truth = _columns(labels, p.shape[1])
    said = p > 0.5 if labels.ndim == 2 else _columns(p.argmax(axis=1), p.shape[1])
    hits, positives = (truth & said).sum(axis=0), truth.sum(axis=0)
    occurs, n = positives > 0, len(truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / positives
        specificity = (~truth & ~said).sum(axis=0) / (n - positives)
    auroc, precision = one_versus_rest(p, labels)
    rates = np.nanmean([recall, specificity], axis=0) if labels.ndim == 2 else recall[occurs]
    shares = positives / n
    majority = np.maximum(shares, 1 - shares).mean() if labels.ndim == 2 else shares.max()
    return {
        "balanced_accuracy": float(rates.mean()),
        "macro_f1": float(macro_f1(truth, said)[0]),
        "auroc": _mean(auroc),
        "average_precision": _mean(precision),
        "majority_accuracy": float(majority),
    }


def macro_f1(
    truth: NDArray[np.bool_], said: NDArray[np.bool_], weights: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Mean F1 of the classes that occur or are predicted.

    Args:
        truth: Classes of the samples, bool (n, K).
        said: Predicted classes, bool (n, K).
        weights: Weights of the samples, float32 (draws, n), such as how often a bootstrap draws each. None: one draw of all.

    Returns:
        The mean of every draw, float64 (draws,); NaN where no class occurs or is predicted.

    Example:
        >>> macro_f1(np.array([[True, False], [False, True]]), np.array([[True, False], [True, False]])).round(3)
        array([0.333])
    """
    w = np.ones((1, len(truth)), np.float32) if weights is None else weights
    hits, named = w @ (truth & said).astype(np.float32), w @ (truth.astype(np.float32) + said)
    counted = (named > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(named > 0, 2 * hits.astype(np.float64) / named, 0)
        return np.asarray(f1.sum(axis=1) / counted)


def check_metric(name: str) -> None:
    """Refuse a name that is none of :data:`METRICS`.

    Args:
        name: Name of a figure.

    Raises:
        DataError: If there is no such figure.
    """
    if name not in METRICS:
        raise DataError(f"there is no metric {shown(name)}; {nearest_names(name, list(METRICS))}")


def figure_of_merit(name: str, p: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """One figure of predictions, in [0, 1], higher is better; NaN where no class allows it.

    Args:
        name: Name of the figure, one of :data:`METRICS`.
        p: Class probabilities, (n, K).
        labels: Classes as :func:`class_metrics` takes them.

    Raises:
        DataError: If there is no such figure.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
        >>> figure_of_merit("accuracy", p, np.array([0, 0, 1])), figure_of_merit("balanced-accuracy", p, np.array([0, 0, 1]))
        (0.6666666666666666, 0.5)
    """
    check_metric(name)
    if name == "accuracy":
        said = p > 0.5 if labels.ndim == 2 else p.argmax(axis=1)
        return float((said == labels).mean())
    return class_metrics(p, labels)[name.replace("-", "_")]


def one_versus_rest(p: NDArray[np.floating], labels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area under the ROC curve and average precision of every class versus the rest, float64 (K,) each.

    Args:
        p: Class probabilities, (n, K).
        labels: Classes as :func:`class_metrics` takes them.

    Returns:
        Both figures; NaN of classes that no sample has, or every one.
    """
    truth = _columns(labels, p.shape[1])
    n, positives = len(truth), truth.sum(axis=0)
    ranks = rankdata(p, axis=0)
    auroc, precision = np.full(p.shape[1], np.nan), np.full(p.shape[1], np.nan)
    for k in np.flatnonzero((positives > 0) & (positives < n)):
        m = int(positives[k])
        auroc[k] = (ranks[truth[:, k], k].sum() - m * (m + 1) / 2) / (m * (n - m))
        order = np.argsort(-p[:, k], kind="stable")
        right, value = truth[order, k], p[order, k]
        last = np.flatnonzero(np.diff(value, append=-np.inf))  # of equal probabilities all are called, or none
        found = np.cumsum(right)[last]
        precision[k] = (np.diff(found, prepend=0) * found / (last + 1)).sum() / m
    return auroc, precision


def bootstrap_intervals(p: NDArray[np.floating], labels: NDArray[np.int64], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the figures of :func:`class_metrics`, at 95 %, from 200 draws of the samples.

    Args:
        p: Class probabilities, (n, K).
        labels: Classes as :func:`class_metrics` takes them.
        seed: Random seed of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = [class_metrics(p[rows], labels[rows]) for rows in (rng.integers(0, len(p), len(p)) for _ in range(_DRAWS))]
    bounds = {}
    for name in ("balanced_accuracy", "macro_f1", "auroc", "average_precision"):
        values = np.array([each[name] for each in drawn])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
        bounds[name] = (float(low), float(high))
    return bounds


def ordinal_metrics(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Figures of classes in an order: `mean_absolute_error` in steps, and `quadratic_kappa` (Cohen 1968).

    Args:
        predicted: Predicted classes, int64 (n,).
        labels: Classes, int64 (n,).

    Example:
        >>> ordinal_metrics(np.array([0, 1, 2]), np.array([0, 1, 2]))["quadratic_kappa"]
        1.0
    """
    same = len(np.union1d(predicted, labels)) < 2  # where chance is right, too, kappa is not defined
    kappa = float("nan") if same else float(cohen_kappa_score(labels, predicted, weights="quadratic"))
    return {"mean_absolute_error": float(np.abs(predicted - labels).mean()), "quadratic_kappa": kappa}


def _columns(labels: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    return np.asarray(labels > 0) if labels.ndim == 2 else labels[:, None] == np.arange(k)


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
