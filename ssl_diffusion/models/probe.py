r"""Logistic regression on a frozen representation, as a linear head.

The representation that a denoiser has learned without labels is evaluated by multinomial logistic regression with an L2
penalty: a convex problem, solved in seconds. The representation is standardised with the mean and standard deviation of images
of the pool, labeled or not (:func:`reference_sample`), and the solution is folded into the weights of a linear head,

.. math::
    \mathrm{logits} = W \frac{z - \mu}{s} + b = (W / s) \, z + (b - W \mu / s)

so that a probe is a joint model like any other. By the representer theorem the solution lies in the span of the labeled
samples. If they are fewer than the features and at most a thousand, the problem is solved in coordinates of that span, which
is exact and much faster.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight

from ssl_diffusion.models.held_out_likelihood import held_out_nll

__all__ = ["LinearProbe", "Validation", "fit_probe", "reference_sample", "standardisation"]

# Inverse penalties for standardised features divided by the square root of their number, where a sample has length 1.
PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
WITHOUT_VALIDATION = 30.0
_FOLDS = 5
_REFERENCE = 2000
_LARGEST_FOR_VALIDATION = 1000
_ROWS, _AT_ONCE = 256, 2048  # samples, or features of all samples, that are float64 at once
_LARGEST_SPAN = 1000  # from here on finding a basis takes longer than it saves


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of representations.

    Attributes:
        weight: Weights, float32, (K, F).
        bias: Biases, float32, (K,).
        inverse_penalty: Inverse penalty C of the logistic regression.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    inverse_penalty: float

    def logits(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Class logits, (n, K), of representations, (n, F)."""
        return z @ self.weight.T + self.bias


