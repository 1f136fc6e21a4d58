"""Herding: batches that are close to as much of the pool as possible, or to as much of what the classifier is unsure of.

Closeness is a Gaussian kernel; how well a pool is covered is the mean over its samples of the kernel with the nearest labeled
or chosen one. Of more than 10,000 candidates a random 10,000 can be chosen and 5,000 are to be covered.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import some_rows
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, register_batch
from ssl_diffusion.acquisition.strategies.uncertainty import margin

__all__ = ["maxherding", "uherding"]

_CHOSEN, _COVERED = 10_000, 5000
_BLOCK, _AT_ONCE = 256, 32  # rows whose gains are computed at once: all, and those that may be first
_WIDTH = 0.25  # squared width of the kernel, in mean squared distances between samples


@register_batch(
    "maxherding",
    needs="images",
    cost="distances between 10,000 and 5,000 representations, n passes over them",
    when="no or few labels; without clusters to be found first",
    reference="Bae et al. 2024, arXiv 2407.12212, algorithm 1",
)
def maxherding(c: Candidates, n: int) -> Choice:
    """Always the candidate that raises the mean closeness of the pool to labeled and chosen samples most.

    Utility is the mean closeness that each would add at first.
    """
    return _herd(c, n, np.ones(len(c)), None)


@register_batch(
    "uherding",
    needs="labels",
    cost="one encoder pass over the pool, then as maxherding",
    when="any number of labels: covers the pool at first and looks at the boundary later",
    reference="Bae et al. 2025, arXiv 2412.20644",
)
def uherding(c: Candidates, n: int) -> Choice:
    """As :func:`maxherding`, every sample of the pool counted by 1 - margin of its probabilities.

    The kernel is no wider than the mean distance between labeled samples that are nearest to each other: with more labels it
    is the unsure samples themselves that count, and no longer whole regions.
    """
    return _herd(c, n, margin(c), _spacing(c.labeled_representation))


def _herd(c: Candidates, n: int, weight: NDArray[np.floating[Any]], spacing: float | None) -> Choice:
    from sklearn.metrics import pairwise_distances_argmin_min

    rows, covered = (some_rows(len(c), most, n, c.rng) for most in (_CHOSEN, _COVERED))
    x, of = np.asarray(c.representation[rows]), np.asarray(c.representation[covered])
    squared = _mean_squared_distance(of)
    width = _WIDTH * squared if spacing is None else min(_WIDTH * squared, spacing)
    kernel = np.exp(-_squared_distances(x, of) / np.float32(max(width, 1e-12)))
    w = (weight[covered] / max(float(weight[covered].sum()), 1e-300)).astype(np.float32)
    near = np.zeros(len(of), dtype=np.float32)
    if len(c.labeled_representation):
        distance = pairwise_distances_argmin_min(of, c.labeled_representation)[1]
        near = np.exp(-np.square(distance) / max(width, 1e-12)).astype(np.float32)
    gain = _gain(kernel, near, w)
    utilities = np.zeros(len(c))
    utilities[rows] = gain
    picks: list[int] = []
    notes: list[str] = []
    while len(picks) < n:
        # A gain never grows while others are chosen: who is first when computed anew is first of all.
        fresh = np.zeros(len(x), dtype=bool)
        while True:
            first = _largest(gain, weight[rows], _AT_ONCE)  # where all gains are 0, the weight decides
            if fresh[first[0]]:
                break
            stale = first[~fresh[first]]
            gain[stale] = np.minimum(gain[stale], _gain(kernel[stale], near, w))
            fresh[stale] = True
        i = int(first[0])
        picks.append(i)
        nearest = round(float((kernel[i] > near).mean()) * len(c))
        notes.append(f"nearer to {nearest:,} samples than any label so far")
        gain[i] = -1.0
        near = np.maximum(near, kernel[i])
    return Choice(rows[picks], utilities, np.ones(n), tuple(notes))


def _largest(gain: NDArray[np.float64], weight: NDArray[np.floating[Any]], n: int) -> NDArray[np.int64]:
    """Rows of the n largest gains in order, of equal ones those of the largest weights first; only these are sorted."""
    rows = np.arange(len(gain))
    if len(gain) > n:
        rows = np.flatnonzero(gain >= np.partition(gain, -n)[-n])
    found: NDArray[np.int64] = rows[np.lexsort((-weight[rows], -gain[rows]))[:n]]
    return found


def _gain(kernel: NDArray[np.float32], near: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Weighted mean closeness that each row of a kernel would add, float64 (n,)."""
    gain = np.empty(len(kernel))
    for start in range(0, len(kernel), _BLOCK):
        gain[start : start + _BLOCK] = np.maximum(kernel[start : start + _BLOCK] - near, 0) @ weight
    return gain


def _squared_distances(x: NDArray[np.float32], to: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances between all rows, float32 (n, m)."""
    found: NDArray[np.float32] = -2 * (x @ to.T)
    found += np.einsum("ij,ij->i", x, x)[:, None]
    found += np.einsum("ij,ij->i", to, to)[None]
    np.maximum(found, 0, out=found)
    return found


def _mean_squared_distance(x: NDArray[np.float32]) -> float:
    """Mean squared distance between two samples: twice the sum of the variances."""
    return 2 * float(x.var(axis=0).sum())


def _spacing(labeled: NDArray[np.float32]) -> float | None:
    """Mean squared distance of labeled samples to the nearest other one; None with fewer than two."""
    if len(labeled) < 2:
        return None
    squared = _squared_distances(labeled, labeled)
    np.fill_diagonal(squared, np.inf)
    return float(squared.min(axis=1).mean())
