"""Class probabilities of labeled samples by classifiers that have not seen their labels."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ssl_diffusion.models.probe import Validation, standardisation

__all__ = ["condensed", "held_out_probabilities"]

_COMPONENTS = 256
_FITTED = 20_000  # samples from which components are computed
_LONGEST = 8192  # features from which components are computed
_FOLDS = 5
# Inverse penalties of features that are scaled as by `standardisation`. Wrong labels want strong penalties.
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
_VALIDATED = 2000
_LEAST = 1e-6


def condensed(z: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Standardised representations in at most 256 of their principal components, float32 (n, d).

    A classifier of the components is fitted in a tenth of the time, and finds wrong labels no worse.

    Args:
        z: Representations, float32 (n, F).
        seed: Random seed of the samples from which components are computed, if there are more than 20,000.
    """
    some = np.sort(np.random.default_rng(seed).permutation(len(z))[:_FITTED])
    mean, scale = standardisation(np.asarray(z[some]))
    shift, factor = mean.astype(np.float32), (1 / scale).astype(np.float32)
    if z.shape[1] <= _COMPONENTS:
        return np.asarray((z - shift) * factor)
    x = (np.asarray(z[some]) - shift) * factor
    if z.shape[1] > _LONGEST and len(x) > _COMPONENTS:  # a random subspace that spans nearly the same components
        directions = _range_of(x, seed)
    else:
        directions = np.linalg.eigh((x.T @ x if len(x) >= x.shape[1] else x @ x.T).astype(np.float64))[1][:, ::-1][
            :, :_COMPONENTS
        ]
        if len(x) < x.shape[1]:
            directions = x.T @ directions.astype(np.float32)
            directions /= np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    directions = directions.astype(np.float32)
    parts = range(0, len(z), 4096)
    return np.concatenate([((np.asarray(z[i : i + 4096]) - shift) * factor) @ directions for i in parts])


def _range_of(x: NDArray[np.float32], seed: int) -> NDArray[Any]:
    """Orthonormal directions (F, 256) of large variance, by two power iterations (Halko et al. 2011)."""
    y = x @ np.random.default_rng(seed).standard_normal((x.shape[1], _COMPONENTS), dtype=np.float32)
    for _ in range(2):
        y = x @ (x.T @ np.linalg.qr(y)[0])
    return np.asarray(np.linalg.qr(x.T @ np.linalg.qr(y)[0])[0])


def held_out_probabilities(
    x: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    groups: NDArray[np.int64] | None = None,
    kept: NDArray[np.bool_] | None = None,
    inverse_penalty: float | None = None,
    seed: int = 0,
) -> tuple[NDArray[np.float64], float]:
    """Class probabilities by logistic regression on the other folds.

    Args:
        x: Standardised representations, float32 (n, d), see :func:`condensed`.
        labels: Classes, int64 (n,).
        n_classes: Number of classes, K.
        groups: Number of the group of each sample, int64 (n,): the samples of a group are in one fold. None: no groups.
        kept: Samples that classifiers are fitted to, bool (n,); None: all. All get probabilities.
        inverse_penalty: Inverse penalty C; None chooses it by the likelihood of held-out labels of at most 2,000 samples.
        seed: Random seed of the folds.

    Returns:
        Probabilities, float64 (n, K), and the inverse penalty.

    Example:
        >>> p, _ = held_out_probabilities(condensed(z), labels, 10)  # doctest: +SKIP
    """
    if inverse_penalty is None:
        inverse_penalty = _penalty(x, labels, seed)
    fold = _folds(labels, groups, seed)
    p = np.zeros((len(labels), n_classes))
    for k in range(_FOLDS):
        fitted, out = fold != k, np.flatnonzero(fold == k)
        if kept is not None:
            fitted &= kept
        present = np.unique(labels[fitted])
        if len(present) < 2:
            p[np.ix_(out, present)] = 1.0
        elif len(out):
            model = LogisticRegression(C=inverse_penalty, max_iter=300, tol=1e-3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                p[np.ix_(out, present)] = model.fit(x[fitted], labels[fitted]).predict_proba(x[out])
    p = np.maximum(p, _LEAST)
    return p / p.sum(axis=1, keepdims=True), inverse_penalty


def _penalty(x: NDArray[np.float32], labels: NDArray[np.int64], seed: int) -> float:
    validation = Validation(labels, seed, _VALIDATED)
    if not validation.possible:
        return 1.0
    coordinates = validation.coordinates(x)
    best, least = _PENALTIES[0], np.inf
    for penalty in _PENALTIES:  # the likelihood has one maximum
        if (loss := validation.nll(coordinates, penalty)) > least:
            break
        best, least = penalty, loss
    return best


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64] | None, seed: int) -> NDArray[np.int64]:
    """The fold of every sample: classes evenly over all of them, groups whole."""
    n = len(labels)
    leader = np.arange(n)
    if groups is not None:
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        leader = first[inverse]
    order = np.random.default_rng(seed).permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    leaders = order[leader[order] == order]
    fold = np.zeros(n, dtype=np.int64)
    fold[leaders] = np.arange(len(leaders)) % _FOLDS
    return fold[leader]