def reference_sample(train: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Positions of the images, labeled or not, whose mean and standard deviation standardise the features of a probe.

    Args:
        train: Positions that training may see, int64 (N,).
        seed: Random seed of the probe.

    Returns:
        At most 2,000 of the positions, in random order.

    Example:
        >>> reference_sample(pool.train, seed=0).shape
        (1437,)
    """
    return np.random.default_rng(seed).permutation(train)[:_REFERENCE]


def fit_probe(
    z: NDArray[np.float32],
    labels: NDArray[np.int64],
    reference: NDArray[np.float32] | None,
    n_classes: int,
    *,
    inverse_penalty: float | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> LinearProbe:
    """Fit a probe.

    Args:
        z: Representations of the labeled samples, float32, (n, F).
        labels: Classes of these samples, int64, (n,), or 0/1 for every class, (n, K), for multi-label data, where each class is
            fitted by itself.
        reference: Representations of images of the pool (:func:`reference_sample`), float32, (m, F), whose mean and standard
            deviation standardise the features. None: they are standardised already, as fused ones are
            (:mod:`ssl_diffusion.models.fusion`).
        n_classes: Number of classes K. A class without a label gets a probability of about 1 / 2n everywhere.
        inverse_penalty: Inverse penalty C; None chooses it by cross-validated log-likelihood on at most 1,000 samples, or takes
            30 if a class among them has only one.
        balanced: Whether every class weighs the same, however many samples it has.
        seed: Random seed of the folds.

    Returns:
        Linear classifier of representations that are not standardised.

    Example:
        >>> z, y = pool.images.reshape(len(pool), -1) / np.float32(16), pool.labels
        >>> probe = fit_probe(z[:100], y[:100], z[:1000], n_classes=10)
        >>> accuracy = (probe.logits(z).argmax(axis=1) == y).mean()
    """
    mean, scale = standardisation(reference) if reference is not None else (np.zeros(z.shape[1]), np.ones(z.shape[1]))
    x: NDArray[Any] = _standardised(z, mean, scale)
    basis = None
    if len(x) <= min(_LARGEST_SPAN, x.shape[1] - 1):
        x, basis = _span(x)
    if inverse_penalty is None:
        validation = Validation(labels, seed, balanced=balanced)
        inverse_penalty = validation.penalty(x) if validation.possible else WITHOUT_VALIDATION
    targets = labels.T if labels.ndim == 2 else labels[None]
    parts = [_solve(x, y, inverse_penalty, 2 if labels.ndim == 2 else n_classes, balanced) for y in targets]
    if labels.ndim == 2:
        # The two logits of "no" and "yes" differ by the log-odds, which is what a sigmoid wants.
        coefficients, intercepts = (np.stack([p[i][1] - p[i][0] for p in parts]) for i in (0, 1))
    else:
        coefficients, intercepts = parts[0]
    weight = (coefficients if basis is None else coefficients @ basis) / scale
    return LinearProbe(weight.astype(np.float32), (intercepts - weight @ mean).astype(np.float32), inverse_penalty)


def standardisation(reference: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and scales (F,) by which representations are standardised, so that a sample has a mean square length of about 1.

    Args:
        reference: Representations of images of the pool (:func:`reference_sample`), float32, (m, F).

    Example:
        >>> mean, scale = standardisation(z)
        >>> length = np.square((z - mean) / scale).sum(axis=1).mean()
    """
    # In parts, for a copy of all in float64 would be the largest array of a fit.
    parts = [reference[:, i : i + _AT_ONCE] for i in range(0, reference.shape[1], _AT_ONCE)]
    mean = np.concatenate([part.mean(axis=0, dtype=np.float64) for part in parts])
    scale = np.concatenate([part.std(axis=0, dtype=np.float64) for part in parts])
    # A feature that hardly varies must not be inflated by division by its standard deviation.
    scale = np.maximum(scale, 1e-2 * max(float(np.median(scale)), 1e-12)) * np.sqrt(reference.shape[1])
    return mean, scale


def _standardised(z: NDArray[np.float32], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """Standardised representations, (n, F); of a few samples at a time, since every part is float64 before it is rounded."""
    x = np.empty(z.shape, dtype=np.float32)
    for rows in (slice(i, i + _ROWS) for i in range(0, len(z), _ROWS)):
        x[rows] = (z[rows] - mean) / scale
    return x


class Validation:
    """Cross-validation of logistic regression by its log-likelihood of held-out labels.

    Args:
        labels: Classes, int64, (n,), or 0/1 for every class, (n, K), whose first class with a 1 counts.
        seed: Random seed of the folds and, of more samples than are used, of those that are.
        largest: Number of samples that are used at most.
        balanced: Whether every class weighs the same, however many samples it has.

    Attributes:
        rows: Numbers of the samples that are used, int64.
        folds: Pairs of numbers among `rows`, of those that are fitted and those that are held out; empty if not possible.
        possible: Whether every class that occurs has two samples, and there are two such classes.

    Example:
        >>> Validation(np.array([0, 0, 1, 1]), seed=0).possible
        True
    """

    def __init__(
        self, labels: NDArray[np.int64], seed: int, largest: int = _LARGEST_FOR_VALIDATION, *, balanced: bool = False
    ) -> None:
        self._weights = "balanced" if balanced else None
        y = labels.argmax(axis=1) if labels.ndim == 2 else labels
        self.rows = np.random.default_rng(seed).permutation(len(y))[:largest]
        self.y = y[self.rows]
        present, self._number, counts = np.unique(self.y, return_inverse=True, return_counts=True)
        self._k = len(present)
        folds = min(_FOLDS, int(counts.min()))
        self.possible = folds >= 2 and len(counts) >= 2
        splitter = StratifiedKFold(max(folds, 2), shuffle=True, random_state=seed)
        self.folds = list(splitter.split(self.y, self.y)) if self.possible else []

    def penalty(self, x: NDArray[Any]) -> float:
        """Inverse penalty C in :data:`PENALTIES` of the highest likelihood.

        Args:
            x: Standardised representations of the labeled samples, (n, F).
        """
        coordinates = self.coordinates(x)
        return min(PENALTIES, key=lambda c: self.nll(coordinates, c))

    def coordinates(self, x: NDArray[Any]) -> NDArray[Any]:
        """The used samples, in coordinates of their span where they are fewer than the features."""
        x = x[self.rows]
        return _span(x)[0] if len(x) < x.shape[1] else x

    def nll(self, coordinates: NDArray[Any], inverse_penalty: float) -> float:
        """Mean negative log-likelihood of held-out labels, over the folds.

        Args:
            coordinates: Result of :meth:`coordinates`.
            inverse_penalty: Inverse penalty C.
        """
        if self._weights is None and self._k > 2 and coordinates.dtype == np.float64:
            return float(np.mean([self._held_out(coordinates, inverse_penalty, *fold) for fold in self.folds]))
        model, losses = LogisticRegression(C=inverse_penalty, max_iter=300, tol=1e-3, class_weight=self._weights), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest penalties, which then lose
            for fitted, held_out in self.folds:
                model.fit(coordinates[fitted], self.y[fitted])
                p = model.predict_proba(coordinates[held_out])
                truth = self.y[held_out]
                weights = compute_sample_weight(self._weights, truth) if self._weights is not None else None
                losses.append(log_loss(truth, p, labels=model.classes_, sample_weight=weights))
        return float(np.mean(losses))

    def _held_out(
        self, x: NDArray[np.float64], inverse_penalty: float, fitted: NDArray[np.int64], held_out: NDArray[np.int64]
    ) -> float:
        y = self._number
        return held_out_nll(x[fitted], y[fitted], x[held_out], y[held_out], inverse_penalty)


def _span(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of samples in an orthonormal basis of their span, (n, r), and the basis, (r, F)."""
    x = x.astype(np.float64)
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > values[-1] * 1e-10
    lengths = np.sqrt(values[kept])
    return vectors[:, kept] * lengths, (vectors[:, kept] / lengths).T @ x


def _solve(
    x: NDArray[Any], y: NDArray[np.int64], c: float, k: int, balanced: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (K, r) and intercepts (K,) of logistic regression, also for classes that do not occur."""
    present = np.unique(y)
    coefficients, intercepts = np.zeros((k, x.shape[1])), np.zeros(k)
    if len(present) > 1:
        weights = "balanced" if balanced else None
        model = LogisticRegression(C=c, max_iter=1000, tol=1e-4, class_weight=weights).fit(x, y)
        w, b = model.coef_, model.intercept_
        if len(present) == 2:
            w, b = np.concatenate([-w, w]) / 2, np.concatenate([-b, b]) / 2
        coefficients[present], intercepts[present] = w, b
    absent = np.setdiff1d(np.arange(k), present)
    intercepts[absent] = np.logaddexp.reduce(intercepts[present]) - np.log(2 * len(y))
    return coefficients, intercepts
