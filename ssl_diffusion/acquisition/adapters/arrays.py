"""Strategies on a fitted estimator and arrays: what adapters to other packages, and users of scikit-learn, call."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.acquisition.query import choose
from ssl_diffusion.acquisition.registry import Choice
from ssl_diffusion.errors import DataError
from ssl_diffusion.estimator import JointDiffusionClassifier
from ssl_diffusion.inference.embedded_pool import EmbeddedPool

__all__ = ["choose_rows"]


def choose_rows(
    estimator: JointDiffusionClassifier,
    X: ArrayLike,
    y: ArrayLike,
    n: int = 1,
    strategy: str = "auto",
    *,
    candidates: NDArray[np.integer[Any]] | None = None,
    power: float | None = None,
    random_state: int = 0,
) -> Choice:
    """Choose the rows of X to label next.

    Args:
        estimator: Fitted estimator; it is not changed.
        X: Images, as the estimator takes them, (N, ...).
        y: Labels, (N,); -1 where there is none.
        n: Number of rows to choose.
        strategy: Name of a strategy; see :func:`~ssl_diffusion.acquisition.query`.
        candidates: Distinct rows among which to choose, (k,). None: all with y == -1.
        power: Exponent; see :func:`~ssl_diffusion.acquisition.query`.
        random_state: Random seed.

    Returns:
        Picks are rows of X; utilities are those of all rows, (N,), NaN where a row is no candidate.

    Raises:
        DataError: If there is no candidate, one does not exist, or y has a class that is new to the estimator.
        SSLDError: If the strategy does not exist or cannot be used.
    """
    images, labels = estimator.read_images(X), np.asarray(y)
    if labels.shape != (len(images),):
        raise DataError(f"y has shape {labels.shape} for {len(images)} images")
    known = np.flatnonzero(labels != -1)
    if new := set(labels[known].tolist()) - set(estimator.classes_.tolist()):
        raise DataError(
            f"y has classes that the estimator was not fitted with: {sorted(map(str, new))[:5]}; fit it again first"
        )
    rows = np.flatnonzero(labels == -1) if candidates is None else np.asarray(candidates, dtype=np.int64)
    if not len(rows):
        raise DataError("every row has a label: nothing is left to choose")
    if rows.min() < 0 or rows.max() >= len(images) or len(np.unique(rows)) != len(rows):
        raise DataError(f"candidates are distinct rows of X, 0 to {len(images) - 1}")
    rows = np.sort(rows)
    model = estimator.inference_model()
    k = len(estimator.classes_)
    embedded = EmbeddedPool.read(model, images, np.concatenate([rows, known]), classify=True)
    at, rng = np.arange(len(embedded.images)), np.random.default_rng(random_state)
    classes = np.searchsorted(estimator.classes_, labels[known]).astype(np.int64)
    seen = Candidates.of(embedded, at[: len(rows)], at[len(rows) :], classes, k, rng, model=model)
    choice = choose(strategy_for(strategy, len(known), k, model)[0], seen, n, power=power)
    utilities = np.full(len(images), np.nan)
    utilities[rows] = choice.utilities
    return Choice(rows[choice.picks], utilities, choice.probabilities, choice.notes)
