"""The value of a label: by how much the pool's loss is expected to fall when a sample is labeled and the linear head refitted.

Refitted to one more sample c of class y, the logits of a sample j change by k (e_y - p_c), k being the covariance of the two
logits under what is known about the weights (rank-one update, Sherman and Morrison 1950), over 1 + the variance of the
sample's own logit. The loss of the pool is the mean entropy of its probabilities; these are brought to the temperature at which
labeled samples that were left out are most probable, since a head that separates its few labels is surer than it should be.

To second order in k the fall is a product of two matrices for all candidates at once, if the answer moves no probability on the
average. It does where a sample is all but certain, so that for a shortlist the fall is computed in full, class by class. A
batch grows greedily, and every sample taken lowers the covariance of what it tells about.
"""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import some_rows
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.linear_head import linear_head
from ssl_diffusion.acquisition.registry import Choice, register_batch

__all__ = ["expected_fall", "value"]

_CHOSEN, _POOL = 5000, 2000  # candidates that can be chosen, and that stand for the pool
_FULL, _FULL_POOL = 300, 500  # candidates at least whose fall is computed in full, on so many samples of the pool
_ANSWERS = 5  # most probable classes that may be the answer
_PRIOR = 30.0  # precision of a weight; features have a mean square of 1
_TEMPERATURES = (1.0, 8.0)
_LEAST = 1e-3  # weight of a sample in the information
Floats = NDArray[np.float64]


@register_batch(
    "value",
    needs="labels",
    cost="covariances of 5,000 with 2,000 logits, n updates of them; refits in closed form for a shortlist",
    when="two or more labels a class, and a question about the value itself: what the next label is worth",
    reference="expected error reduction (Roy and McCallum 2001, ICML), in closed form for a linear head; this package's own",
)
def value(c: Candidates, n: int) -> Choice:
    """Always the candidate whose label is expected to lower the pool's loss most.

    Utility is the expected fall of the mean loss of the pool, in nats, before the batch grows; of more than 5,000 candidates a
    random 5,000 take part, and the others have utility 0.
    """
    rows, at = (some_rows(len(c), most, n, c.rng) for most in (_CHOSEN, _POOL))
    z, pool, known = _features(c, rows, at)
    p = _warmed(c.p, _temperature(c, known))
    of_rows, of_pool = p[rows], p[at]
    known_top = linear_head(c).probabilities(c.labeled_representation).max(axis=1)
    precision = (known * _weights(known_top)[:, None]).T @ known + _PRIOR * np.eye(z.shape[1])
    inverse = np.linalg.inv(precision)
    to = z @ inverse
    covariance, variance = to @ pool.T, np.einsum("ij,ij->i", to, z)
    weights = _weights(of_rows.max(axis=1))
    spread = _products(of_rows, of_pool)
    rough = _second_order(covariance, variance, weights, spread)
    few = np.sort(np.argsort(-rough, kind="stable")[: max(_FULL, 5 * n)])
    part = np.linspace(0, len(at) - 1, min(len(at), _FULL_POOL)).astype(np.int64)
    change = covariance[np.ix_(few, part)] / (1 + weights[few] * variance[few])[:, None]
    full = expected_fall(change, of_rows[few], of_pool[part])
    factor = (full / rough[few].clip(1e-300)).clip(_LEAST)
    utilities = np.zeros(len(c))
    utilities[rows[few]] = factor * rough[few]
    utilities[rows] = np.where(np.isin(rows, rows[few]), utilities[rows], np.minimum(rough, utilities[rows[few]].min()))
    # What the second order leaves out is taken to be the same fraction while the batch grows.
    z, covariance, variance, weights, spread = z[few], covariance[few], variance[few], weights[few], spread[few]
    open_, order = np.ones(len(few), dtype=bool), c.rng.permutation(len(few))
    picks: list[int] = []
    while len(picks) < n:
        fall = np.where(open_, factor * _second_order(covariance, variance, weights, spread), -np.inf)
        i = int(order[fall[order].argmax()])
        open_[i] = False
        picks.append(i)
        u = inverse @ z[i]
        shrink = weights[i] / (1 + weights[i] * variance[i])
        with_i = z @ u
        inverse -= shrink * np.outer(u, u)
        covariance -= shrink * np.outer(with_i, covariance[i].copy())
        variance = variance - shrink * with_i**2
    notes = tuple(f"lowers the loss of the pool by {utilities[rows[few[i]]]:.2g} nats" for i in picks)
    return Choice(rows[few[picks]], utilities, np.ones(n), notes)


