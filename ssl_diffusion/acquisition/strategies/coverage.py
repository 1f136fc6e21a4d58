"""Coverage: samples that stand for many others in the representation. No labels are needed, so this is for the cold start.

Time and memory grow linearly with the pool: typicality is measured against at most 2,000 samples of a cluster, and the cover is
one of at most 10,000 candidates, drawn at random where there are more.
"""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import some_rows, squared_distances
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, register_batch
from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["coreset", "probcover", "pure_radius", "typiclust"]

_MOST_CLUSTERS, _SMALL_CLUSTER, _NEIGHBORS = 500, 5, 20
_PURE, _PROBED = 0.95, 2000
_REFERENCES, _COVERED = 2000, 10_000


@register_batch(
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
    x = c.x
    if len(c.labeled_representation):
        distance = _nearest_squared(x, c.labeled_representation)
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
    notes = tuple(f"{utilities[i]:.3g} from the nearest label" for i in picks) if len(c.labeled_representation) else ()
    return Choice(np.array(picks), utilities, np.ones(n), notes)


@register_batch(
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
    from sklearn.cluster import MiniBatchKMeans

    x, m = c.x, len(c.labeled_representation)
    k = min(m + n, _MOST_CLUSTERS, len(c))
    seed = int(c.rng.integers(2**31))
    together = x
    if m:
        together = allocate((len(x) + m, x.shape[1]), np.float32, IN_MEMORY)
        together[: len(x)], together[len(x) :] = x, c.labeled_representation
    cluster = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096).fit_predict(together)
    cluster, known = cluster[: len(c)], np.bincount(cluster[len(c) :], minlength=k)
    size = np.bincount(cluster, minlength=k)
    typicality = np.zeros(len(c))
    members = {j: np.flatnonzero(cluster == j) for j in range(k)}
    for inside in members.values():
        typicality[inside] = _typicality(x[inside], c.rng)
    queue = {j: list(inside[np.argsort(-typicality[inside], kind="stable")]) for j, inside in members.items()}
    picks: list[int] = []
    notes = []
    while len(picks) < n:
        left = [j for j in queue if queue[j]]
        # The smallest clusters are outliers: they come after all others.
        j = min(left, key=lambda j: (size[j] < _SMALL_CLUSTER, known[j], -size[j], j))
        picks.append(int(queue[j].pop(0)))
        labels = "no label" if not known[j] else "1 label" if known[j] == 1 else f"{known[j]} labels"
        notes.append(f"typical of cluster {j} ({size[j]:,} samples, {labels})")
        known[j] += 1
    return Choice(np.array(picks), typicality, np.ones(n), tuple(notes))


@register_batch(
    "probcover",
    needs="images",
    cost="distances between all representations, of at most 10,000 candidates",
    when="no or few labels; covers what typiclust leaves out, if the representation has clean clusters",
    reference="Yehuda et al. 2022, arXiv 2205.11320, algorithm 1",
)
def probcover(c: Candidates, n: int) -> Choice:
    """Greedy cover: always the candidate within whose radius most samples are not covered yet; utility is how many these were
    at the start. Of more than 10,000 candidates, a random 10,000 stand for all; the others have utility 0.

    The radius is the largest at which 95 % of the balls around samples hold one k-means cluster only.
    """
    from sklearn.metrics import pairwise_distances_chunked

    rows = some_rows(len(c), _COVERED, n, c.rng)
    x = c.representation[rows]
    k = max(c.n_classes, n, 2)
    radius = pure_radius(x, min(k, len(x)), int(c.rng.integers(2**31)))
    covered = np.zeros(len(x), dtype=bool)
    if len(c.labeled_representation):
        covered = _nearest_squared(x, c.labeled_representation) <= radius**2
    reach = np.concatenate(list(pairwise_distances_chunked(x, reduce_func=lambda block, _: block <= radius)))
    np.fill_diagonal(reach, val=True)
    gain = reach[:, ~covered].sum(axis=1, dtype=np.float64)
    utilities = np.zeros(len(c))
    utilities[rows] = gain
    picks: list[int] = []
    notes = []
    while len(picks) < n:
        pick = int(gain.argmax())
        newly = reach[pick] & ~covered
        notes.append(f"covers {newly.sum():,} samples that nothing covered")
        covered |= newly
        gain -= reach[:, newly].sum(axis=1)
        gain[pick] = -np.inf
        picks.append(int(rows[pick]))
    return Choice(np.array(picks), utilities, np.ones(n), tuple(notes))


def pure_radius(x: NDArray[np.float32], k: int, seed: int) -> float:
    """Largest radius at which 95 % of the balls around samples, of at most 2,000 of them, hold one cluster of k-means."""
    from sklearn.cluster import MiniBatchKMeans

    sample = x[:: -(-len(x) // _PROBED)]
    k = min(k, len(sample))
    cluster = MiniBatchKMeans(k, random_state=seed, n_init=3, batch_size=4096).fit_predict(sample)
    distance = np.sqrt(np.stack([squared_distances(sample, z) for z in sample]))
    other = np.where(cluster[:, None] != cluster[None], distance, np.inf).min(axis=1)  # a ball is pure up to here
    if not np.isfinite(other).any():
        return max(float(np.median(distance)), 1e-6)
    return max(float(np.quantile(other[np.isfinite(other)], 1 - _PURE)), 1e-6)


def _typicality(x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """1 / mean distance to the nearest neighbours, (k,); copies, at distance 0, do not make a sample infinitely typical."""
    from sklearn.neighbors import NearestNeighbors

    if len(x) < 2:
        return np.zeros(len(x))
    some = x if len(x) <= _REFERENCES else x[rng.choice(len(x), _REFERENCES, replace=False)]
    near, _ = NearestNeighbors(n_neighbors=min(_NEIGHBORS + 1, len(some))).fit(some).kneighbors(x)
    # Who is a reference finds itself first; leaving out the first of all treats everyone alike.
    typicality: NDArray[np.float64] = 1 / (1 + near[:, 1:].mean(axis=1).astype(np.float64))
    return typicality


def _nearest_squared(x: NDArray[np.float32], to: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared distance of each row to the nearest of some points, (k,)."""
    from sklearn.metrics import pairwise_distances_argmin_min

    nearest, _ = pairwise_distances_argmin_min(x, to)
    distances = np.empty(len(x))
    for i in range(0, len(x), _PROBED):
        rows = slice(i, i + _PROBED)
        difference = x[rows] - to[nearest[rows]]
        distances[rows] = np.einsum("ij,ij->i", difference, difference)
    return distances
