"""Pools with images of none of the classes: samples that belong to a class first, then the useful ones among them.

"None of these" is an answer like any other: a class of that name, which the head learns as one more class. Labels of it are
wasted as far as the other classes go, so that every strategy chooses among the candidates that most probably are of one of
these, as if the class were not there (purity first, then information: Park et al. 2022, arXiv 2210.07805); strategies whose
draws measure the model draw among all.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.inference.projection import ProjectedRows
from ssl_diffusion.inference.rows import SelectedRows

__all__ = ["NONE_OF_THESE", "measures", "none_of", "none_to_avoid", "purest", "purity"]

NONE_OF_THESE = "none of these"
_KEPT = 0.75  # of the candidates that are expected to be of a class
_SEEN = 0.9  # of the classes have a label before images of none are left out
_TIMES = 3  # batches at least
_BLOCK = 4096


def none_of(classes: Sequence[str]) -> int | None:
    """Number of the class that means none of the others; None if there is no class of that name.

    Example:
        >>> none_of(("cat", "dog", "none of these"))
        2
    """
    return next((k for k, name in enumerate(classes) if name.strip().lower() == NONE_OF_THESE), None)


def none_to_avoid(
    classes: Sequence[str], labels: NDArray[np.int64], in_use: Sequence[int] | NDArray[np.int64] | None = None
) -> int | None:
    """Number of the class "none of these" if candidates like it can be left out; None if there is no such class, or it is too
    early: images of a class without any label would be taken for it.

    Args:
        classes: Names of the classes.
        labels: Classes of the labeled samples, int64 (m,).
        in_use: Numbers of the classes that labels are wanted of; None: all.
    """
    none = none_of(classes)
    others = [k for k in (range(len(classes)) if in_use is None else in_use) if k != none]
    seen = np.isin(others, labels)
    return none if len(others) and seen.mean() >= _SEEN else None


def measures(name: str) -> bool:
    """Whether labels that a strategy draws measure the model: it draws among all, or the measure would be of the pure ones.

    Args:
        name: Name of the strategy.
    """
    return name == "random" or name.endswith(":sampled")


def purity(c: Candidates) -> NDArray[np.float64]:
    """Probability that each candidate is of one of the classes, (N,); 1 while no label, or every label, is none of them.

    The mean of two classifiers where there are two: the head's own probability of the other classes, and a logistic regression
    of "one of these" on the representation, which is fitted to the labels.

    Args:
        c: Candidates whose class `none` means none of the others.
    """
    from sklearn.linear_model import LogisticRegression

    foreign = c.labeled_classes == c.none
    if c.none is None or not foreign.any() or foreign.all():
        return np.ones(len(c))
    x = c.labeled_representation.astype(np.float64)
    mean, scale = x.mean(axis=0), float(x.std()) or 1.0
    classifier = LogisticRegression(C=10 / x.shape[1], max_iter=300).fit((x - mean) / scale, ~foreign)
    found = np.empty(len(c))
    for start in range(0, len(c), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(c)))
        found[rows] = classifier.predict_proba((np.asarray(c.representation[rows]) - mean) / scale)[:, 1]
    if c.probabilities is not None and c.none < c.probabilities.shape[1]:
        found = (found + 1 - c.probabilities[:, c.none]) / 2
    return found


def purest(c: Candidates, n: int) -> tuple[Candidates, NDArray[np.int64]]:
    """What a strategy is to choose from: the candidates that are most probably of a class, without the class "none of these".

    As many are kept as three quarters of those that are expected to be of a class, but three batches at least; all while no
    label says which are not.

    Args:
        c: Candidates whose class `none` means none of the others.
        n: Samples to choose.

    Returns:
        Candidates, and their positions among the given ones, increasing, int64.
    """
    pure = purity(c)
    rows = np.arange(len(c))
    if (pure < 1).any():
        kept = max(round(_KEPT * float(pure.sum())), _TIMES * n, 1)
        rows = np.sort(np.lexsort((c.rng.permutation(len(c)), -pure))[:kept])
    return _without(c, rows), rows


def _without(c: Candidates, rows: NDArray[np.int64]) -> Candidates:
    """Some of the candidates, with the class "none of these" left out of labels and probabilities."""
    kept = c.labeled_classes != c.none
    classes = c.labeled_classes[kept]
    p = c.probabilities
    if p is not None:
        p = p[rows]
        if c.none is not None and c.none < p.shape[1]:
            p = np.delete(p, c.none, axis=1)
            p = p / p.sum(axis=1, keepdims=True).clip(1e-12)
    x = c.representation
    return replace(
        c,
        representation=x.take(rows) if isinstance(x, ProjectedRows) else x[rows],
        probabilities=p if p is not None and p.shape[1] else None,
        labeled_representation=c.labeled_representation[kept],
        labeled_classes=classes - (classes > c.none) if c.none is not None else classes,
        n_classes=max(0, c.n_classes - 1),
        images=None if c.images is None else SelectedRows(c.images, rows),
        labeled_images=None if c.labeled_images is None else c.labeled_images[kept],
        none=None,
        asked_again=None if c.asked_again is None else c.asked_again[kept],
    )
