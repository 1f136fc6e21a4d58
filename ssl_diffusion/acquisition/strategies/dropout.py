"""Dropout on the representation: samples whose class hangs on single features."""

import numpy as np

from ssl_diffusion.acquisition.batch_selection import central
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.linear_head import linear_head
from ssl_diffusion.acquisition.registry import Choice, register_batch
from ssl_diffusion.acquisition.strategies.uncertainty import margin

__all__ = ["dropquery"]

_DRAWS, _DROPPED = 3, 0.75
_BLOCK = 4096


@register_batch(
    "dropquery",
    needs="labels",
    cost="one encoder pass over the pool, k-means on the representations that change",
    when="few labels on a representation that is good already",
    reference="Gupte et al. 2024, arXiv 2401.14555, algorithm 1",
    reads_labeled=False,
)
def dropquery(c: Candidates, n: int) -> Choice:
    """Candidates whose predicted class changes in most of three draws of dropout on the representation; of these, those nearest
    to n centers of k-means.

    Where fewer than n change, the smallest margins complete the batch. Utility is the fraction of draws that change the class.
    """
    head = linear_head(c)
    predicted = c.p.argmax(axis=1)
    changed = np.zeros(len(c))
    for start in range(0, len(c), _BLOCK):
        x = np.asarray(c.representation[np.arange(start, min(start + _BLOCK, len(c)))])
        for _ in range(_DRAWS):
            kept = x * (c.rng.random(x.shape, dtype=np.float32) >= _DROPPED) / np.float32(1 - _DROPPED)
            found = (kept @ head.weight + head.bias).argmax(axis=1)
            changed[start : start + len(x)] += (found != predicted[start : start + len(x)]) / _DRAWS
    order = np.lexsort((c.rng.permutation(len(c)), -margin(c), -np.round(changed * _DRAWS)))
    flipped = int((changed > 0.5).sum())
    if flipped <= n:
        return Choice(order[:n], changed, np.ones(n))
    rows = np.sort(order[:flipped])
    return Choice(rows[central(np.asarray(c.representation[rows]), n, c.rng)], changed, np.ones(n))
