"""What to label next of a pool that is not in memory: a funnel over its stored features.

Every portion of the pool keeps its best candidates by a score that is cheap, and the best of all portions are an ordinary
candidate set, from which a strategy chooses as it does from a pool. What the cheap score is depends on the strategy:

* margin, entropy and least-confidence have it themselves, so that the best of the pool are chosen, exactly;
* badge keeps the largest gradients, whose squares are the probabilities of its first draws;
* strategies that look at images keep the smallest margins, as they do themselves, and read the images of these only;
* strategies that cover the pool get a uniform sample of it: what is covered is the pool, not its unsure part.

The sample is drawn by hashes of the ids, so that it is the same however the pool is cut into shards.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import finite
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.acquisition.query import QueryBatch, choose
from ssl_diffusion.acquisition.registry import get_strategy
from ssl_diffusion.acquisition.stored_features import FetchedImages, Portion, StoredFeatures
from ssl_diffusion.acquisition.strategies.gradient import gradient_norms
from ssl_diffusion.acquisition.strategies.uncertainty import entropy, least_confidence, margin
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.ids import hash_ids
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import gradient_fault
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.training.run_folder import RunFolder
from ssl_diffusion.training.shard_record import held_out_ids

__all__ = ["CANDIDATES", "batch_pool", "query_features"]

CANDIDATES = 50_000
"""Candidates that the funnel leaves, unless something else is asked for."""

_LOOKED_AT = 10_000  # of strategies that read the image of every candidate
_SHORTLIST = 5  # times the batch, as variants and strategies take
_READ_ALL = ("bald", "latent-mix")
_COVERING = ("uherding", "bait", "bait-exact", "dropquery")

Score = Callable[[Candidates], NDArray[np.floating[Any]]]


class _Way(NamedTuple):
    """How the funnel chooses candidates."""

    words: str
    score: Score | None  # None draws uniformly
    representation: bool = False  # whether the score needs it


class _Kept(NamedTuple):
    """Candidates that are left, and where their features are."""

    part: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float64]


def query_features(
    run: Run,
    folder: Path,
    n: int = 100,
    strategy: str = "auto",
    *,
    labeled: Iterable[str] | None = None,
    power: float | None = None,
    candidates: int = CANDIDATES,
    random_state: int = 0,
    progress: ProgressCallback | None = None,
) -> QueryBatch:
    """Choose the samples to label next among those whose features are stored; see the module for how.

    Args:
        run: Finished run.
        folder: Folder that `ssld embed` wrote of shards, with the model of this run. Samples whose split is "test" are never
            chosen.
        n: Samples to choose.
        strategy: Name of a strategy, or "auto", as :func:`ssl_diffusion.acquisition.query` takes them.
        labeled: Ids that have a label already, besides those of the run.
        power: Exponent, as :func:`ssl_diffusion.acquisition.query` takes it; the draw is among the candidates.
        candidates: Candidates that the funnel leaves, at least; five batches are left in any case.
        random_state: Random seed.
        progress: Callback for the number of features read.

    Raises:
        SSLDError: If the strategy does not exist or cannot be used with this model.
        RunError: If the features are not complete, or those of another model.
        DataError: If n is not positive, or nothing is left to label.

    Example:
        >>> batch = query_features(load_run("runs/R"), Path("features"), n=500, strategy="margin")  # doctest: +SKIP
    """
    if n < 1:
        raise DataError(f"a query is for one sample or more, not {n}")
    features = StoredFeatures(folder, run)
    classes = _labels_of(run)
    known = features.find(classes)
    k = len(run.classes) if features.classified else 0
    chosen, reason = strategy_for(strategy, len(known), k, run.model)
    if chosen.needs == "labels" and not k:
        raise SSLDError(
            f"the strategy {chosen.name} needs a classifier of single labels, and {run.path} has none: use typiclust"
        )
    most = max(candidates if chosen.name.partition(":")[0] not in _READ_ALL else min(candidates, _LOOKED_AT), _SHORTLIST * n)
    way = _way(chosen.name)
    without = {*classes, *(labeled or ()), *_labels_of_shards(run), *held_out_ids(run.path)}
    kept, seen = _narrow(features, sorted(without), way, most, random_state, progress)
    # Scores that are their own cheap score read nothing but probabilities.
    ids, z, p = features.rows(kept.part, kept.row, representation=chosen.score is None or way.score is not chosen.score)
    order = np.argsort(ids, kind="stable")
    ids, z, p = ids[order], z[order], None if p is None else p[order]
    own = sorted(known)
    at = np.array([known[sample] for sample in own], dtype=np.int64).reshape(-1, 2)
    _, labeled_z, labeled_p = features.rows(at[:, 0], at[:, 1])
    if not own:
        labeled_z = np.zeros((0, z.shape[1]), np.float32)
    found = Candidates(
        representation=z,
        probabilities=p if k else None,
        labeled_representation=labeled_z,
        labeled_classes=_numbers(run, [classes[sample] for sample in own], labeled_p),
        n_classes=k,
        rng=np.random.default_rng(random_state),
        images=FetchedImages(features, ids),
        labeled_images=None,
        model=None if gradient_fault(run.model) else run.model,
        precision=run.precision,
    )
    choice = choose(chosen, found, n, power=power)
    if len(ids) < seen:
        reason += f"; among {len(ids):,} of {seen:,} samples, {way.words}"
    return QueryBatch.from_choice(choice, found, ids, run.classes, chosen.name, reason, random_state)


def batch_pool(run: Run, folder: Path, ids: NDArray[np.str_]) -> Pool:
    """The images of some samples as a pool, read from the shards that features were made of.

    Args:
        run: Run whose model made the features.
        folder: Folder of the features.
        ids: Sample ids, (n,).

    Raises:
        DataError: If the shards cannot be read.
    """
    images = StoredFeatures(folder, run).source().take(ids)
    unknown = np.full(len(ids), -1)
    return Pool(folder.name, images, ids, unknown, (), np.zeros(len(ids), dtype=np.bool_))


def _way(name: str) -> _Way:
    """How candidates are chosen for a strategy, which may be a variant."""
    base = name.partition(":")[0]
    own: dict[str, Score] = {"margin": margin, "entropy": entropy, "least-confidence": least_confidence}
    if base in own:
        return _Way(f"the largest {base}" if base != "margin" else "the smallest margins", own[base])
    if base == "badge":
        return _Way("the largest gradients", gradient_norms, True)
    if get_strategy(base).needs == "images" or base in _COVERING:
        return _Way("drawn uniformly", None)
    return _Way("the smallest margins", margin)


def _narrow(
    features: StoredFeatures,
    without: Sequence[str],
    way: _Way,
    most: int,
    seed: int,
    progress: ProgressCallback | None,
) -> tuple[_Kept, int]:
    """The best candidates by the cheap score, and the number of all candidates."""
    salt = np.uint64(np.random.default_rng(seed).integers(2**63))
    kept: list[_Kept] = []
    seen = 0
    for portion in features.portions(without, probabilities=way.score is not None, representation=way.representation):
        if not len(portion.rows):
            continue
        seen += len(portion.rows)
        u = _scores(portion, way, salt)
        best = np.argsort(-u, kind="stable")[:most]
        kept.append(_Kept(np.full(len(best), portion.part), portion.rows[best], u[best]))
        if sum(len(each.row) for each in kept) > 2 * most:
            kept = [_best(kept, most)]
        if progress is not None:
            progress(ProgressUpdate("reading features", seen, len(features)))
    if not seen:
        raise DataError(f"every sample of {features.folder} has a label: nothing is left to choose")
    return _best(kept, most), seen


def _best(kept: Sequence[_Kept], most: int) -> _Kept:
    """The best of what several portions kept."""
    part, row, score = (np.concatenate(values) for values in zip(*kept, strict=True))
    at = np.argsort(-score, kind="stable")[:most]
    return _Kept(part[at], row[at], score[at])


def _scores(portion: Portion, way: _Way, salt: np.uint64) -> NDArray[np.float64]:
    if way.score is None:
        ids = np.array(portion.ids.to_pylist(), dtype=np.str_)
        mixed = (hash_ids(ids) ^ salt) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed ^ (mixed >> np.uint64(32))).astype(np.float64)
    z = portion.representation if portion.representation is not None else np.zeros((len(portion.rows), 0), np.float32)
    assert portion.probabilities is not None
    empty = np.zeros((0, z.shape[1]), np.float32)
    few = Candidates(z, portion.probabilities, empty, np.zeros(0, np.int64), portion.probabilities.shape[1])
    return finite(way.score(few))


def _labels_of(run: Run) -> dict[str, str]:
    """Labels that the run was fitted or validated with, by sample id."""
    path = RunFolder(run.path).path / "labeled.csv"
    if not path.exists():
        return {}
    table = read_table(path)
    return dict(zip(table.column("id"), table.column("label"), strict=True))


def _labels_of_shards(run: Run) -> list[str]:
    """Samples that the file of labels of the run's shards names, its test split and what is held out among them."""
    path = RunFolder(run.path).recipe().data.labels
    return read_table(Path(path)).column("id") if path else []


def _numbers(run: Run, labels: Sequence[str], p: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Numbers of classes; for names that are none, the most probable class."""
    index = {name: k for k, name in enumerate(run.classes)}
    predicted = np.zeros(len(labels), np.int64) if p is None else p.argmax(axis=1)
    return np.array([index.get(name, int(predicted[i])) for i, name in enumerate(labels)], dtype=np.int64)
