r"""How labels go wrong: the probability of each given label for each true class, estimated from held-out predictions.

Samples that a classifier is surest of, class by class, are as good as known ("anchors", Patrini et al. 2017, arXiv
1609.03683): the labels that people gave to them say how often, and with what, a class is mistaken. Confident learning
(Northcutt et al. 2021, arXiv 1911.00068) counts all samples above the mean confidence of their class instead, which takes
classes that a weak classifier confuses for classes that people confuse. Counts are few, so they are shrunk: rates of all
classes to their mean, and the classes that are given instead to all alike, unless the counts themselves are decisive evidence
of another pattern.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

__all__ = ["clean_probabilities", "noise_matrix"]

_SUREST = 0.2  # fraction of the samples predicted as a class that are its anchors
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # of the prior that counts are shrunk to, in samples
_DECISIVE = 10.0  # difference of log-evidence
_LEAST = 1e-12


def noise_matrix(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimate the probabilities of given labels by true class.

    Args:
        labels: Given classes, int64 (n,).
        probabilities: Class probabilities of the same samples by a classifier that has not seen their labels, (n, K).

    Returns:
        Probability of the given class (row) for each true class (column), float64 (K, K); columns sum to 1.

    Example:
        >>> noise_matrix(np.array([0, 1]), np.eye(2)).shape
        (2, 2)
    """
    k = probabilities.shape[1]
    counts, predicted = np.zeros((k, k)), probabilities.argmax(axis=1)
    for true in range(k):
        n = int(np.ceil(_SUREST * np.count_nonzero(predicted == true)))
        anchors = np.argsort(-probabilities[:, true], kind="stable")[:n]
        counts[:, true] = np.bincount(labels[anchors], minlength=k)
    right = counts.diagonal()
    others = np.stack([np.delete(counts[:, true], true) for true in range(k)], axis=1)
    wrong = others.sum(axis=0)
    rate = (wrong.sum() + 0.5) / (counts.sum() + 1)
    rates = (
        rate
        if (m := _strength(np.stack([right, wrong]), np.array([1 - rate, rate]))) is None
        else _mixed(wrong, right, rate, m)
    )
    alike = np.full(k - 1, 1 / max(1, k - 1))
    m = _strength(others, alike)
    instead = np.repeat(alike[:, None], k, axis=1) if m is None else (others + m * alike[:, None]) / (wrong + m)
    noise = np.empty((k, k))
    for true, wrong_rate in enumerate(np.broadcast_to(rates, k)):
        noise[:, true] = np.insert(wrong_rate * instead[:, true], true, 1 - wrong_rate)
    return noise


def clean_probabilities(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities of the true classes without regard to a sample's own label.

    A classifier that was fitted to noisy labels, and is calibrated, predicts those; one that resisted the noise predicts true
    classes already. Which of both it is, the likelihood of the given labels says. Expectation maximisation takes the noise out
    of predictions of noisy labels.

    Args:
        labels: Given classes, int64 (n,).
        probabilities: Class probabilities as :func:`noise_matrix` takes them, (n, K).
        noise: Result of :func:`noise_matrix`.

    Returns:
        Class probabilities, float64 (n, K).
    """
    p = probabilities.astype(np.float64)
    each = np.arange(len(p))
    as_given = np.log(p[each, labels] + _LEAST).sum()
    as_true = np.log((p @ noise.T)[each, labels] + _LEAST).sum()
    if as_true >= as_given:
        return p
    clean = np.full_like(p, 1 / p.shape[1])
    for _ in range(100 if p.size * p.shape[1] <= 1e8 else 20):
        clean *= (p / (clean @ noise.T + _LEAST)) @ noise
    return np.asarray(clean / np.maximum(clean.sum(axis=1, keepdims=True), _LEAST))


def _strength(counts: NDArray[np.float64], mean: NDArray[np.float64]) -> float | None:
    """Strength of the Dirichlet prior that makes columns of counts (J, K) likeliest; None if they may all have one mean."""
    same = float((counts * np.log(np.maximum(mean, _LEAST))[:, None]).sum())
    evidence = {m: _log_evidence(counts, m * mean) for m in _STRENGTHS}
    best = max(evidence, key=lambda m: evidence[m])
    return best if evidence[best] - same > _DECISIVE else None


def _log_evidence(counts: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    """Log-probability of sequences with these counts, a column each, under a Dirichlet-multinomial distribution."""
    totals = gammaln(prior.sum()) - gammaln(prior.sum() + counts.sum(axis=0))
    return float((totals + (gammaln(counts + prior[:, None]) - gammaln(prior)[:, None]).sum(axis=0)).sum())


def _mixed(hits: NDArray[np.float64], misses: NDArray[np.float64], mean: float, strength: float) -> NDArray[np.float64]:
    mixed: NDArray[np.float64] = (hits + strength * mean) / (hits + misses + strength)
    return mixed
