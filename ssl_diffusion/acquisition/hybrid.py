"""Uncertainty and diversity at once."""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, batch
from ssl_diffusion.acquisition.selection import spread_out

__all__ = ["badge", "gradient_norms"]


@batch(
    "badge",
    needs="labels",
    cost="one encoder pass over the pool, n passes over the representations",
    when="two or more labels a class, large batches",
    reference="Ash et al. 2020, arXiv 1906.03671",
)
def badge(c: Candidates, n: int) -> Choice:
    """k-means++ on gradient embeddings: those of the loss with the predicted class as label, by the head's last layer.

    An embedding is the outer product of (p - onehot) and the representation; its size is the utility. Distances are computed
    from the two factors, so that the (N, K * F) matrix is never made.
    """
    a, z = _factors(c)
    norm = gradient_norms(c)
    picks, probabilities = spread_out(lambda i: _squared(a, z, norm, i), np.ones(len(c)), n, c.rng)
    return Choice(picks, norm, probabilities)


def gradient_norms(c: Candidates) -> NDArray[np.float64]:
    """Euclidean norm of each gradient embedding, (N,)."""
    a, z = _factors(c)
    norms: NDArray[np.float64] = np.linalg.norm(a, axis=1) * np.sqrt(np.square(z).sum(axis=1, dtype=np.float64))
    return norms


def _factors(c: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    a = c.p.astype(np.float64)
    a[np.arange(len(a)), a.argmax(axis=1)] -= 1
    return a, c.representation


def _squared(a: NDArray[np.float64], z: NDArray[np.float32], norm: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    """Squared distance of all embeddings to the i-th: |g|^2 + |g_i|^2 - 2 (a a_i) (z z_i)."""
    distance: NDArray[np.float64] = norm**2 + norm[i] ** 2 - 2 * (a @ a[i]) * (z @ z[i])
    return distance.clip(0)
