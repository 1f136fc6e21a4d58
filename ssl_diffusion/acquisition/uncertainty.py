"""Chance, and what the classifier is unsure of: functions of its probabilities alone, each in [0, 1]."""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, batch, score
from ssl_diffusion.acquisition.selection import in_proportion

__all__ = ["entropy", "least_confidence", "margin", "random"]

_ONE_PASS = "one encoder pass over the pool"


@batch(
    "random",
    needs="images",
    cost="none",
    when="as a baseline, and for an unbiased estimate of the accuracy",
    reference="simple random sampling",
)
def random(c: Candidates, n: int) -> Choice:
    """Every candidate with the same probability."""
    return in_proportion(np.ones(len(c)), n, 1.0, c.rng)


@score(
    "least-confidence",
    needs="labels",
    cost=_ONE_PASS,
    when="many labels already, small batches",
    reference="Lewis and Gale 1994, arXiv cmp-lg/9407020",
)
def least_confidence(c: Candidates) -> NDArray[np.float64]:
    """1 - p of the most probable class, scaled by K / (K - 1)."""
    k = c.p.shape[1]
    u: NDArray[np.float64] = (1 - c.p.max(axis=1).astype(np.float64)) * (k / max(1, k - 1))
    return u


@score(
    "margin",
    needs="labels",
    cost=_ONE_PASS,
    when="many labels already, small batches; the strongest of the simple ones",
    reference="Scheffer et al. 2001, doi 10.1007/3-540-44816-0_31",
)
def margin(c: Candidates) -> NDArray[np.float64]:
    """1 - (p of the most probable class - p of the runner-up)."""
    if c.p.shape[1] < 2:
        return np.zeros(len(c))
    two = np.partition(c.p.astype(np.float64), -2, axis=1)[:, -2:]
    u: NDArray[np.float64] = 1 - (two[:, 1] - two[:, 0])
    return u


@score(
    "entropy",
    needs="labels",
    cost=_ONE_PASS,
    when="many labels already, few classes, small batches",
    reference="Settles 2009, Computer Sciences Technical Report 1648, University of Wisconsin-Madison, sec. 3.1",
)
def entropy(c: Candidates) -> NDArray[np.float64]:
    """Entropy of the class probabilities, divided by ln K."""
    p = c.p.astype(np.float64)
    k = max(2, p.shape[1])
    u: NDArray[np.float64] = -(p * np.log(p.clip(1e-30))).sum(axis=1) / np.log(k)
    return u
