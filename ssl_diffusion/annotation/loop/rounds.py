"""Rounds: choosing the next samples to label, and reordering them as labels come in."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.independent import check_independent, two_sided
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.acquisition.open_pool import none_of, none_to_avoid
from ssl_diffusion.acquisition.query import QueryBatch, choose
from ssl_diffusion.annotation.loop.class_sets import predicted_names
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.model_file import lacking
from ssl_diffusion.annotation.loop.snapshot import Snapshot, take_snapshot
from ssl_diffusion.annotation.loop.status import audit_estimate
from ssl_diffusion.annotation.loop.stopping import record
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.labels import said
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.settings import LARGEST_SEED, shown
from ssl_diffusion.storage import atomic_write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Round", "choose_round", "next_round", "rerank", "round_file"]

_AUDIT_FRACTION = 0.2  # of a round, while the audit set has samples without a label
_CARRIED, _AUDIT = "carried over from the last round", "audit sample, drawn at random to measure the model"  # notes


@dataclass(frozen=True)
class Round:
    """A new round.

    Attributes:
        number: Number of the round, from 1.
        strategy: Name of the strategy.
        reason: Why this strategy was used, as a sentence.
        model: Description of the model that chose.
        batch: Samples that the strategy chose; None if the round has only audit and carried-over samples.
        audit: Ids of samples of the audit set.
        carried: Ids of samples carried over from the round before, partially labeled or in dispute.
    """

    number: int
    strategy: str
    reason: str
    model: str
    batch: QueryBatch | None
    audit: tuple[str, ...]
    carried: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.audit) + len(self.carried) + (len(self.batch) if self.batch is not None else 0)

    def to_frame(self) -> "pd.DataFrame":
        """One row per sample, see :meth:`QueryBatch.to_frame`; audit and carried-over samples have no utility."""
        import pandas as pd

        rest = pd.DataFrame(
            {
                "id": [*self.carried, *self.audit],
                "reason": [_CARRIED] * len(self.carried) + [_AUDIT] * len(self.audit),
            }
        )
        if self.batch is None:
            return rest
        table = self.batch.to_frame()
        return pd.concat([table.astype({"rank": "Int64"}), rest], ignore_index=True) if len(rest) else table


def next_round(
    job: Job,
    n: int | None = None,
    strategy: str | None = None,
    *,
    seed: int | None = None,
    progress: ProgressCallback | None = None,
) -> Round:
    """Choose samples to label and make them the queue.

    Args:
        job: Job to choose from.
        n: Samples to choose; None takes the job's setting.
        strategy: Strategy name, or "auto"; None takes the job's setting.
        seed: Random seed; None derives it from the job's seed and the round.
        progress: Callback for the images read by a new model.

    Raises:
        DataError: If nothing is left to choose, n is not positive, or the seed is negative or larger than 2^32 - 1.
        RunError: If another process is choosing.
        SSLDError: If the strategy does not exist or cannot be used yet.

    Example:
        >>> chosen = next_round(open_job(Path("job")), 20, "margin:diverse")  # doctest: +SKIP
    """
    if strategy is not None:
        strategy_for(strategy, 0, 0)  # a name that does not exist is told before a model is opened
    with job.alone("next"):
        return choose_round(take_snapshot(job, progress=progress), n, strategy, seed=seed)


def choose_round(snapshot: Snapshot, n: int | None = None, strategy: str | None = None, *, seed: int | None = None) -> Round:
    """Choose a round from a snapshot; see :func:`next_round`.

    The caller holds the lock `job.alone("next")` since before the snapshot was taken.
    """
    job, state = snapshot.job, snapshot.state
    n = job.settings.batch if n is None else n
    if n < 1:
        raise DataError(f"n is {n}: choose one sample or more")
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise DataError(f"the seed of a round must be in [0, {LARGEST_SEED}], not {shown(seed)}")
    assert snapshot.model is not None
    model, classifier, names = snapshot.model, snapshot.classifier, state.classes
    number = 1 if state.last_round is None else state.last_round["number"] + 1
    seed = job.settings.seed + number if seed is None else seed
    known, classes = state.training
    sets = job.store.multilabel
    # Pixels say little about classes: without a model "auto" covers them.
    none = None if sets else none_of(names)
    k = len(state.in_use) - (none is not None) if classifier is not None and model.knows_classes else 0
    name = job.settings.strategy if strategy is None else strategy
    n_labels = int(classes.sum()) if sets else int((classes != none).sum()) if none is not None else len(known)
    chosen, reason = strategy_for(name, n_labels, k, model.frozen.model, independent=sets)
    if sets:
        check_independent(chosen)
    ids, touched, carried = job.store.ids, queries.touched(job.store), _carried(snapshot)
    audit = _audit(job, n, touched)
    open_ = np.setdiff1d(job.store.of_role("pool"), touched, assume_unique=True)
    if not len(open_) and not len(audit) and not len(carried):
        raise DataError(f"every sample of {job.path} has been labeled or skipped: nothing is left to choose")
    if chosen.needs != "images" and classifier is None:
        raise RunError(f"{chosen.name} needs a classifier, which needs {lacking(sets)}: use auto or typiclust until then")
    batch = None
    if len(open_):
        open_ = job.store.by_id(open_)
        p = classifier.probabilities(open_) if classifier is not None else None
        rng = np.random.default_rng(seed)
        if sets:
            asked = None if p is None else two_sided(p)
            candidates = Candidates.of(model.frozen, open_, known, np.zeros_like(known), 2, rng, asked)
        else:
            avoided = none_to_avoid(names, classes, state.in_use)
            with_head = classifier.model if classifier is not None else None
            candidates = Candidates.of(model.frozen, open_, known, classes, len(names), rng, p, with_head, avoided)
        choice = choose(chosen, candidates, max(1, min(len(open_), n - len(audit))))
        named = replace(candidates, probabilities=None) if sets else candidates  # two answers are no classes with names
        batch = QueryBatch.from_choice(choice, named, ids[open_], names, chosen.name, reason, seed)
        if sets and p is not None:
            batch = replace(batch, predictions=_predicted(p[choice.picks], names))
    entries = [leases.QueueEntry(int(i), _CARRIED) for i in carried]
    drawn = _drawn(job, batch, () if sets else names) if batch is not None else []
    entries += _spread(drawn, [leases.QueueEntry(int(i), _AUDIT) for i in audit])
    leases.add_round(job.store, leases.RoundBatch(chosen.name, reason, seed, model.description, len(open_), entries))
    record(snapshot, number, audit_estimate(snapshot))
    made = Round(number, chosen.name, reason, model.description, batch, tuple(ids[audit]), tuple(ids[carried]))
    atomic_write_text(round_file(job, number), made.to_frame().to_csv(index=False))
    return made


def round_file(job: Job, number: int) -> Path:
    """CSV file with the samples of a round, see :meth:`Round.to_frame`."""
    return job.folder("batches") / f"round-{number:03d}.csv"


def rerank(snapshot: Snapshot) -> bool:
    """Reorder the queue by the classifier's margin, smallest first; samples that no strategy drew stay in front.

    Args:
        snapshot: The job at this moment.

    Returns:
        Whether the queue was reordered: not before there are labels of two classes.

    Example:
        >>> rerank(take_snapshot(job))  # doctest: +SKIP
        True
    """
    waiting, classifier = snapshot.state.waiting, snapshot.classifier
    drawn = np.isin(waiting, leases.drawn(snapshot.job.store))
    movable = waiting[drawn]
    if not len(movable) or classifier is None:
        return False
    p = classifier.probabilities(movable)
    p = np.sort(two_sided(p) if classifier.multilabel else p, axis=1)
    order = movable[np.argsort(p[:, -1] - p[:, -2], kind="stable")]
    leases.reorder(snapshot.job.store, np.concatenate([waiting[~drawn], order]))
    return True


def _carried(snapshot: Snapshot) -> NDArray[np.int64]:
    """Positions in the last round that have votes but no decision."""
    last = snapshot.state.last_round
    rows = [] if last is None else leases.batch_of(snapshot.job.store, last["number"])
    return np.array([row["position"] for row in rows if row["status"] in ("partial", "disputed")], dtype=np.int64)


def _audit(job: Job, n: int, touched: NDArray[np.int64]) -> NDArray[np.int64]:
    """Next samples of the audit set, in an order drawn once, so that those labeled are a uniform sample at any time."""
    order = np.random.default_rng([job.settings.seed, 2]).permutation(job.store.of_role("audit"))
    left = order[~np.isin(order, touched)]
    return left[: math.ceil(_AUDIT_FRACTION * n)]


def _drawn(job: Job, batch: QueryBatch, names: tuple[str, ...]) -> list[leases.QueueEntry]:
    """Entries of the queue for the samples that a strategy chose; without names there is no predicted class to note."""
    predicted: list[int | None] = [names.index(name) for name, _ in batch.predictions if names]
    positions = job.store.positions(batch.ids.tolist()).tolist()
    return [
        leases.QueueEntry(position, why, i + 1, float(batch.utilities[i]), float(batch.probabilities[i]), label)
        for i, (position, why, label) in enumerate(zip(positions, batch.reasons, predicted or [None] * len(batch), strict=True))
    ]


def _predicted(p: NDArray[np.float32], names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Predicted sets in words, and the probability of the answer about the class that the model is least sure of."""
    words = [said(found) for found in predicted_names(p, names)]
    return list(zip(words, two_sided(p)[:, 0].tolist(), strict=True))


def _spread(among: list[leases.QueueEntry], others: list[leases.QueueEntry]) -> list[leases.QueueEntry]:
    """Mix both evenly, each in its order, so that annotators who stop early have seen some of each."""
    step = (len(among) + 1) / (len(others) + 1)
    at = [(float(i), item) for i, item in enumerate(among)] + [((i + 1) * step - 0.5, item) for i, item in enumerate(others)]
    return [item for _, item in sorted(at, key=lambda pair: pair[0])]
