"""Information: batches after which the classifier's weights are known best where the pool needs them (BAIT).

The Fisher information of a linear head about one image with representation z and probabilities p is
(diag(p) - p p') x (z z'). A batch S is good if tr(M^-1 F) is small, M being the information of the labeled samples and S and of
a Gaussian prior, and F that of the pool: this is the expected loss of the pool, to second order. The batch grows greedily to
twice its size and shrinks again, each step with an update of low rank of what every candidate would gain.
"""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import best, some_rows
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.linear_head import linear_head
from ssl_diffusion.acquisition.registry import Choice, register_batch

__all__ = ["bait", "bait_exact"]

_PRIOR = 30.0  # precision of a weight; features have a mean square of 1
_OVERSAMPLE = 2
_READ = 100_000  # candidates of the fast approximation
_SHORTLIST = 2000  # candidates of the exact one
_PARAMETERS = 640  # weights of the exact one, over all classes
_BLOCK = 2048
_CACHED = 256  # candidates whose representations stay in the processor's cache from one product to the next
Floats = NDArray[np.float64]


@register_batch(
    "bait",
    needs="labels",
    cost="a pass over the representations for each of 2 n samples",
    when="two or more labels a class; batches of any size",
    reference="Ash et al. 2021, arXiv 2106.09675; as one class against the others: Huseljic et al. 2024, arXiv 2404.08981",
)
def bait(c: Candidates, n: int) -> Choice:
    """BAIT for the question whether the most probable class is right: the information about an image is then p (1 - p) z z'.

    Utility is what the first choice would gain, over the largest. Of more than 100,000 candidates a random 100,000 take part;
    the others have utility 0.
    """
    rows = some_rows(len(c), _READ, n, c.rng)
    z, known = _features(c, rows, None)
    top = c.p[rows].max(axis=1).astype(np.float64)
    known_top = linear_head(c).probabilities(c.labeled_representation).max(axis=1)
    return _choose(c, n, rows, z, _root_of_binary(top), known, _root_of_binary(known_top))


