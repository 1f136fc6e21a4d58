"""Strategies of scikit-activeml in a study, as "activeml:CLASS": they see the representation, and logistic regression on it."""

import inspect
import warnings
from typing import Any

import numpy as np

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, Strategy
from ssl_diffusion.errors import SSLDError, nearest_names, shown

__all__ = ["foreign_strategy", "is_foreign"]

_PREFIX = "activeml:"
_GIVEN = {"X", "y", "clf", "fit_clf", "candidates", "batch_size", "return_utilities"}


def is_foreign(name: str) -> bool:
    """Whether a strategy comes from another package."""
    return name.startswith(_PREFIX)


def foreign_strategy(name: str) -> Strategy:
    """A strategy of scikit-activeml with its default settings.

    Args:
        name: "activeml:" and a class of `skactiveml.pool` that needs a classifier or nothing, such as UncertaintySampling.

    Raises:
        SSLDError: if the package is not installed, or has no such strategy that can be used here.
    """
    try:
        from skactiveml import pool
    except ImportError as error:
        raise SSLDError(f"{name} needs scikit-activeml: pip install 'ssld[activeml]'") from error
    known = {n: c for n in pool.__all__ if inspect.isclass(c := getattr(pool, n)) and _usable(c)}
    wanted = name.removeprefix(_PREFIX)
    if wanted not in known:
        raise SSLDError(f"no strategy {shown(wanted)} of scikit-activeml that can be used here; {nearest_names(wanted, known)}")
    kind: Any = known[wanted]

    return Strategy(
        name=name,
        needs="labels" if "clf" in inspect.signature(kind.query).parameters else "images",
        cost="its own",
        when="for comparison",
        reference=f"scikit-activeml, {wanted}",
        batch=lambda c, n: _choose(kind, c, n),
    )


def _usable(kind: Any) -> bool:
    def required(function: Any) -> set[str]:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        return {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}

    return hasattr(kind, "query") and required(kind.query) <= _GIVEN and not required(kind.__init__)


def _choose(kind: Any, c: Candidates, n: int) -> Choice:
    from skactiveml.classifier import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([c.labeled_representation, np.asarray(c.representation)])
    m = len(c.labeled_classes)
    y = np.concatenate([c.labeled_classes.astype(float), np.full(len(c), np.nan)])
    seed = int(c.rng.integers(2**31))
    given: dict[str, Any] = {"X": x, "y": y, "batch_size": n, "return_utilities": True}
    parameters = inspect.signature(kind.query).parameters
    if "clf" in parameters:
        regression = LogisticRegression(max_iter=300)
        given["clf"] = SklearnClassifier(regression, classes=list(range(c.n_classes)), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picks, utilities = kind(random_state=seed).query(**given)
    u = np.asarray(utilities, dtype=np.float64)[0, m:]
    finite = np.isfinite(u)
    u = np.where(finite, u, u[finite].min() if finite.any() else 0.0)
    return Choice(np.asarray(picks, dtype=np.int64) - m, u, np.ones(n))
