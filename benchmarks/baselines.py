"""Semi-supervised methods of other packages on the labels that `ssld fit` would use.

Each takes the inputs of all pool images, the labels of the budget, and returns class scores of the test images: (n, K),
rows summing to one. The inputs are raw pixels in [0, 1], their first 50 principal components, or those of the representation
of the pretrained denoiser. All are graph methods or wrappers that use every unlabeled training image. A graph is made
once for the labels and seeds of a data set; its time is in the first row.
"""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool

__all__ = ["BASELINES", "components", "graph_learning", "known_labels", "label_spreading", "self_training"]

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
_LARGE = 5000  # training images from which on a kernel machine on all of them takes longer than anything else here


def known_labels(pool: Pool, n_labeled: int, seed: int) -> Labels:
    """Classes of the training images, those of `ssld fit --labeled N --seed SEED`; -1 for the others."""
    y = np.full(len(pool.train), -1)
    chosen = pool.positions(choose_labeled(pool, n_labeled, seed=seed).train)
    y[np.searchsorted(pool.train, chosen)] = pool.labels[chosen]
    return y


def components(x: Array, n: int = 50) -> Array:
    """Principal components of the images, fitted on at most 10,000 of them; (n, 50)."""
    sample = np.random.default_rng(0).permutation(len(x))[:10_000]
    n = min(n, x.shape[1], len(sample))
    return np.asarray(PCA(n, svd_solver="randomized", random_state=0).fit(x[sample]).transform(x), dtype=np.float32)


def label_spreading(train: Array, y: Labels, test: Array, n_classes: int, seed: int) -> Array:
    """scikit-learn's LabelSpreading on a graph of 7 neighbours, the default of its documentation.

    Its own kernel "knn" gives the same and searches the neighbours, which are those of all labels and seeds, in every fit.
    """
    within, across = _neighbor_graphs(train, test)

    def kernel(a: Array, b: Array) -> Any:
        return within if a is b else across.T

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 where the graph does not connect an image to a label
        p = LabelSpreading(kernel=kernel).fit(train, y).predict_proba(test)
    return np.nan_to_num(p, nan=1 / n_classes)


_graphs: dict[bytes, tuple[Any, Any]] = {}


def _neighbor_graphs(train: Array, test: Array, neighbors: int = 7) -> tuple[Any, Any]:
    """Which training images, itself included, are nearest to each training and each test image: sparse 0/1 matrices."""
    key = hashlib.sha256(train.tobytes() + test.tobytes()).digest()
    if key not in _graphs:
        search = NearestNeighbors(n_neighbors=neighbors, n_jobs=1).fit(train)
        _graphs[key] = search.kneighbors_graph(train), search.kneighbors_graph(test)
    return _graphs[key]


def self_training(train: Array, y: Labels, test: Array, n_classes: int, seed: int) -> Array:
    """scikit-learn's SelfTraining: around an SVC for small pools, around logistic regression for large ones."""
    if len(train) < _LARGE:
        inner = SVC(gamma="scale", probability=True, random_state=seed)
    else:
        inner = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SelfTrainingClassifier(inner).fit(train, y)
    scores = model.predict_proba(test)
    if len(train) < _LARGE:  # an SVC predicts by its margins, which few labels serve better than its probabilities
        order = np.arange(len(test))
        predicted = np.searchsorted(model.classes_, model.predict(test))
        scores[order, predicted] = scores.max(axis=1) + 1e-9
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


_connected: dict[bytes, Any] = {}


def _connected_graph(x: Array, neighbors: int = 10) -> Any:
    """Weights of the kNN graph with the fewest neighbours, at least 10, that is connected: without that Poisson learning
    has no solution, and its solver goes astray."""
    import graphlearning as gl

    key = hashlib.sha256(x.tobytes()).digest()
    if key in _connected:
        return _connected[key]
    search = NearestNeighbors(n_jobs=1).fit(x)
    while True:
        distances, indices = search.kneighbors(x, neighbors)
        weights = gl.weightmatrix.knn(None, neighbors, knn_data=(indices, distances))
        if connected_components(weights)[0] == 1 or neighbors > 100:
            _connected[key] = weights
            return weights
        neighbors += 5


def graph_learning(name: str) -> Callable[..., Array]:
    def run(train: Array, y: Labels, test: Array, n_classes: int, seed: int) -> Array:
        import graphlearning as gl

        x = np.concatenate([train, test])
        weights = _connected_graph(x)
        labeled = np.flatnonzero(y >= 0)
        model = gl.ssl.poisson(weights, solver="gradient_descent") if name == "poisson" else gl.ssl.laplace(weights)
        scores = np.asarray(model.fit(labeled, y[labeled]))[len(train) :]
        scores = scores - scores.min(axis=1, keepdims=True)  # Poisson's are no probabilities and may be negative
        scores = np.maximum(scores, 1e-12)
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    run.__doc__ = (
        f"{name} learning of graphlearning on a 10-nearest-neighbour graph of training and test images (transductive)."
    )
    return run


# name: (method, what it reads)
BASELINES: dict[str, tuple[Callable[..., Array], str]] = {
    "LabelSpreading, pixels": (label_spreading, "pixels"),
    "LabelSpreading, PCA": (label_spreading, "components"),
    "SelfTraining, pixels": (self_training, "pixels"),
    "SelfTraining, PCA": (self_training, "components"),
    "Laplace, representation": (graph_learning("laplace"), "representation"),
    "Poisson, representation": (graph_learning("poisson"), "representation"),
}
