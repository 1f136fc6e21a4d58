r"""Pseudo-labels: what few labels say of the unlabeled images around them, taught to a linear head.

A probe sees labeled images only. Here labels are also spread over a graph of nearest neighbours among labeled and unlabeled
images, by Poisson learning (Calder, Cook, Thorpe and Slepčev, ICML 2020, eq. 2.3): with the Laplacian L of the graph, the
classes :math:`y_j` of the labeled nodes and their mean :math:`\bar y`,

.. math::
    L \, u = \sum_j (y_j - \bar y) \, \delta_j .

The product of the class probabilities of graph and probe, with classes as frequent as the probe finds them, teaches a second
head: logistic regression on the labels and, with the same weight in all, on the pseudo-labels. It is linear like the first one,
so that whatever reads a head goes on to do so. Held-out labels decide which of the two is kept.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg
from scipy.special import log_softmax, softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from ssl_diffusion.models.probe import LinearProbe, Validation, fit_probe

__all__ = ["LARGEST_BUDGET", "PseudoLabelProbe", "fit_pseudo_label_probe", "neighbor_graph", "poisson_scores", "pseudo_labels"]

LARGEST_BUDGET = 1000  # labels beyond which the labels alone teach as much
_NEIGHBORS = 10
_COMPONENTS = 50  # of the representation, in which neighbours are searched
_DIRECTIONS = 256  # of the representation, which the second head reads
_SHARPNESS = 4.0  # of the graph's scores, in units of their median deviation
_LEAK = 1e-3
_SCALES = tuple(float(v) for v in np.geomspace(0.25, 2, 13))  # of logits
_SMALLEST = 0.02  # probability of a pseudo-label that is left out


@dataclass(frozen=True)
class PseudoLabelProbe:
    """A linear classifier of representations, and whether it was taught pseudo-labels.

    Attributes:
        probe: Classifier.
        used: Whether it was taught pseudo-labels.
        nll: Mean negative log-likelihood of held-out labels by the head that is taught the labels alone, and by the one that is
            taught pseudo-labels too, each with the best scale of its logits. None: no label could be held out, or there were so
            many that the latter was not tried.
    """

    probe: LinearProbe
    used: bool
    nll: tuple[float, float] | None

    def facts(self) -> dict[str, Any]:
        """Facts for the metrics: whether pseudo-labels were used, and both NLL of held-out labels."""
        nll = None if self.nll is None else [round(value, 4) for value in self.nll]
        return {"used": self.used, "nll": nll, "choice": str(self)}

    def __str__(self) -> str:
        if self.nll is None:
            return "not tried"
        return f"{'used' if self.used else 'not used'}: cross-validated NLL {self.nll[1]:.2f} with, {self.nll[0]:.2f} without"


def fit_pseudo_label_probe(
    first: LinearProbe,
    z: NDArray[np.float32],
    labels: NDArray[np.int64],
    unlabeled: NDArray[np.float32],
    n_classes: int,
    *,
    seed: int = 0,
) -> PseudoLabelProbe:
    """Teach a probe pseudo-labels, and keep the one that held-out labels favor.

    Args:
        first: Probe of the labels, on the same representation.
        z: Standardised representations of the labeled samples, float32 (n, F).
        labels: Classes of these samples, int64 (n,).
        unlabeled: Standardised representations of unlabeled samples, float32 (m, F).
        n_classes: Number of classes K.
        seed: Random seed of the folds and of the principal components.

    Example:
        >>> z = pool.images.reshape(len(pool), -1) / np.float32(128)
        >>> first = fit_probe(z[:100], pool.labels[:100], None, n_classes=10)
        >>> better = fit_pseudo_label_probe(first, z[:100], pool.labels[:100], z[100:1000], n_classes=10)
    """
    validation = Validation(labels, seed)
    if len(labels) > LARGEST_BUDGET or not validation.possible or len(unlabeled) <= _NEIGHBORS:
        return PseudoLabelProbe(first, False, None)
    teacher, c = _Teacher(z, unlabeled, n_classes, seed), first.inverse_penalty
    held: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]] = []
    for fitted, out in validation.folds:
        rows, others = validation.rows[fitted], validation.rows[out]
        of_labels = fit_probe(z[rows], labels[rows], None, n_classes, inverse_penalty=c, seed=seed)
        of_both = teacher.taught(of_labels, rows, labels[rows])
        held.append((labels[others], of_labels.logits(z[others]), of_both.logits(z[others])))
    y, before, after = (np.concatenate(parts) for parts in zip(*held, strict=True))
    (before, _), (after, scale) = _calibrated(before, y), _calibrated(after, y)
    gains, nll = before - after, (float(before.mean()), float(after.mean()))
    if gains.mean() <= gains.std() / np.sqrt(len(gains)):  # within one standard error there is nothing to be seen
        return PseudoLabelProbe(first, False, nll)
    taught = teacher.taught(first, np.arange(len(labels)), labels)
    scaled = LinearProbe(taught.weight * np.float32(scale), taught.bias * np.float32(scale), c)
    return PseudoLabelProbe(scaled, True, nll)


def _calibrated(logits: NDArray[np.float32], y: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Negative log-likelihoods of classes, (n,), with the best scale of the logits, and the scale.

    A head that is taught pseudo-labels is surer than it is right, which says nothing against what it has learned.
    """
    found = {}
    for scale in _SCALES:
        log_p = log_softmax(scale * logits.astype(np.float64), axis=1)
        found[scale] = -log_p[np.arange(len(y)), y]
    best = min(found, key=lambda scale: float(found[scale].mean()))
    return found[best], best


