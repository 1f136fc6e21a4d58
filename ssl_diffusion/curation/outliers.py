"""Foreign images: far from all others in the representation, or such that a denoiser of the others restores them badly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.curation.held_out import condensed
from ssl_diffusion.inference.projection import project

__all__ = ["Outliers", "find_outliers"]

_NEIGHBORS = 5
_REFERENCE = 10_000  # images that distances are measured to
_BLOCK = 1024
_FLAGGED = 2.5  # robust deviations; of a normal distribution one in 160 has more


@dataclass(frozen=True)
class Outliers:
    """How foreign N images are.

    Attributes:
        score: The larger of the two deviations, float64 (N,).
        distance: Robust deviations of the log-distance to the nearest images, float64 (N,): the mean of those of features as
            they are, in which large ones count, and of standardised ones.
        denoising: Robust deviations of the log-error of the denoiser, float64 (N,); zeros without one.
    """

    score: NDArray[np.float64]
    distance: NDArray[np.float64]
    denoising: NDArray[np.float64]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Images that are more foreign than chance makes them, bool (N,)."""
        return np.asarray(self.score > _FLAGGED)


def find_outliers(
    z: NDArray[np.float32], *, errors: NDArray[np.float32] | None = None, group: NDArray[np.int64] | None = None
) -> Outliers:
    """Find foreign images.

    Args:
        z: Representations, float32 (N, F).
        errors: Errors of a denoiser, float32 (levels, N); None: no denoiser. See
            :func:`ssl_diffusion.inference.denoising_errors`.
        group: Number of the group of copies of each image, int64 (N,): copies are no neighbors. None: there are none.

    Returns:
        Scores of all images.

    Example:
        >>> z = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
        >>> z[7] += 30
        >>> int(find_outliers(z).score.argmax())
        7
    """
    n = len(z)
    group = np.arange(n) if group is None else group
    distance = (_deviations(_distances(project(z), group)) + _deviations(_distances(condensed(z), group))) / 2
    denoising = np.zeros(n) if errors is None else np.mean([_deviations(level) for level in errors], axis=0)
    return Outliers(np.maximum(distance, denoising), distance, denoising)


def _distances(x: NDArray[np.float32], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean distances to the nearest images of other groups, among at most 10,000."""
    n = len(x)
    x = x - x.mean(axis=0)
    reference = np.sort(np.random.default_rng(0).permutation(n)[:_REFERENCE])
    y, of = x[reference], group[reference]
    square, k = np.square(y).sum(axis=1), min(_NEIGHBORS, max(1, len(reference) - 1))
    nearest = np.zeros(n)
    for start in range(0, n, _BLOCK):
        part = x[start : start + _BLOCK]
        distances = np.square(part).sum(axis=1)[:, None] + square - 2 * part @ y.T
        distances[group[start : start + _BLOCK, None] == of] = np.inf
        found = np.partition(distances, k - 1, axis=1)[:, :k]
        nearest[start : start + _BLOCK] = np.where(np.isfinite(found), np.maximum(found, 0), 0).mean(axis=1)
    return np.sqrt(nearest)


def _deviations(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Robust deviations of logarithms from their median; the spread is that above the median."""
    log = np.log(np.maximum(values.astype(np.float64), 1e-12))
    above = log - np.median(log)
    spread = 1.4826 * np.median(above[above >= 0])
    return np.asarray(above / max(float(spread), 1e-3))
