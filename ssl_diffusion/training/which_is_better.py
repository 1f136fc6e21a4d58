"""Whether a trained model or the probe that it began at is kept, by their scores and by the votes of neighbors in the pool.

The grounds are those of :mod:`ssl_diffusion.training.starting_point`.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ssl_diffusion.training.settings import MetricName

__all__ = ["Score", "decide", "decide_beside_backbone", "mcnemar", "neighbor_votes", "worse"]

Score = Literal["nll"] | MetricName

_NEIGHBORS, _COMPONENTS = 10, 64
_SURE = {"validation": 1.0, "neighbors": 1.64}  # standard errors by which a model beside a backbone has to be better


def decide(
    probe: dict[str, float | None], trained: dict[str, float | None], statistic: float | None, score: Score = "accuracy"
) -> tuple[Literal["trained", "probe"], str]:
    """Which model to keep, and what decided.

    Args:
        probe: Scores of the probe, see :class:`StartComparison`.
        trained: Scores of the trained model; one that is not a number is worse than any other.
        statistic: McNemar's statistic of the neighbors' votes, positive in favor of the probe; None if it was not measured.
        score: Meaning of the scores.
    """
    mine, theirs = trained["validation"], probe["validation"]
    if mine is not None and theirs is not None:
        return ("probe" if worse(mine, theirs, score) else "trained"), "validation"
    if (reason := _against(probe, trained, statistic, score)) is not None:
        return "probe", reason
    return "trained", "nothing against it"


def decide_beside_backbone(
    probe: dict[str, float | None],
    trained: dict[str, float | None],
    statistic: float | None,
    on_held_out: float | None,
    score: Score = "accuracy",
) -> tuple[Literal["trained", "probe"], str]:
    """Which model to keep beside a backbone, and what decided: the trained one only where it is better.

    Args:
        probe: Scores of the probe on both, see :class:`StartComparison`.
        trained: Scores of the trained model.
        statistic: McNemar's statistic of the neighbors' votes, positive in favor of the probe; None if it was not measured.
        on_held_out: The same of the validation labels; None without, or where another score than the accuracy decides.
        score: Meaning of the scores.
    """
    mine, theirs = trained["validation"], probe["validation"]
    if mine is not None and theirs is not None:
        better = worse(theirs, mine, score) if on_held_out is None else on_held_out < -_SURE["validation"]
        return ("trained" if better and math.isfinite(mine) else "probe"), "validation"
    if (reason := _against(probe, trained, statistic, score)) is not None:
        return "probe", reason
    if statistic is not None and statistic < -_SURE["neighbors"]:
        return "trained", "neighbors"
    return "probe", "nothing for it"


def _against(
    probe: dict[str, float | None], trained: dict[str, float | None], statistic: float | None, score: Score
) -> str | None:
    """What speaks against the trained model where no labels were held out; None if nothing does."""
    own, folds = trained["own_labels"], probe["folds"]
    if own is not None and folds is not None and worse(own, folds, score):
        return "own labels"
    return "neighbors" if statistic is not None and statistic > 2 else None


def worse(value: float, other: float, score: Score) -> bool:
    """Whether a score is not as good as another; one that is not a number is worse than any.

    Args:
        value: Score of one model.
        other: Score of another one.
        score: Meaning of the scores.
    """
    return not (value <= other if score == "nll" else value >= other)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """McNemar's statistic of two classifications of the same images, positive if the first is right more often.

    Args:
        first: Correctness of one classification, image by image, (n,).
        second: Correctness of the other classification, (n,).
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return (only_first - only_second) / max(1.0, float(np.sqrt(only_first + only_second)))


def neighbor_votes(
    images: NDArray[np.uint8], pool: NDArray[np.uint8], labelings: list[NDArray[np.int64]], n_classes: int
) -> list[NDArray[np.int64]]:
    """Classes of images by a vote of their ten nearest neighbors in a pool, among 64 principal components of the pixels.

    Args:
        images: Images as rows, uint8 (n, p).
        pool: Images that have been labeled, uint8 (m, p).
        labelings: Labelings of the pool, int64 (m,) each.
        n_classes: Number of classes.

    Returns:
        Classes of the images under each labeling, int64 (n,) each.
    """
    x = pool.astype(np.float32)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = scale + 1e-3 * max(float(x.std()), 1e-6)  # pixels that never vary stay at zero
    components = PCA(min(_COMPONENTS, *x.shape), svd_solver="randomized", random_state=0).fit((x - mean) / scale)
    near, far = (components.transform((rows.astype(np.float32) - mean) / scale) for rows in (images, pool))
    distances = (far * far).sum(axis=1)[None] - 2 * near @ far.T
    neighbors = np.argsort(distances, axis=1, kind="stable")[:, :_NEIGHBORS]
    found = []
    for labels in labelings:
        votes = np.stack([np.bincount(row, minlength=n_classes) for row in labels[neighbors]])
        found.append(votes.argmax(axis=1))
    return found