@register_batch(
    "bait-exact",
    needs="labels",
    cost="as bait, then K times as much for 2,000 candidates",
    when="two or more labels a class, where minutes do not matter",
    reference="Ash et al. 2021, arXiv 2106.09675, algorithm 1",
)
def bait_exact(c: Candidates, n: int) -> Choice:
    """BAIT with the information about all classes, among the 2,000 candidates that gain most by :func:`bait`, on as many first
    principal components as give 640 weights.

    Utility is what the first choice would gain, over the largest; 0 outside the shortlist.
    """
    rows = np.arange(len(c))
    if len(c) > _SHORTLIST:
        rows = np.sort(best(bait(c, 1).utilities, max(_SHORTLIST, n), c.rng).picks)
    z, known = _features(c, rows, max(2, _PARAMETERS // c.p.shape[1] - 1))
    known_p = linear_head(c).probabilities(c.labeled_representation)
    return _choose(c, n, rows, z, _root_of_all(c.p[rows].astype(np.float64)), known, _root_of_all(known_p))


def _features(c: Candidates, rows: NDArray[np.int64], most: int | None) -> tuple[Floats, Floats]:
    """Representations of candidates and labeled samples, centered, with a mean square of 1 and a constant feature of 1."""
    x = np.concatenate([np.asarray(c.representation[rows]), c.labeled_representation]).astype(np.float64)
    x -= x.mean(axis=0)
    if most is not None and x.shape[1] > most:
        _, axes = np.linalg.eigh(x.T @ x)  # by increasing eigenvalue
        x = x @ axes[:, -most:]
    z = np.column_stack([x / (float(np.sqrt(np.square(x).mean())) or 1.0), np.ones(len(x))])
    return z[: len(rows)], z[len(rows) :]


def _root_of_binary(top: Floats) -> Floats:
    """Square roots of p (1 - p), (n, 1, 1)."""
    root: Floats = np.sqrt((top * (1 - top)).clip(1e-12))[:, None, None]
    return root


def _root_of_all(p: Floats) -> Floats:
    """Matrices A with A A' = diag(p) - p p', (n, K, K): since p sums to 1, A = diag(sqrt p) - p sqrt(p)'."""
    s = np.sqrt(p.clip(1e-12))
    root: Floats = np.einsum("nk,kl->nkl", s, np.eye(p.shape[1])) - p[:, :, None] * s[:, None, :]
    return root


class _Greedy:
    """What every candidate would gain, kept up to date while candidates are taken and given back.

    Attributes:
        gains: Symmetric matrices (I x z)' P (I x z), (N, K, K), with the inverse P of the information M.
        needs: The same with P F P, (N, K, K).
    """

    def __init__(self, z: Floats, roots: Floats, known: Floats, known_roots: Floats) -> None:
        self._z, self._roots = z, roots
        # Matrices of one number, as those of bait are, are multiplied ten times as fast without matmul.
        self._product = np.multiply if roots.shape[1] == 1 else np.matmul
        k, d = roots.shape[1], z.shape[1]
        self._shape = (k, d)
        labeled = _information(known, known_roots)
        self._pool = (_information(z, roots) + labeled) / (len(z) + len(known))
        self._inverse = np.linalg.inv(labeled + _PRIOR * np.eye(k * d)).astype(np.float64)
        self.gains = self._inner(self._inverse)
        needed: Floats = self._inverse @ self._pool @ self._inverse
        self.needs = self._inner(needed)

    def value(self, rows: NDArray[np.int64] | slice, sign: float) -> Floats:
        """By how much the loss falls when a candidate is taken (sign 1), or rises when it is given back (-1), (n,)."""
        a = self._roots[rows]
        transposed, product = a.transpose(0, 2, 1), self._product
        of_gain = product(product(transposed, self.gains[rows]), a)
        of_need = product(product(transposed, self.needs[rows]), a)
        if a.shape[1] == 1:
            ratio: Floats = of_need[:, 0, 0] / (1 + sign * of_gain[:, 0, 0])
            return ratio
        value: Floats = np.trace(np.linalg.solve(np.eye(a.shape[2]) + sign * of_gain, of_need), axis1=1, axis2=2)
        return value

    def change(self, i: int, sign: float) -> None:
        """Take a candidate (sign 1) or give it back (-1)."""
        v = np.kron(self._roots[i], self._z[i][:, None])  # (K d, K)
        u: Floats = self._inverse @ v
        r = self._inverse @ (self._pool @ u)
        s = np.linalg.inv(np.eye(v.shape[1]) + sign * (v.T @ u))
        # Of P - sign U S U' and of that times F times that: what U and U' F P give each candidate.
        self._inverse -= sign * u @ s @ u.T
        product, columns = self._product, v.shape[1]
        both = self._outer(np.concatenate([u, r], axis=1))  # one pass: reading the representations is what takes the time
        hu, hr = both[..., :columns], both[..., columns:]
        t = s @ (u.T @ self._pool @ u) @ s
        us, hu_t = product(hu, s), hu.transpose(0, 2, 1)
        self.gains -= sign * product(us, hu_t)
        crossed = product(us, hr.transpose(0, 2, 1))
        self.needs += product(product(hu, t), hu_t) - sign * (crossed + crossed.transpose(0, 2, 1))

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Go on with some candidates only, which get their places among these as numbers."""
        self._z, self._roots = self._z[rows], self._roots[rows]
        self.gains, self.needs = self.gains[rows], self.needs[rows]

    def _outer(self, u: Floats) -> Floats:
        """(I x z)' U of all candidates, (N, K, columns)."""
        k, d = self._shape
        if k > 1:
            of_class = u.reshape(k, d, -1)
            of_all: Floats = np.stack([self._z @ of_class[j] for j in range(k)], axis=1)
            return of_all
        columns = [np.ascontiguousarray(column) for column in u.T]
        found = np.empty((len(self._z), 1, len(columns)))
        for start in range(0, len(self._z), _CACHED):
            z = self._z[start : start + _CACHED]
            for j, column in enumerate(columns):  # one product with two columns takes twice as long
                found[start : start + _CACHED, 0, j] = z @ column
        return found

    def _inner(self, matrix: Floats) -> Floats:
        """(I x z)' matrix (I x z) of all candidates, (N, K, K)."""
        k, d = self._shape
        of_classes = matrix.reshape(k, d, k, d)
        found = np.empty((len(self._z), k, k))
        for start in range(0, len(self._z), _BLOCK):
            z = self._z[start : start + _BLOCK]
            for a in range(k):
                for b in range(a + 1):
                    value = np.einsum("nj,nj->n", z @ of_classes[a, :, b, :], z)
                    found[start : start + _BLOCK, a, b] = found[start : start + _BLOCK, b, a] = value
        return found


def _information(z: Floats, roots: Floats) -> Floats:
    """Sum of the Fisher information of samples, (K d, K d)."""
    k, d = roots.shape[1], z.shape[1]
    total = np.zeros((k, d, k, d))
    weights = roots @ roots.transpose(0, 2, 1)
    for a in range(k):
        for b in range(a + 1):
            block = (z * weights[:, a, b, None]).T @ z
            total[a, :, b, :] = block
            total[b, :, a, :] = block
    return total.reshape(k * d, k * d)


def _choose(
    c: Candidates, n: int, rows: NDArray[np.int64], z: Floats, roots: Floats, known: Floats, known_roots: Floats
) -> Choice:
    """The batch of a greedy search forwards to twice its size, then backwards."""
    greedy = _Greedy(z, roots, known, known_roots)
    first = greedy.value(slice(None), 1)
    utilities = np.zeros(len(c))
    utilities[rows] = first / max(float(first.max()), 1e-300)
    taken: list[int] = []
    open_ = np.ones(len(rows), dtype=bool)
    order = c.rng.permutation(len(rows))  # copies are taken in random order
    while len(taken) < min(_OVERSAMPLE * n, len(rows)):
        value = np.where(open_, greedy.value(slice(None), 1), -np.inf)
        i = int(order[value[order].argmax()])
        greedy.change(i, 1)
        open_[i] = False
        taken.append(i)
    greedy.keep(np.array(taken))  # only what was taken can be given back
    kept = list(range(len(taken)))
    while len(kept) > n:
        loss = greedy.value(np.array(kept), -1)
        greedy.change(kept.pop(int(loss.argmin())), -1)
    picks = rows[taken][kept]
    return Choice(picks, utilities, np.ones(n))
