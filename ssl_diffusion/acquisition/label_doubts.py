"""Labels that the other labels contradict: a strategy may ask for them again instead of for a new one."""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates

__all__ = ["contradiction", "suspicious_labels"]

_RIDGE = 0.5  # times the trace of the representation's covariance
_SURE = 0.2  # by how much another class has to be above the one that was given; scores are 1 and 0 where they fit


def contradiction(x: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """By how much another class is above the one that was given, by a ridge regression on all other labels, float64 (m,).

    The scores of a label that is left out have a closed form (the PRESS residuals of Allen 1974); 0 where the labels are all of
    one class.

    Args:
        x: Representations of the labeled samples, float32 (m, F).
        classes: Classes of the labeled samples, int64 (m,).
    """
    present, y = np.unique(classes, return_inverse=True)
    if len(present) < 2:
        return np.zeros(len(classes))
    z = x.astype(np.float64) - x.mean(axis=0)
    # In the space of samples, which are fewer than features; the constant is not penalized but for 1 / m of a prior.
    gram = z @ z.T
    gram += float(np.trace(gram)) / len(z)
    hat = gram @ np.linalg.inv(gram + _RIDGE * max(float(np.trace(gram)) / len(z), 1e-12) * np.eye(len(z)))
    target = np.eye(len(present))[y]
    score = target - (target - hat @ target) / (1 - np.diag(hat)).clip(1e-9)[:, None]
    given = score[np.arange(len(y)), y]
    score[np.arange(len(y)), y] = -np.inf
    above: NDArray[np.float64] = score.max(axis=1) - given
    return above


def suspicious_labels(c: Candidates) -> NDArray[np.int64]:
    """Positions of labels to ask for again, the most suspicious first, int64 (k,): those that the others contradict, if their
    class has other labels, and that nobody was asked for twice; none where one cannot ask again.

    Args:
        c: Candidates.
    """
    if c.asked_again is None:
        return np.zeros(0, dtype=np.int64)
    above = contradiction(c.labeled_representation, c.labeled_classes)
    counts = np.bincount(c.labeled_classes, minlength=1)
    asked = np.flatnonzero((above > _SURE) & ~c.asked_again & (counts[c.labeled_classes] > 1))
    order: NDArray[np.int64] = asked[np.argsort(-above[asked], kind="stable")]
    return order
