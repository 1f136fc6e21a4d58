"""From utilities to a batch: the best ones, a draw in proportion to them, or seeds of k-means++ that differ, too."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.registry import Choice

__all__ = [
    "best",
    "central",
    "diverse",
    "finite",
    "in_proportion",
    "shortlist",
    "some_rows",
    "spread_out",
    "squared_distances",
    "with_chance",
]

_SHORTLIST = 5  # times the batch
_BLOCK = 2048  # rows; of 512 features 4 MiB, which stay in the processor's cache


def best(utilities: NDArray[np.floating[Any]], n: int, rng: np.random.Generator) -> Choice:
    """The n largest utilities; ties in random order."""
    u = finite(utilities)
    return Choice(np.lexsort((rng.permutation(len(u)), -u))[:n], u, np.ones(n))


def shortlist(utilities: NDArray[np.floating[Any]], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the largest utilities, five times as many as the batch has, in increasing order."""
    return np.sort(best(utilities, min(len(utilities), _SHORTLIST * n), rng).picks)


def some_rows(total: int, most: int, least: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of all candidates; of more than `most` those of as many random ones, but `least` at least, in increasing order.

    Args:
        total: Number of candidates.
        most: Number of candidates that need no draw.
        least: Samples to choose among them.
        rng: Random generator.
    """
    return np.arange(total) if total <= most else np.sort(rng.choice(total, max(most, least), replace=False))


def in_proportion(utilities: NDArray[np.floating[Any]], n: int, power: float, rng: np.random.Generator) -> Choice:
    """n draws without replacement, each with probability proportional to utility^power (Kirsch et al. 2021, arXiv 2106.12059).

    Utilities of 0 are drawn last. Drawn at once, as the largest of power * ln(u) + Gumbel noise.
    """
    u = finite(utilities)
    weight = power * np.log(np.clip(u, 1e-300, None))
    picks = np.argsort(-(weight + rng.gumbel(size=len(u))), kind="stable")[:n]
    # Sum over what is left before each draw: the whole, less what was drawn.
    left = np.exp(weight - weight.max())
    total, probabilities = left.sum(), np.empty(n)
    for i, pick in enumerate(picks):
        if total <= 1e-9 * len(u):  # cancellation: sum again
            left[picks[:i]] = 0.0
            total = left.sum()
        probabilities[i] = min(1.0, left[pick] / total) if total > 0 else 1 / (len(u) - i)
        total -= left[pick]
    return Choice(picks, u, probabilities)


def with_chance(utilities: NDArray[np.floating[Any]], n: int, rng: np.random.Generator, uniform: float = 0.2) -> Choice:
    """n draws without replacement, each with probability uniform / left + (1 - uniform) u / sum(u) over what is left.

    No sample is all but impossible, so that the labels can measure the model, too (defensive importance sampling, Hesterberg
    1995; :mod:`ssl_diffusion.annotation.loop.accuracy`).

    Args:
        utilities: Utilities, 0 or more, (N,).
        n: draws, at most N.
        rng: Random generator.
        share: Fraction of uniform draws, in (0, 1].
    """
    u = finite(utilities).clip(0)
    rest = u.copy()
    heap = np.cumsum(rest)
    total = heap[-1]
    picks, probabilities = np.empty(n, dtype=np.int64), np.empty(n)
    drawn = np.zeros(len(u), dtype=bool)
    for i in range(n):
        if total < 0.5 * heap[-1]:  # or drawing would be rejected again and again
            heap = np.cumsum(rest)
            total = heap[-1]
        left = len(u) - i
        by_utility = total > 0 and rng.random() >= uniform
        pick = -1
        while pick < 0 or drawn[pick]:
            if by_utility:
                pick = min(len(u) - 1, int(np.searchsorted(heap, rng.random() * heap[-1], side="right")))
            elif 2 * left > len(u):
                pick = int(rng.integers(len(u)))
            else:
                pick = int(rng.choice(np.flatnonzero(~drawn)))
        picks[i] = pick
        probabilities[i] = uniform / left + (1 - uniform) * u[pick] / total if total > 0 else 1 / left
        drawn[pick], rest[pick] = True, 0.0
        total = max(0.0, total - u[pick])
    return Choice(picks, u, probabilities)


def diverse(
    x: NDArray[np.float32],
    utilities: NDArray[np.floating[Any]],
    n: int,
    rng: np.random.Generator,
    rows: NDArray[np.int64] | None = None,
) -> Choice:
    """k-means++ weighted by utility: each is drawn with probability u * d^2, d being the distance to the nearest one so far.

    Args:
        x: Representation in which distances are measured, (k, F).
        utilities: Utilities of all N candidates, 0 or more.
        n: picks, at most k.
        rng: Random generator.
        rows: Candidates that the rows of x belong to, (k,); None for all.
    """
    u = finite(utilities)
    rows = np.arange(len(u)) if rows is None else rows
    picks, probabilities = spread_out(lambda i: squared_distances(x, x[i]), u[rows].clip(0), n, rng)
    return Choice(rows[picks], u, probabilities)


def central(x: NDArray[np.float32], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows nearest to n centers of k-means, distinct, int64 (n,).

    Args:
        x: Representations, (k, F), k at least n.
        n: Number of centers.
        rng: Random generator.
    """
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(n, random_state=int(rng.integers(2**31)), n_init=3, batch_size=4096).fit(x)
    open_, picks = np.ones(len(x), dtype=bool), []
    for center in kmeans.cluster_centers_:
        nearest = int(np.where(open_, squared_distances(x, center), np.inf).argmin())
        open_[nearest] = False
        picks.append(nearest)
    return np.array(picks)


def spread_out(
    distances_to: Callable[[int], NDArray[np.float64]], weight: NDArray[np.float64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Seeding of k-means++ (Arthur and Vassilvitskii 2007) with weights: picks and the probabilities of their draws.

    The first is the one with the largest weight.

    Args:
        distances_to: squared distances of all k to the i-th, (k,).
        weight: Weights, 0 or more, (k,).
        n: picks, at most k.
        rng: Random generator.
    """
    first = int(best(weight, 1, rng).picks[0])
    picks, probabilities = [first], [1.0]
    distance = distances_to(first)
    open_ = np.ones(len(weight), dtype=bool)
    open_[first] = False
    while len(picks) < n:
        mass = weight * distance * open_
        if (total := mass.sum()) <= 0:  # only copies of what was picked are left, or weights of 0
            mass = open_.astype(np.float64)
            total = mass.sum()
        pick = int(rng.choice(len(mass), p=mass / total))
        picks.append(pick)
        probabilities.append(float(mass[pick] / total))
        open_[pick] = False
        distance = np.minimum(distance, distances_to(pick))
    return np.array(picks), np.array(probabilities)


def squared_distances(x: NDArray[np.float32], to: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared Euclidean distance of each row to a point, (k,), in blocks, so that x may be memory-mapped."""
    distances = np.empty(len(x))
    for i in range(0, len(x), _BLOCK):
        difference = x[i : i + _BLOCK] - to
        distances[i : i + _BLOCK] = np.einsum("ij,ij->i", difference, difference)
    return distances


def finite(utilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Utilities without NaN, which count as 0, and infinities."""
    return np.nan_to_num(np.asarray(utilities, dtype=np.float64), nan=0.0, posinf=1e300, neginf=-1e300)