def expected_fall(change: Floats, p: Floats, pool: Floats) -> Floats:
    """Expected fall of the mean loss of a pool, in nats, (m,), when one of m samples is labeled; its class is one of its five
    most probable ones.

    Args:
        change: Change of the logits of the pool's samples by a surprise of 1, (m, M).
        p: Class probabilities of the samples, (m, K).
        pool: Class probabilities of the pool, (M, K).
    """
    from scipy.special import softmax

    logits = np.log(pool.clip(1e-12))
    fall = np.full(len(p), _entropy(pool).mean())
    for i, (of_pool, mine) in enumerate(zip(change, p, strict=True)):
        answers = np.argsort(-mine, kind="stable")[:_ANSWERS]
        for y, chance in zip(answers, mine[answers] / mine[answers].sum(), strict=True):
            surprise = -mine
            surprise[y] += 1
            fall[i] -= chance * float(_entropy(softmax(logits + of_pool[:, None] * surprise, axis=1)).mean())
    return fall


def _second_order(covariance: Floats, variance: Floats, weights: Floats, spread: Floats) -> Floats:
    """Expected fall to second order in the covariance, (m,)."""
    fall: Floats = np.einsum("ij,ij,ij->i", covariance, covariance, spread) / (2 * covariance.shape[1])
    return fall / np.square(1 + weights * variance)


def _products(p: Floats, pool: Floats) -> Floats:
    """Traces of (diag p - p p') (diag q - q q') for all pairs, (m, M)."""
    both = p @ pool.T
    traces: Floats = both - np.square(p) @ pool.T - p @ np.square(pool).T + np.square(both)
    return traces


def _entropy(p: Floats) -> Floats:
    entropies: Floats = -(p * np.log(p.clip(1e-30))).sum(axis=1)
    return entropies


def _weights(top: Floats) -> Floats:
    """Information of a label, p (1 - p) of the most probable class."""
    information: Floats = (top * (1 - top)).clip(_LEAST)
    return information


def _warmed(p: NDArray[np.float32], temperature: float) -> Floats:
    from scipy.special import softmax

    warmed: Floats = softmax(np.log(p.astype(np.float64).clip(1e-12)) / temperature, axis=1)
    return warmed


def _temperature(c: Candidates, known: Floats) -> float:
    """Temperature at which labels that a ridge regression on the others predicts are most probable; 1 without two classes.

    The regression's scores, 1 for the class and 0 for the others where it fits, are as far apart as the head's logits of
    labeled samples are.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import softmax

    y, k = c.labeled_classes, c.p.shape[1]
    if len(np.unique(y)) < 2:
        return 1.0
    target = np.eye(k)[y]
    hat = known @ np.linalg.solve(known.T @ known + _PRIOR * np.eye(known.shape[1]), known.T)
    left_out = target - (target - hat @ target) / (1 - np.diag(hat)).clip(1e-6)[:, None]
    log_p = np.log(linear_head(c).probabilities(c.labeled_representation).clip(1e-12))
    logits = left_out * float((log_p.max(axis=1) - log_p.mean(axis=1)).mean()) * k / max(1, k - 1)

    def loss(log_temperature: float) -> float:
        q = softmax(logits / np.exp(log_temperature), axis=1)
        return -float(np.log(q[np.arange(len(y)), y].clip(1e-12)).mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def _features(c: Candidates, rows: NDArray[np.int64], at: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """Representations of candidates, of the pool and of labeled samples, centered, with a mean square of 1, and a 1."""
    parts = [np.asarray(c.representation[rows]), np.asarray(c.representation[at]), c.labeled_representation]
    parts = [part.astype(np.float64) for part in parts]
    mean = parts[1].mean(axis=0)
    scale = float(np.sqrt(np.square(parts[1] - mean).mean())) or 1.0
    z, pool, known = (np.column_stack([(part - mean) / scale, np.ones(len(part))]) for part in parts)
    return z, pool, known
