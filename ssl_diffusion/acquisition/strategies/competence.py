"""Coverage while the labels cover little, the margin once they cover most: a mix by how competent the labels are (DCoM).

A label covers the ball around it in which the classifier agrees with it; how much of the pool these balls cover is the
competence.
"""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import some_rows
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, register_batch
from ssl_diffusion.acquisition.strategies.coverage import pure_radius
from ssl_diffusion.acquisition.strategies.uncertainty import margin

__all__ = ["competence", "dcom"]

_COVERED = 10_000
_PURE, _WIDEST = 0.95, 2.0  # agreement inside of a ball, and its largest radius in radii of clean balls
_STEEP, _HALF = 30.0, 0.9  # of the sigmoid from coverage to competence
Floats = NDArray[np.float64]


@register_batch(
    "dcom",
    needs="labels",
    cost="distances between all representations, of at most 10,000 candidates",
    when="any number of labels, where clusters are clean; moves from coverage to the margin by itself",
    reference="Mishal and Weinshall 2024, arXiv 2407.01804, algorithm 1",
)
def dcom(c: Candidates, n: int) -> Choice:
    """Always the candidate with the largest mix of margin and of samples that it would cover and nothing does, by
    :func:`competence`; utility is the mix at the start. Of more than 10,000 candidates a random 10,000 stand for all; the
    others have utility 0.

    Labels cover balls of their own size, up to where fewer than 95 % of the samples inside are predicted to be of their class;
    new ones cover a ball of the mean size.
    """
    from sklearn.metrics import pairwise_distances, pairwise_distances_chunked

    rows = some_rows(len(c), _COVERED, n, c.rng)
    x = np.asarray(c.representation[rows])
    unsure: Floats = margin(c)[rows].astype(np.float64)
    clean = pure_radius(x, min(max(c.n_classes, n, 2), len(x)), int(c.rng.integers(2**31)))
    covered, radius = np.zeros(len(x), dtype=bool), clean
    if len(c.labeled_representation):
        distance = pairwise_distances(c.labeled_representation, x)
        agrees = c.p[rows].argmax(axis=1)[None] == c.labeled_classes[:, None]
        radii = _own_radii(distance, agrees, _WIDEST * clean)
        covered = (distance <= radii[:, None]).any(axis=0)
        radius = float(radii.mean()) or clean
    weight = competence(float(covered.mean()))
    reach = np.concatenate(list(pairwise_distances_chunked(x, reduce_func=lambda block, _: block <= radius)))
    np.fill_diagonal(reach, val=True)
    gain = reach[:, ~covered].sum(axis=1, dtype=np.float64)
    utilities = np.zeros(len(c))
    utilities[rows] = _mixed(unsure, gain, weight)
    open_, order = np.ones(len(x), dtype=bool), c.rng.permutation(len(x))
    picks: list[int] = []
    notes = []
    while len(picks) < n:
        value = np.where(open_, _mixed(unsure, gain, weight), -1.0)
        pick = int(order[value[order].argmax()])
        newly = reach[pick] & ~covered
        notes.append(f"covers {newly.sum():,} samples that nothing covered, margin {1 - unsure[pick]:.2f}")
        covered |= newly
        gain -= reach[:, newly].sum(axis=1)
        open_[pick] = False
        picks.append(pick)
    return Choice(rows[picks], utilities, np.ones(n), tuple(notes))


def competence(coverage: float) -> float:
    """Weight of the margin, in [0, 1]: a sigmoid of the fraction of the pool that labels cover, 1 where they cover all."""
    weight = (1 + np.exp(-_STEEP * (1 - _HALF))) / (1 + np.exp(-_STEEP * (coverage - _HALF)))
    return float(min(weight, 1.0))


def _mixed(unsure: Floats, gain: Floats, weight: float) -> Floats:
    most = float(gain.max())
    mixed: Floats = weight * unsure + (1 - weight) * gain / (most if most > 0 else 1.0)
    return mixed


def _own_radii(distance: Floats, agrees: NDArray[np.bool_], widest: float) -> Floats:
    """Radii of the largest balls, at most that wide, in which predictions agree with the label in the middle, (m,)."""
    radii = np.zeros(len(distance))
    for i, (row, right) in enumerate(zip(distance, agrees, strict=True)):
        order = np.argsort(row, kind="stable")
        pure = np.cumsum(right[order]) >= _PURE * np.arange(1, len(order) + 1)
        inside = row[order][pure & (row[order] <= widest)]
        radii[i] = inside.max() if len(inside) else 0.0
    return radii
