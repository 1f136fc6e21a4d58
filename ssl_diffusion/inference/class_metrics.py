"""Figures of merit that a common class cannot make look good: of every class alike, and of classes in an order."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
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
_TOGETHER = 50  # draws that are counted at once, which the processor's cache holds of some thousand samples


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
    truth, said = _columns(labels, p.shape[1]), _said(p, labels)
    auroc, precision = one_versus_rest(p, labels)
    shares = truth.mean(axis=0)
    majority = np.maximum(shares, 1 - shares).mean() if labels.ndim == 2 else shares.max()
    return {
        "balanced_accuracy": float(_balanced(truth, said, np.ones((1, len(p)), np.float32), labels.ndim == 2)[0]),
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
    auroc, precision = _ranked(p, _columns(labels, p.shape[1]), np.ones((len(p), 1), np.uint32))
    return auroc[0], precision[0]


def bootstrap_intervals(p: NDArray[np.floating], labels: NDArray[np.int64], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the figures of :func:`class_metrics`, at 95 %, from 200 draws of the samples.

    Args:
        p: Class probabilities, (n, K).
        labels: Classes as :func:`class_metrics` takes them.
        seed: Random seed of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(p)
    times = np.empty((n, _DRAWS), np.uint16 if n < 2**16 else np.uint32)  # how often a draw has a sample; n times in all
    for draw in range(_DRAWS):
        times[:, draw] = np.bincount(rng.integers(0, n, n), minlength=n)
    truth, said, weights = _columns(labels, p.shape[1]), _said(p, labels), np.ascontiguousarray(times.T, np.float32)
    auroc, precision = _ranked(p, truth, times)
    values = {
        "balanced_accuracy": _balanced(truth, said, weights, labels.ndim == 2),
        "macro_f1": macro_f1(truth, said, weights),
        "auroc": np.array([_mean(row) for row in auroc]),
        "average_precision": np.array([_mean(row) for row in precision]),
    }
    bounds = {}
    for name, found in values.items():
        finite = found[np.isfinite(found)]
        low, high = np.quantile(finite, (0.025, 0.975)) if len(finite) else (np.nan, np.nan)
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


def _said(p: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(p > 0.5) if labels.ndim == 2 else _columns(p.argmax(axis=1), p.shape[1])


def _balanced(
    truth: NDArray[np.bool_], said: NDArray[np.bool_], weights: NDArray[np.float32], multilabel: bool
) -> NDArray[np.float64]:
    """Balanced accuracy of every draw, (draws,), by the weights of the samples, (draws, n)."""
    positives = (weights @ truth.astype(np.float32)).astype(np.float64)
    hits = weights @ (truth & said).astype(np.float32)
    negatives = weights.sum(axis=1, keepdims=True) - positives
    right_no = weights @ (~truth & ~said).astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, specificity = hits / positives, right_no / negatives
    if not multilabel:
        return np.asarray(np.where(positives > 0, recall, 0).sum(axis=1) / (positives > 0).sum(axis=1))
    return np.asarray(np.nanmean([recall, specificity], axis=0).mean(axis=1))


def _ranked(
    p: NDArray[np.floating], truth: NDArray[np.bool_], times: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC and average precision of every draw and class, (draws, K), if draws have the samples `times` times, (n, draws).

    Both need only the places of the samples that have the class, so that a class is sorted once for all draws.
    """
    auroc, precision = np.full((times.shape[1], p.shape[1]), np.nan), np.full((times.shape[1], p.shape[1]), np.nan)
    parts = [slice(some, some + _TOGETHER) for some in range(0, times.shape[1], _TOGETHER)]
    together = [np.ascontiguousarray(times[:, part]) for part in parts]
    for c in np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)):
        order = np.argsort(-p[:, c], kind="stable")
        value, right = p[order, c], truth[order, c]
        for part, some in zip(parts, together, strict=True):
            auroc[part, c], precision[part, c] = _ranked_once(order, value, np.flatnonzero(right), some)
    return auroc, precision


def _ranked_once(
    order: NDArray[np.int64], value: NDArray[np.floating], places: NDArray[np.int64], times: NDArray[np.unsignedinteger]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC and average precision of one class and every draw, (draws,), NaN where a draw does not allow them.

    Of samples with equal probabilities all are called, or none, and they win and lose against each other half the time.

    Args:
        order: Samples from the most probable to the least, (n,).
        value: Probabilities in that order, (n,).
        places: Places in it of those that have the class, rising, (m,).
        times: Numbers of times that the draws have the samples, (n, draws).
    """
    n, (first, last) = len(order), _ends(value)
    starts, ends = first[places], last[places] + 1
    cuts = np.unique(np.concatenate([[0], starts, ends, [n]]))
    # How often the samples between two cuts are drawn: a sparse product reads them where they are.
    between = csr_array((np.ones(n, times.dtype), order, cuts), (len(cuts) - 1, n)) @ times
    above = np.concatenate([np.zeros((1, times.shape[1])), np.cumsum(between, axis=0, dtype=np.float64)])
    mine = times[order[places]].astype(np.float64)
    found = np.cumsum(mine, axis=0)
    lower, upper = _ends(value[places])
    called, hits = above[np.searchsorted(cuts, ends)], found[upper]
    before = above[np.searchsorted(cuts, starts)] - (found[lower] - mine[lower])
    positives = found[-1]
    negatives = above[-1] - positives
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = negatives - (called - hits + before) / 2
        known = (positives > 0) & (negatives > 0)
        sums = (mine * (hits / np.maximum(called, 1))).sum(axis=0)
        return (
            np.where(known, (mine * wins).sum(axis=0) / (positives * negatives), np.nan),
            np.where(known, sums / positives, np.nan),
        )


def _ends(value: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the first and the last one of the equal values around every place of sorted values, (n,) each."""
    new = np.concatenate([[True], value[1:] != value[:-1]])
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    return starts[group], np.append(starts[1:], len(value))[group] - 1


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
