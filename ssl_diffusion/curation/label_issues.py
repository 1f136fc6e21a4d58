"""Labels that are probably wrong, by what a classifier says of samples whose labels it has not seen.

:func:`find_label_issues` works on labels and held-out probabilities, whoever made them; :func:`judge_labels` makes them from a
representation, twice: the second time without the labels that looked wrong the first time, which had taught the classifier.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.curation.held_out import condensed, held_out_probabilities
from ssl_diffusion.curation.label_noise import clean_probabilities, noise_matrix
from ssl_diffusion.errors import DataError

__all__ = ["LEAST_LABELS", "LabelIssues", "find_label_issues", "judge_labels"]

LEAST_LABELS = 3
"""Number of labels that a class needs for its labels to be judged."""

_LEAST_KNOWN = 0.6  # fraction of the surest predictions that the labels confirm, below which a classifier judges nobody
_KEPT = 0.3  # fraction of the labels of a class that the second pass is fitted to in any case


@dataclass(frozen=True)
class LabelIssues:
    """What is known of n labels.

    Attributes:
        wrong: Probability that a label is wrong, float64 (n,), in [0, 1]; NaN where it was not judged.
        suggested: Most probable other class, int64 (n,); -1 where the label was not judged.
        probabilities: Probabilities of the true classes, the given labels regarded, float64 (n, K).
        held_out: Class probabilities by a classifier that has not seen the label, float64 (n, K).
        noise: Probability of the given class (row) for each true class (column), float64 (K, K).
    """

    wrong: NDArray[np.float64]
    suggested: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    held_out: NDArray[np.float64]
    noise: NDArray[np.float64]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Labels that are more probably wrong than right, bool (n,)."""
        return np.asarray(self.wrong > 0.5)

    @property
    def ranked(self) -> NDArray[np.int64]:
        """Numbers of the judged labels, the most suspicious first, int64 (m,)."""
        order = np.argsort(-np.nan_to_num(self.wrong, nan=-1.0), kind="stable")
        return order[: int(np.isfinite(self.wrong).sum())]


