"""From a model and a pool to the batch to label next; the contract that every strategy keeps is enforced here, once.

A batch has distinct ids, all unlabeled, exactly n of them (fewer, with a warning, when the pool runs out); utilities are finite
and higher means sooner; the same seed gives the same batch, whatever the order of the pool; model and pool stay as they are.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import best, in_proportion
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.names import get_variant, strategy_for
from ssl_diffusion.acquisition.open_pool import measures, none_to_avoid, purest
from ssl_diffusion.acquisition.pool_map import Overview, overview
from ssl_diffusion.acquisition.registry import Choice, Strategy
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.progress import ProgressCallback

if TYPE_CHECKING:
    import pandas as pd

    from ssl_diffusion.inference.run import Run

__all__ = ["QueryBatch", "choose", "query"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryBatch:
    """Samples to label next, the most useful first.

    Attributes:
        ids: Sample ids, (n,).
        utilities: Utilities, float64 (n,); higher = label it sooner. Comparable within one query only.
        probabilities: Probability with which each sample was drawn, given those before it, float64 (n,), in (0, 1].
        predictions: Most probable class of each sample and its probability, as (name, p); empty for models without classes.
        runners_up: Second most probable class and its probability, likewise; empty with fewer than two classes.
        notes: Remarks of the strategy on each sample; empty if it has nothing to say.
        strategy: Name of the strategy; for "auto", of the one it chose.
        reason: One sentence: why this strategy.
        seed: Random seed of the draws.
        overview: Map of the pool; None if none was asked for.
    """

    ids: NDArray[np.str_]
    utilities: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    predictions: list[tuple[str, float]]
    runners_up: list[tuple[str, float]]
    notes: tuple[str, ...]
    strategy: str
    reason: str
    seed: int
    overview: Overview | None = None

    @classmethod
    def from_choice(
        cls,
        choice: Choice,
        candidates: Candidates,
        ids: NDArray[np.str_],
        classes: tuple[str, ...],
        strategy: str,
        reason: str,
        seed: int,
    ) -> "QueryBatch":
        """What was chosen, by id, and what the model predicts for it.

        Args:
            choice: Choice of a strategy.
            candidates: Candidates that it chose from.
            ids: Ids of the candidates, (N,).
            classes: Names of the columns of their probabilities.
            strategy: Name of the strategy.
            reason: One sentence: why this strategy.
            seed: Random seed of the draws.
        """
        return cls(
            ids=ids[choice.picks],
            utilities=choice.utilities[choice.picks],
            probabilities=choice.probabilities,
            predictions=_named(classes, candidates.probabilities, choice.picks, 1),
            runners_up=_named(classes, candidates.probabilities, choice.picks, 2),
            notes=choice.notes,
            strategy=strategy,
            reason=reason,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def reasons(self) -> list[str]:
        """One line per sample: what the strategy saw in it, and what the model predicts for it."""
        lines = []
        for i, utility in enumerate(self.utilities):
            line = f"{self.strategy}: {self.notes[i] if self.notes else f'utility {utility:.3g}'}"
            if self.predictions:
                line += "; predicted {} ({:.2f})".format(*self.predictions[i])
            if self.runners_up:
                line += ", then {} ({:.2f})".format(*self.runners_up[i])
            lines.append(line)
        return lines

    def to_frame(self) -> "pd.DataFrame":
        """One row per sample: id, rank (from 1), utility, selection_probability, prediction, probability, strategy, reason."""
        import pandas as pd

        names, p = zip(*self.predictions, strict=True) if self.predictions else ([""] * len(self), [np.nan] * len(self))
        return pd.DataFrame(
            {
                "id": self.ids,
                "rank": np.arange(1, len(self) + 1),
                "utility": self.utilities,
                "selection_probability": self.probabilities,
                "prediction": names,
                "probability": p,
                "strategy": self.strategy,
                "reason": self.reasons,
            }
        )


def query(
    run: "Run",
    pool: Pool,
    n: int = 100,
    strategy: str = "auto",
    *,
    labeled: Iterable[str] | None = None,
    power: float | None = None,
    dedupe: bool = False,
    random_state: int = 0,
    keep_scores: bool = True,
    map_by: str | None = None,
    progress: ProgressCallback | None = None,
) -> QueryBatch:
    """Choose the samples to label next.

    Args:
        run: Finished run.
        pool: Images of the run; the test split is never chosen.
        n: Samples to choose.
        strategy: Name in :data:`~ssl_diffusion.acquisition.STRATEGIES`, also with one of
            :data:`~ssl_diffusion.acquisition.names.VARIANTS`, as in "margin:diverse"; or "auto": coverage while there are
            few labels, by "maxherding" on a denoiser's representation and by "typiclust" beside a backbone; after that
            "uherding" and with many "margin:diverse", or "bait" beside a backbone
            (:func:`~ssl_diffusion.acquisition.names.strategy_for`).
        labeled: Ids that have a label already. None: those of the run.
        power: Exponent; samples are drawn with probability proportional to utility^power instead of taking the best. For
            scores only.
        dedupe: Whether at most one of several images that are equal to the pixel is chosen, and none that equals a labeled one.
        random_state: Random seed.
        keep_scores: Whether what the encoder computes is kept in the run folder, and read from there if it is there already
            (:mod:`ssl_diffusion.inference.embedding_store`).
        map_by: Projection, "pca" or "umap", of a map of the pool (:mod:`ssl_diffusion.acquisition.pool_map`); None draws none.
        progress: Callback for the number of images read.

    Raises:
        SSLDError: If the strategy does not exist or cannot be used with this model.
        DataError: If n is not positive, an id does not exist, images have another size, or nothing is left to label.

    Example:
        >>> batch = query(load_run("runs/R"), load_dataset("digits"), n=100)  # doctest: +SKIP
    """
    from ssl_diffusion.inference.embedded_pool import EmbeddedPool
    from ssl_diffusion.inference.embedding_store import store_of
    from ssl_diffusion.inference.run_rows import pool_rows

    if n < 1:
        raise DataError(f"a query is for one sample or more, not {n}")
    if pool.image_shape != run.image_shape:
        raise DataError(f"images have shape {pool.image_shape}, but {run.path} was made for {run.image_shape}")
    known = _labeled_positions(run, pool, labeled)
    open_ = np.setdiff1d(pool.train, known)
    if not len(open_):
        raise DataError(f"every sample of {pool.name!r} has a label: nothing is left to choose")
    open_ = open_[np.argsort(pool.ids[open_], kind="stable")]
    known = known[np.argsort(pool.ids[known], kind="stable")]
    if dedupe:
        open_ = _without_copies(pool, open_, known)
    k = len(run.classes) if not run.multilabel else 0
    classes = pool.labels[known] if not pool.multilabel else np.zeros(len(known), dtype=np.int64)
    chosen, reason = strategy_for(strategy, len(known), k, run.model)
    none = none_to_avoid(run.classes, classes) if k else None
    if not chosen.reads_labeled and none is None and map_by is None:
        known, classes = known[:0], classes[:0]
    rows = pool_rows(run, pool, np.concatenate([open_, known]), progress=progress)
    embedded = EmbeddedPool.read(
        run.model,
        rows,
        np.arange(len(rows)),
        classify=k > 0,
        represented=keep_scores or chosen.reads_representation or map_by is not None or none is not None,
        precision=run.precision,
        store=store_of(run) if keep_scores else None,
        progress=progress,
    )
    at, rng = np.arange(len(embedded.images)), np.random.default_rng(random_state)
    candidates = Candidates.of(embedded, at[: len(open_)], at[len(open_) :], classes, k, rng, model=run.model)
    candidates = replace(candidates, none=none)
    choice = choose(chosen, candidates, n, power=power)
    batch = QueryBatch.from_choice(choice, candidates, pool.ids[open_], run.classes, chosen.name, reason, random_state)
    return replace(batch, overview=overview(candidates, choice, map_by)) if map_by is not None else batch


def choose(strategy: Strategy | str, candidates: Candidates, n: int, *, power: float | None = None) -> Choice:
    """Run a strategy on candidates and check what it promised.

    Args:
        strategy: Strategy, or its name.
        candidates: Candidates, at least one.
        n: Batch size; more than there are candidates takes all, with a warning.
        power: See :func:`query`.

    Raises:
        SSLDError: If the strategy cannot be used here, or broke its contract.

    Example:
        >>> chosen = choose("margin", candidates, 10)  # doctest: +SKIP
    """
    strategy = get_variant(strategy) if isinstance(strategy, str) else strategy
    if candidates.none is not None and not measures(strategy.name):
        return _choose_of_classes(strategy, candidates, n, power)
    seen = candidates.probabilities if candidates.probabilities is not None else candidates.representation
    if not (np.isfinite(candidates.representation[: 2**12]).all() and np.isfinite(seen[: 2**12]).all()):
        raise DataError("representations are not finite: the model or an image is damaged")
    if n > len(candidates):
        _log.warning("only %d samples are left, %d were asked for", len(candidates), n)
        n = len(candidates)
    if power is not None and strategy.score is None:
        raise SSLDError(f"power draws by a score, and {strategy.name} chooses batches as a whole: leave it out")
    if strategy.score is not None:
        utilities = strategy.score(candidates)
        rng = candidates.rng
        choice = best(utilities, n, rng) if power is None else in_proportion(utilities, n, power, rng)
    else:
        assert strategy.batch is not None
        choice = strategy.batch(candidates, n)
    new = n - (len(choice.again) if candidates.asked_again is not None else 0)
    broken = (
        choice.picks.shape != (new,)
        or len(np.unique(choice.picks)) != new
        or len(np.unique(choice.again)) != n - new
        or choice.utilities.shape != (len(candidates),)
        or not np.isfinite(choice.utilities).all()
        or len(choice.notes) not in (0, new)
        or not ((choice.probabilities > 0) & (choice.probabilities <= 1 + 1e-9)).all()
    )
    if broken:
        raise SSLDError(f"the strategy {strategy.name} broke its contract: {n} distinct picks with finite utilities")
    return choice


def _choose_of_classes(strategy: Strategy, candidates: Candidates, n: int, power: float | None) -> Choice:
    """The choice of a strategy among the candidates that most probably are of a class; the others have the lowest utility."""
    if n > len(candidates):
        _log.warning("only %d samples are left, %d were asked for", len(candidates), n)
    inner, rows = purest(candidates, min(n, len(candidates)))
    choice = choose(strategy, inner, min(n, len(candidates)), power=power)
    utilities = np.full(len(candidates), float(choice.utilities.min()))
    utilities[rows] = choice.utilities
    again = np.flatnonzero(candidates.labeled_classes != candidates.none)[choice.again]
    return replace(choice, picks=rows[choice.picks], utilities=utilities, again=again)


def _named(
    classes: tuple[str, ...], probabilities: NDArray[np.float32] | None, picks: NDArray[np.int64], place: int
) -> list[tuple[str, float]]:
    """The class in that place by probability, and its probability, of each pick."""
    if probabilities is None or probabilities.shape[1] < place:
        return []
    p = probabilities[picks]
    k = np.argsort(-p, axis=1, kind="stable")[:, place - 1]
    return [(classes[j], float(row[j])) for j, row in zip(k, p, strict=True)]


def _without_copies(pool: Pool, open_: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first of all equal images, and none that equals a labeled one."""
    from ssl_diffusion.inference.embedding_store import digests

    keys = digests(pool.images[i] for i in open_)
    first = np.zeros(len(open_), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    kept = open_[first & ~np.isin(keys, digests(pool.images[i] for i in known))]
    if not len(kept):
        raise DataError(f"every unlabeled image of {pool.name!r} is a copy of a labeled one: nothing is left to choose")
    return kept


def _labeled_positions(run: "Run", pool: Pool, labeled: Iterable[str] | None) -> NDArray[np.int64]:
    from ssl_diffusion.training.run_folder import RunFolder

    if labeled is not None:
        return pool.positions(labeled)
    own = RunFolder(run.path).labeled(pool)
    return pool.positions([*own.train, *own.val]) if own is not None else np.zeros(0, dtype=np.int64)