class _Teacher:
    """Labeled and unlabeled samples: their graph, and coordinates in which heads are taught."""

    def __init__(self, z: NDArray[np.float32], unlabeled: NDArray[np.float32], n_classes: int, seed: int) -> None:
        both = np.concatenate([z, unlabeled])
        self.graph = neighbor_graph(both, seed=seed)
        pca = PCA(min(_DIRECTIONS, *both.shape), svd_solver="randomized", random_state=seed).fit(both)
        self._basis = pca.components_.astype(np.float64)
        self._x, self._n, self._unlabeled, self._n_classes = both @ self._basis.T, len(z), unlabeled, n_classes

    def taught(self, first: LinearProbe, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> LinearProbe:
        """The head that is taught pseudo-labels.

        Args:
            first: Probe of the same labels.
            rows: Numbers of the labeled samples whose labels are known.
            labels: Classes of these samples.
        """
        scores = poisson_scores(self.graph, rows, labels, self._n_classes)[self._n :]
        q = pseudo_labels(scores, softmax(first.logits(self._unlabeled).astype(np.float64), axis=1))
        at, classes = np.nonzero(q > _SMALLEST)
        weight = np.concatenate([np.ones(len(rows)), q[at, classes] * len(rows) / len(q)])
        x, y = np.concatenate([self._x[rows], self._x[self._n :][at]]), np.concatenate([labels, classes])
        model = LogisticRegression(C=first.inverse_penalty, max_iter=300, tol=1e-3).fit(x, y, weight)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            coefficients, intercepts = (np.concatenate([-v, v]) / 2 for v in (coefficients, intercepts))
        made, bias = first.weight.copy(), first.bias.copy()
        made[model.classes_], bias[model.classes_] = coefficients @ self._basis, intercepts
        return LinearProbe(made, bias, first.inverse_penalty)


def neighbor_graph(z: NDArray[np.float32], *, n_neighbors: int = _NEIGHBORS, seed: int = 0) -> sparse.csr_matrix:
    """Symmetric graph of nearest neighbours, (n, n), with weights that fall from 1 to exp(-4) at the farthest neighbour.

    Neighbours are searched among the first 50 principal components of representations that are made as long as each other.

    Args:
        z: Representations, float32 (n, F).
        n_neighbors: Neighbours of a sample.
        seed: Random seed of the principal components.

    Example:
        >>> neighbor_graph(np.eye(4, dtype=np.float32), n_neighbors=2).shape
        (4, 4)
    """
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    near = PCA(min(_COMPONENTS, *unit.shape), svd_solver="randomized", random_state=seed).fit_transform(unit)
    distances, found = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(near).kneighbors(near)
    farthest = np.maximum(distances[:, -1:], 1e-12)
    weights = np.exp(-4 * np.square(distances / farthest))
    at = (np.repeat(np.arange(len(z)), n_neighbors + 1), found.ravel())
    directed = sparse.csr_matrix((weights.ravel(), at), shape=(len(z), len(z)))
    directed.setdiag(0)
    return (directed + directed.T) / 2


def poisson_scores(
    graph: sparse.csr_matrix, rows: NDArray[np.int64], labels: NDArray[np.int64], n_classes: int
) -> NDArray[np.float64]:
    """Scores of all nodes of a graph by Poisson learning, (n, K); higher is likelier, and the zero is of no meaning.

    Args:
        graph: Symmetric weights, (n, n).
        rows: Numbers of the labeled nodes, int64 (l,).
        labels: Classes of these nodes, int64 (l,).
        n_classes: Number of classes K.

    Example:
        >>> line = sparse.diags([np.ones(3), np.ones(3)], [-1, 1]).tocsr()      # four nodes in a row
        >>> poisson_scores(line, np.array([0, 3]), np.array([0, 1]), 2).argmax(axis=1)
        array([0, 0, 1, 1])
    """
    degrees = np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1e-9)
    # A part of the graph without a path to the rest has a solution only with the additional term, which changes little else.
    laplacian = sparse.diags((1 + _LEAK) * degrees) - graph
    classes = np.eye(n_classes)[labels]
    sources = np.zeros((graph.shape[0], n_classes))
    np.add.at(sources, rows, classes - classes.mean(axis=0))
    inverse = sparse.diags(1 / degrees)
    u = np.stack([cg(laplacian, source, rtol=1e-3, maxiter=300, M=inverse)[0] for source in sources.T], axis=1)
    centered: NDArray[np.float64] = u - degrees @ u / degrees.sum()
    return centered


def pseudo_labels(scores: NDArray[np.float64], p: NDArray[np.float64], *, rounds: int = 20) -> NDArray[np.float64]:
    """Class probabilities by a graph and a probe together, (m, K), whose mean is that of the probe.

    Args:
        scores: Scores by the graph, (m, K).
        p: Class probabilities by the probe, (m, K).
        rounds: Number of times that classes are scaled to the mean of the probe and samples to a sum of 1.

    Example:
        >>> pseudo_labels(np.zeros((1, 2)), np.array([[0.25, 0.75]])).round(2)
        array([[0.25, 0.75]])
    """
    frequency = p.mean(axis=0)
    q = softmax(_SHARPNESS * scores / max(float(np.median(scores.std(axis=1))), 1e-12), axis=1)
    q = _with_frequency(q, frequency, rounds) * p
    product: NDArray[np.float64] = q / np.maximum(q.sum(axis=1, keepdims=True), 1e-300)
    return product


def _with_frequency(q: NDArray[np.float64], frequency: NDArray[np.float64], rounds: int) -> NDArray[np.float64]:
    """Probabilities scaled by class so that their mean is a given one."""
    for _ in range(rounds):
        q = q * (frequency / np.maximum(q.mean(axis=0), 1e-12))
        q /= np.maximum(q.sum(axis=1, keepdims=True), 1e-12)
    return q
