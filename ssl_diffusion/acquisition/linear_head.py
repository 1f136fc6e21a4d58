"""The classifier as a linear head on what strategies see: weights that give a batch its probabilities from its representation.

Strategies get representations, often projected, and probabilities, whatever made them. Where the classifier is a linear head on
the representation this is that head; elsewhere the nearest to it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import some_rows
from ssl_diffusion.acquisition.candidates import Candidates

__all__ = ["LinearHead", "linear_head"]

_FITTED = 5000  # candidates that it is fitted to
_SMALLEST = 1e-7  # probability
_RIDGE = 1e-4  # times the mean variance of the representation


@dataclass(frozen=True)
class LinearHead:
    """Class logits linear in the representation.

    Attributes:
        weight: Weights, float64 (F, K).
        bias: Biases, float64 (K,).
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def probabilities(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities of representations (n, F), float64 (n, K)."""
        from scipy.special import softmax

        p: NDArray[np.float64] = softmax(x @ self.weight + self.bias, axis=1)
        return p


def linear_head(c: Candidates) -> LinearHead:
    """Head that gives the candidates their probabilities: ridge regression of their log-probabilities on their representation.

    Args:
        c: Candidates; of more than 5,000 a random 5,000 are read.

    Raises:
        SSLDError: If the candidates have no probabilities.

    Example:
        >>> head = linear_head(candidates)  # doctest: +SKIP
        >>> head.probabilities(candidates.labeled_representation).shape  # doctest: +SKIP
        (40, 10)
    """
    from scipy.linalg import solve

    logits = np.log(c.p.astype(np.float64).clip(_SMALLEST))
    rows = some_rows(len(c), _FITTED, 0, c.rng)
    x, y = np.asarray(c.representation[rows], dtype=np.float64), logits[rows]
    y = y - y.mean(axis=1, keepdims=True)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    # Copies of one image, which span nothing, still have a head: the ridge is never 0.
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9)
    weight = solve(gram, x.T @ y, assume_a="pos")
    return LinearHead(weight, y_mean - x_mean @ weight)
