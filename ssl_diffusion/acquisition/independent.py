"""Pools whose images may have several classes, or none: strategies see the class that the model is least sure of.

The classes of an image are K questions of yes or no. To a strategy that reads probabilities, the one that is nearest to 1/2
stands for the image, as two classes of which one is right (Brinker 2006, doi 10.1007/3-540-31314-1_24). Strategies that reason
about the classes themselves, such as which of them are rare, would take these two for classes of the pool, and are refused.
"""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.names import READ_LABELS
from ssl_diffusion.acquisition.registry import Strategy
from ssl_diffusion.errors import SSLDError

__all__ = ["check_independent", "two_sided"]

_UNSURE = ("entropy", "least-confidence", "margin", "uherding")  # they read no more than how unsure the model is


def two_sided(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of the two answers about the class that the model is least sure of, the likelier one first, float32 (N, 2).

    Args:
        p: Probabilities of independent classes, float32 (N, K), at least one class.

    Example:
        >>> two_sided(np.array([[0.75, 0.0], [1.0, 0.0]], np.float32)).tolist()
        [[0.75, 0.25], [1.0, 0.0]]
    """
    sure = np.maximum(p, 1 - p).min(axis=1)
    return np.stack([sure, 1 - sure], axis=1)


def check_independent(strategy: Strategy) -> None:
    """Refuse a strategy that reasons about classes of which an image has exactly one.

    Args:
        strategy: Strategy, also with a variant.

    Raises:
        SSLDError: If it does; names those that do not.
    """
    base, _, variant = strategy.name.partition(":")
    if variant in READ_LABELS or (strategy.needs != "images" and base not in _UNSURE):
        raise SSLDError(
            f"{strategy.name} is for images with one class each, and these may have several: use auto, {', '.join(_UNSURE)}, "
            "or a strategy that needs no labels"
        )