def find_label_issues(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> LabelIssues:
    """Rank labels by the probability that they are wrong.

    Args:
        labels: Given classes, int64 (n,), each from 0 to K - 1.
        probabilities: Class probabilities by a classifier that has not seen these labels, (n, K), non-negative; rows sum to 1.

    Returns:
        Probability of an error and the most probable other class of every label.

    Raises:
        DataError: If there are labels of fewer than two classes, or lengths, labels or probabilities are not as described.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05]])
        >>> int(find_label_issues(np.array([0, 1, 1]), p).ranked[0])
        2
    """
    _check(labels, probabilities)
    noise = noise_matrix(labels, probabilities)
    each = np.arange(len(labels))
    posterior = clean_probabilities(labels, probabilities, noise) * noise[labels] + 1e-300
    posterior /= posterior.sum(axis=1, keepdims=True)
    others = posterior.copy()
    others[each, labels] = -1.0
    right = posterior[each, labels]
    return LabelIssues(1 - right, others.argmax(axis=1), posterior, probabilities.astype(np.float64), noise)


def judge_labels(
    z: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> LabelIssues:
    """Judge labels by a linear classifier of representations.

    Args:
        z: Representations of the labeled samples, float32 (n, F).
        labels: Given classes, int64 (n,).
        n_classes: Number of classes, K.
        groups: Number of the group of duplicates of each sample, int64 (n,): no sample is judged by a copy of itself. None: all
            are distinct.
        seed: Random seed of the folds.

    Returns:
        What is known of the labels. Those of classes with fewer than three labels are not judged.

    Raises:
        DataError: If fewer than two classes have three labels, a representation is not finite, or the classes cannot be told
            apart by these representations: what the classifier is surest of, the labels deny in more than four of ten cases.

    Example:
        >>> z = pool.images[:300].reshape(300, -1).astype(np.float32)
        >>> judge_labels(z, pool.labels[:300], 10).ranked[:5].shape
        (5,)
    """
    if not np.isfinite(z).all():
        raise DataError(f"a representation of {_rows(np.asarray(~np.isfinite(z).all(axis=1)))} is not finite: compute it again")
    counts = np.bincount(labels, minlength=n_classes)
    enough = np.flatnonzero(counts >= LEAST_LABELS)
    if len(enough) < 2:
        raise DataError(
            f"label issues need {LEAST_LABELS} labels of each of two classes, and {len(enough)} of {n_classes} classes "
            f"{'has' if len(enough) == 1 else 'have'} as many: give more labels"
        )
    judged = np.flatnonzero(np.isin(labels, enough))
    index = np.full(n_classes, -1)
    index[enough] = np.arange(len(enough))
    x, y = condensed(z)[judged], index[labels[judged]]
    of = None if groups is None else groups[judged]
    p, penalty = held_out_probabilities(x, y, len(enough), groups=of, seed=seed)
    first = find_label_issues(y, p)
    if (known := float(first.noise.diagonal() @ np.bincount(y, minlength=len(enough)) / len(y))) < _LEAST_KNOWN:
        raise DataError(
            f"a classifier of these representations has the given label in only {known:.0%} of the cases that it is surest of, "
            "and is no judge of labels: let a network see the images (a run of them, or --backbone efficientnet-lite0)"
        )
    p, _ = held_out_probabilities(
        x, y, len(enough), groups=of, seed=seed, inverse_penalty=penalty, kept=_trusted(y, first.wrong)
    )
    found = find_label_issues(y, p)
    return _spread(found, judged, enough, len(labels), n_classes)


def _trusted(labels: NDArray[np.int64], wrong: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Labels that look right, and the best ones of each class in any case."""
    kept = wrong <= 0.5
    for k in np.unique(labels):
        of = np.flatnonzero(labels == k)
        kept[of[np.argsort(wrong[of], kind="stable")][: max(2, int(_KEPT * len(of)))]] = True
    return kept


def _spread(found: LabelIssues, judged: NDArray[np.int64], classes: NDArray[np.int64], n: int, n_classes: int) -> LabelIssues:
    """Results on some samples and classes as results on all of them."""
    wrong, suggested = np.full(n, np.nan), np.full(n, -1, dtype=np.int64)
    posterior, held_out, noise = np.zeros((n, n_classes)), np.zeros((n, n_classes)), np.eye(n_classes)
    wrong[judged], suggested[judged] = found.wrong, classes[found.suggested]
    posterior[np.ix_(judged, classes)], held_out[np.ix_(judged, classes)] = found.probabilities, found.held_out
    noise[np.ix_(classes, classes)] = found.noise
    return LabelIssues(wrong, suggested, posterior, held_out, noise)


def _check(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> None:
    if probabilities.ndim != 2 or len(labels) != len(probabilities) or not len(labels):
        raise DataError(f"{len(labels)} labels and probabilities of shape {probabilities.shape} do not go together")
    if not np.isfinite(probabilities).all() or probabilities.min() < 0:
        bad = ~np.isfinite(probabilities).all(axis=1) | (probabilities < 0).any(axis=1)
        raise DataError(f"the probabilities of {_rows(np.asarray(bad))} are missing, not finite or negative: predict again")
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-2):
        off = np.abs(probabilities.sum(axis=1) - 1) > 1e-2
        raise DataError(f"the probabilities of {_rows(off)} do not sum to 1: give probabilities, not scores or logits")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise DataError(f"labels reach from {labels.min()} to {labels.max()}, for {probabilities.shape[1]} classes")
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"all {len(labels)} labels are of one class: which of them are wrong can be told only beside another one"
        )


def _rows(bad: NDArray[np.bool_]) -> str:
    n = int(bad.sum())
    return f"row {int(bad.argmax())}" if n == 1 else f"{n} rows (row {int(bad.argmax())} for one)"
