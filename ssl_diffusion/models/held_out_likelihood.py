"""Cross-validated likelihood of logistic regression, for the many small fits of a search for a penalty.

A search fits thirty models of a few hundred numbers each, and takes as many again with every batch that an oracle tries. There
an estimator's checks of its input take several times as long as the arithmetic, so that this is the arithmetic alone: the
objective, the start and the stopping rule of scikit-learn's LogisticRegression, with the same results but for rounding.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["held_out_nll"]

_LEAST = float(np.finfo(np.float64).eps)  # probability, as in scikit-learn's log_loss
Floats = NDArray[np.float64]


def held_out_nll(
    x: Floats,
    y: NDArray[np.int64],
    held_out_x: Floats,
    held_out_y: NDArray[np.int64],
    inverse_penalty: float,
    *,
    iterations: int = 300,
    tolerance: float = 1e-3,
) -> float:
    """Mean negative log-likelihood of held-out labels after a multinomial logistic regression with an L2 penalty.

    Args:
        x: Features that are fitted, float64 (n, r).
        y: Classes of these samples, int64 (n,), each of 0 .. K - 1 at least once, K at least 3.
        held_out_x: Features of the samples that are held out, float64 (m, r).
        held_out_y: Classes of these samples, int64 (m,), among those that were fitted.
        inverse_penalty: Inverse penalty C of the weights; intercepts are free.
        iterations: Iterations of L-BFGS at most.
        tolerance: Largest element of the gradient at which it stops.

    Example:
        >>> held_out_nll(x[:90], y[:90], x[90:], y[90:], inverse_penalty=30.0)  # doctest: +SKIP
        0.41
    """
    from scipy.optimize import minimize

    n, k = len(x), int(y.max()) + 1
    with_constant = np.column_stack([x, np.ones(n)])
    transposed = np.ascontiguousarray(with_constant.T)
    shape = (with_constant.shape[1], k)
    decay = 1 / (inverse_penalty * n)
    rows = np.arange(n)

    def objective(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(shape)
        logits = with_constant @ w
        logits -= logits.max(axis=1, keepdims=True)
        truth = logits[rows, y]
        p = np.exp(logits)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        p[rows, y] -= 1
        gradient = transposed @ p
        gradient /= n
        gradient[:-1] += decay * w[:-1]
        loss = (np.log(total).sum() - truth.sum()) / n + 0.5 * decay * float(np.square(w[:-1]).sum())
        return float(loss), gradient.ravel()

    options = {"maxiter": iterations, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    w = minimize(objective, np.zeros(shape).ravel(), method="L-BFGS-B", jac=True, options=options).x.reshape(shape)
    logits = held_out_x @ w[:-1] + w[-1]
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return float(-np.log(p[np.arange(len(p)), held_out_y].clip(_LEAST, 1 - _LEAST)).mean())
