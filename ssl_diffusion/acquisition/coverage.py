"""Coverage: samples that stand for many others in the representation. No labels are needed, so this is for the cold start."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, batch
from ssl_diffusion.acquisition.selection import squared_distances

__all__ = ["coreset", "probcover", "typiclust"]

_MOST_CLUSTERS, _SMALL_CLUSTER, _NEIGHBORS = 500, 5, 20
_PURE, _PROBED = 0.95, 2000


@batch(
    "coreset",
    needs="images",
    cost="n passes over the representations",
    when="a pool without outliers, large batches",
    reference="Sener and Savarese 2018, arXiv 1708.00489, algorithm 1 (k-center greedy)",
)
def coreset(c: Candidates, n: int) -> Choice:
    """Always the candidate farthest from everything labeled or chosen; utility is the distance to the labeled ones.

    Without any label the first is the candidate nearest to the mean.
    """
    x = c.representation
    if len(c.labeled_representation):
        distance = np.full(len(c), np.inf)
        for z in c.labeled_representation:
            distance = np.minimum(distance, squared_distances(x, z))
        utilities, picks = np.sqrt(distance), []
    else:
        from_mean = squared_distances(x, x.mean(axis=0))
        picks = [int(from_mean.argmin())]
        utilities, distance = np.sqrt(from_mean), squared_distances(x, x[picks[0]])
        distance[picks[0]] = -1.0
    while len(picks) < n:
        picks.append(int(distance.argmax()))
        distance = np.minimum(distance, squared_distances(x, x[picks[-1]]))
        distance[picks] = -1.0
    return Choice(np.array(picks[:n]), utilities, np.ones(n))


@batch(
    "typiclust",
    needs="images",
    cost="k-means and nearest neighbours on the representations",
    when="no or few labels: fewer than about two a class",
    reference="Hacohen et al. 2022, arXiv 2202.02794, algorithm 1",
)
def typiclust(c: Candidates, n: int) -> Choice:
    """The most typical candidate of each of the largest clusters that have no label yet.

    Clusters are as many as labels after this batch, at most 500; where all have labels, those with the fewest come first.
    Typicality, the utility, is 1 / mean distance to the 20 nearest of the cluster.
    """
    x, m = c.representation, len(c.labeled_representation)
    k = min(m + n, _MOST_CLUSTERS, len(c))
    seed = int(c.rng.integers(2**31))
    kmeans = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096)
    cluster = kmeans.fit_predict(np.concatenate([x, c.labeled_representation]) if m else x)
    cluster, known = cluster[: len(c)], np.bincount(cluster[len(c) :], minlength=k)
    size = np.bincount(cluster, minlength=k)
    typicality = np.zeros(len(c))
    members = {j: np.flatnonzero(cluster == j) for j in range(k)}
    for inside in members.values():
        typicality[inside] = _typicality(x[inside])
    queue = {j: list(inside[np.argsort(-typicality[inside], kind="stable")]) for j, inside in members.items()}
    picks: list[int] = []
    while len(picks) < n:
        left = [j for j in queue if queue[j]]
        # The smallest clusters are outliers: they come after all others.
        j = min(left, key=lambda j: (size[j] < _SMALL_CLUSTER, known[j], -size[j], j))
        picks.append(int(queue[j].pop(0)))
        known[j] += 1
    return Choice(np.array(picks), typicality, np.ones(n))


@batch(
    "probcover",
    needs="images",
    cost="neighbours within a radius, of all representations",
    when="no or few labels; covers what typiclust leaves out, if the representation has clean clusters",
    reference="Yehuda et al. 2022, arXiv 2205.11320, algorithm 1",
)
def probcover(c: Candidates, n: int) -> Choice:
    """Greedy cover: always the candidate within whose radius most samples are not covered yet; utility is how many these were
    at the start.

    The radius is the largest at which 95 % of the balls around samples hold one k-means cluster only.
    """
    x, m = c.representation, len(c.labeled_representation)
    k = max(c.n_classes, n, 2)
    radius = _pure_radius(x, min(k, len(c)), int(c.rng.integers(2**31)))
    neighbors = NearestNeighbors(radius=radius).fit(x)
    covered = np.zeros(len(c), dtype=bool)
    if m:
        for inside in neighbors.radius_neighbors(c.labeled_representation, return_distance=False):
            covered[inside] = True
    reach = neighbors.radius_neighbors_graph(x, mode="connectivity").tocsr()
    gain = np.asarray(reach @ (~covered).astype(np.float64)).ravel()
    utilities, open_ = gain.copy(), np.ones(len(c), dtype=bool)
    picks: list[int] = []
    while len(picks) < n:
        pick = int(np.where(open_, gain, -1.0).argmax())
        picks.append(pick)
        open_[pick] = False
        inside = reach.indices[reach.indptr[pick] : reach.indptr[pick + 1]]
        newly = inside[~covered[inside]]
        covered[newly] = True
        for i in newly:  # the graph is symmetric: its rows are its columns
            gain[reach.indices[reach.indptr[i] : reach.indptr[i + 1]]] -= 1
    return Choice(np.array(picks), utilities, np.ones(n))


def _pure_radius(x: NDArray[np.float32], k: int, seed: int) -> float:
    """Largest radius at which 95 % of the balls around samples, of at most 2,000 of them, hold one cluster of k-means."""
    sample = x[:: -(-len(x) // _PROBED)]
    k = min(k, len(sample))
    cluster = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096).fit_predict(sample)
    distance = np.sqrt(np.stack([squared_distances(sample, z) for z in sample]))
    other = np.where(cluster[:, None] != cluster[None], distance, np.inf).min(axis=1)  # a ball is pure up to here
    if not np.isfinite(other).any():
        return max(float(np.median(distance)), 1e-6)
    return max(float(np.quantile(other[np.isfinite(other)], 1 - _PURE)), 1e-6)


def _typicality(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 / mean distance to the nearest neighbours, (k,); copies, at distance 0, do not make a sample infinitely typical."""
    if len(x) < 2:
        return np.zeros(len(x))
    near = NearestNeighbors(n_neighbors=min(_NEIGHBORS, len(x) - 1)).fit(x).kneighbors()[0].mean(axis=1)
    typicality: NDArray[np.float64] = 1 / (1 + near.astype(np.float64))
    return typicality
