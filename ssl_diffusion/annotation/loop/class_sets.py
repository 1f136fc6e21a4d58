"""Multi-label jobs: what a model says of independent classes, and how right it is.

Labels are 0/1 for every class of the job by number, (n, K). A class is predicted if its probability is over one half, as in
:func:`ssl_diffusion.training.evaluate.evaluate_run`.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.accuracy import Estimate
from ssl_diffusion.errors import DataError

__all__ = [
    "AuditByClass",
    "by_class",
    "check_columns",
    "figure_name",
    "macro_f1",
    "predicted_names",
    "predicted_sets",
    "summarized",
    "summary_names",
]

_DRAWS = 200
AuditByClass = dict[str, dict[str, float | None]]
"""By class name: `f1` and `average_precision`, None where no label allows them, and the number `n` of samples that have it."""


def check_columns(classes: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse classes that cannot be columns of a table beside others.

    Args:
        classes: Class names.
        columns: Names of the other columns, in lower case.

    Raises:
        DataError: If a class has the name of another column; names it.

    Example:
        >>> check_columns(["cat", "dog"], ["path"])
    """
    if taken := next((name for name in classes if name.lower() in columns), None):
        raise DataError(f"a table of the labels has a column {taken.lower()!r} besides those of the classes: rename that class")


def predicted_sets(p: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which classes are predicted, bool (n, K).

    Args:
        p: Probabilities, float32 (n, K).
    """
    found: NDArray[np.bool_] = p > 0.5
    return found


def predicted_names(p: NDArray[np.float32], names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Names of the predicted classes of each sample.

    Args:
        p: Probabilities, float32 (n, K).
        names: Class names by number.
    """
    return [tuple(names[k] for k in np.flatnonzero(row).tolist()) for row in predicted_sets(p)]


def summarized(sets: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sets of classes as one number each: that of the only class, K for none, K + 1 for several; int64 (n,).

    Args:
        sets: Classes of each sample, bool (n, K).
    """
    n_classes = sets.sum(axis=1)
    found: NDArray[np.int64] = np.where(n_classes == 1, sets.argmax(axis=1), sets.shape[1] + (n_classes > 1))
    return found


def summary_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the numbers of :func:`summarized`."""
    return (*names, "none of the classes", "several classes")


def figure_name(multilabel: bool) -> str:
    """Name of the figure by which the audit measures the models of a job."""
    return "macro F1" if multilabel else "accuracy"


def macro_f1(p: NDArray[np.float32], labels: NDArray[np.int64], level: float = 0.95) -> Estimate | None:
    """Mean F1 of the classes that occur or are predicted, with a percentile bootstrap interval from 200 draws of the samples.

    Args:
        p: Probabilities, float32 (n, K), n at least 1.
        labels: Labels, int64 (n, K).
        level: Confidence level of the interval.

    Returns:
        The estimate; None if no class occurs or is predicted.
    """
    from ssl_diffusion.inference.class_metrics import macro_f1 as f1_of_draws

    n = len(labels)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _DRAWS).astype(np.float32)
    weights = np.concatenate([np.ones((1, n), np.float32), drawn])
    values = f1_of_draws(labels > 0, predicted_sets(p), weights)
    if not np.isfinite(values[0]):
        return None
    values = values[np.isfinite(values)]
    low, high = np.quantile(values[1:], ((1 - level) / 2, (1 + level) / 2)) if len(values) > 1 else (0.0, 1.0)
    return Estimate(float(values[0]), float(low), float(high), n, figure_name(multilabel=True))


def by_class(p: NDArray[np.float32], labels: NDArray[np.int64], names: tuple[str, ...]) -> AuditByClass:
    """Figures of each class by itself.

    Args:
        p: Probabilities, float32 (n, K).
        labels: Labels, int64 (n, K).
        names: Class names, K of them.
    """
    from ssl_diffusion.inference.class_metrics import one_versus_rest

    truth, said = labels > 0, predicted_sets(p)
    named = truth.sum(axis=0) + said.sum(axis=0)
    hits = (truth & said).sum(axis=0)
    average = one_versus_rest(p, labels)[1].tolist()
    return {
        name: {
            "f1": 2 * int(hits[k]) / int(named[k]) if named[k] else None,
            "average_precision": average[k] if math.isfinite(average[k]) else None,
            "n": int(truth[:, k].sum()),
        }
        for k, name in enumerate(names)
    }
