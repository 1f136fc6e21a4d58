"""modAL: a strategy as the callable that its `ActiveLearner(query_strategy=...)` takes. modAL itself is not needed.

learner = ActiveLearner(JointDiffusionClassifier(recipe="digits"), modal_strategy("margin"), X_training=X, y_training=y)
rows, images = learner.query(X_pool, n_instances=10)
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssl_diffusion.acquisition.adapters.arrays import choose_rows
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.estimator import JointDiffusionClassifier

__all__ = ["modal_strategy"]


def modal_strategy(
    strategy: str = "auto", *, power: float | None = None, random_state: int = 0
) -> Callable[..., tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """A query strategy for modAL.

    Args:
        strategy: see :func:`~ssl_diffusion.acquisition.query`.
        power: see there.
        random_state: seed of the first query; the next ones count on from it.

    Returns:
        A function of a learner (anything with a fitted :class:`JointDiffusionClassifier` as `estimator` and labeled images and
        labels in `X_training` and `y_training`), the pool, (N, ...), and `n_instances`. It returns rows of the pool, (n,), and
        their utilities, (n,), as the functions of modAL do.
    """
    seed = random_state

    def choose(
        learner: Any, X_pool: ArrayLike, n_instances: int = 1, **_: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        nonlocal seed
        if not isinstance(getattr(learner, "estimator", None), JointDiffusionClassifier):
            raise SSLDError("this strategy looks into the model: the learner's estimator must be a JointDiffusionClassifier")
        pool = np.asarray(X_pool)
        known = [] if learner.X_training is None else [np.asarray(learner.X_training)]
        labels = np.full(len(pool), -1, dtype=object)
        if known:
            labels = np.concatenate([np.asarray(learner.y_training, dtype=object), labels])
        first = len(labels) - len(pool)
        choice = choose_rows(
            learner.estimator,
            np.concatenate([*known, pool]),
            labels,
            n_instances,
            strategy,
            candidates=np.arange(first, len(labels)),
            power=power,
            random_state=seed,
        )
        seed += 1
        return choice.picks - first, choice.utilities[choice.picks]

    return choose
