"""A round: what to label next, and the same again in another order when labels came in."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.acquisition.query import QueryBatch, choose
from ssl_diffusion.annotation.loop.current_model import (
    Classifier,
    Model,
    classifier_of,
    model_and_classifier,
    present_model,
    training_labels,
)
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.status import audit_estimate
from ssl_diffusion.annotation.loop.stopping import record
from ssl_diffusion.annotation.store import queries, queue
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import atomic_write_text

__all__ = ["Round", "next_round", "rerank", "round_file"]

_AUDIT_SHARE = 0.2  # of a round, while the audit has samples without a label


@dataclass(frozen=True)
class Round:
    """A round that was just made.

    Attributes:
        number: from 1.
        strategy: that chose.
        reason: why that one, in a sentence.
        model: what was asked, in words.
        batch: the samples that it chose; None if only the audit or what was left over is asked for.
        audit: ids of the audit's samples that are asked for with them.
        carried: ids of samples that the round before left half-labeled or in dispute.
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

    def to_frame(self) -> pd.DataFrame:
        """One row a sample, see :meth:`QueryBatch.to_frame`; those of the audit and the carried ones have no utility."""
        rest = pd.DataFrame(
            {
                "id": [*self.carried, *self.audit],
                "reason": ["left over from the last round"] * len(self.carried) + ["to measure the model"] * len(self.audit),
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
    quick: bool = False,
    seen: tuple[Model, Classifier | None] | None = None,
    progress: ProgressCallback | None = None,
) -> Round:
    """Choose samples to label and make them the queue.

    Args:
        job: the job.
        n: samples; None is the job's.
        strategy: name, or "auto"; None is the job's.
        seed: of all chance; None is that of the job and of the round.
        quick: somebody waits for it: where "auto" would search counterfactuals, for minutes, take its cheap equal.
        seen: the present model and its classifier of the present labels, where they are at hand; None opens them.
        progress: called while the pool is read by a new model.

    Raises:
        DataError: if nothing is left to choose, or n is not positive.
        RunError: if another process is choosing.
        SSLDError: if the strategy does not exist or cannot be used yet.
    """
    n = job.settings.batch if n is None else n
    if n < 1:
        raise DataError(f"a round is for one sample or more, not {n}")
    with job.alone("next"):
        last = queue.last_round(job.store)
        number = 1 if last is None else last["number"] + 1
        seed = job.settings.seed + number if seed is None else seed
        ids, carried = job.store.ids, _carried(job)
        audit = _audit(job, n)
        open_ = np.setdiff1d(job.store.of_role("pool"), queries.touched(job.store), assume_unique=True)
        if not len(open_) and not len(audit) and not len(carried):
            raise DataError(f"every sample of {job.path} has been labeled or skipped: nothing is left to choose")
        known, classes = training_labels(job)
        names = job.store.classes
        model, classifier = seen or model_and_classifier(job, progress)
        # Pixels say little of classes: until there is a model "auto" covers them.
        k = len(names) if classifier is not None and model.run is not None else 0
        name = strategy or job.settings.strategy
        chosen, reason = strategy_for(name, len(known), k, n)
        if quick and name == "auto" and chosen.name.startswith("counterfactual"):
            chosen, _ = strategy_for("margin:diverse", len(known), k)
            reason = "margin:diverse: worth as much as searching counterfactuals, and nobody waits"
        if chosen.needs != "images" and classifier is None:
            raise RunError(
                f"{chosen.name} asks a classifier, and there are not yet labels of two classes: use auto or typiclust"
            )
        with_head = classifier.model if classifier is not None else None
        batch = None
        if len(open_):
            open_ = job.store.by_id(open_)
            p = classifier.probabilities(open_) if classifier is not None else None
            rng = np.random.default_rng(seed)
            candidates = Candidates.of(model.frozen, open_, known, classes, len(names), rng, p, with_head)
            choice = choose(chosen, candidates, max(1, min(len(open_), n - len(audit))))
            batch = QueryBatch.from_choice(choice, candidates, ids[open_], names, chosen.name, reason, seed)
        asked = [queue.QueueEntry(int(i), "left over from the last round") for i in carried]
        by_chance = [queue.QueueEntry(int(i), "chosen by chance, to measure the model") for i in audit]
        asked += _spread(_drawn(job, batch) if batch is not None else [], by_chance)
        queue.add_round(job.store, queue.RoundBatch(chosen.name, reason, seed, model.words, len(open_), asked))
        record(job, number, model.words, len(known), classifier, audit_estimate(job, classifier))
        made = Round(number, chosen.name, reason, model.words, batch, tuple(ids[audit]), tuple(ids[carried]))
        atomic_write_text(round_file(job, number), made.to_frame().to_csv(index=False))
    return made


def round_file(job: Job, number: int) -> Path:
    """CSV file with the samples of a round, see :meth:`Round.to_frame`."""
    return job.folder("batches") / f"round-{number:03d}.csv"


def rerank(job: Job, classifier: Classifier | None = None) -> bool:
    """Put the queue into the order of the probe's margin, smallest first; what is not drawn by it keeps its place in front.

    Args:
        job: the job.
        classifier: of the present model, where it is at hand; None makes it.

    Returns:
        Whether there was something to ask: not before there are labels of two classes.
    """
    waiting = queue.pending(job.store)
    drawn = np.isin(waiting, queue.drawn(job.store))
    movable = waiting[drawn]
    if not len(movable):
        return False
    classifier = classifier or classifier_of(job, present_model(job), fast=True)
    if classifier is None:
        return False
    p = np.sort(classifier.probabilities(movable), axis=1)
    order = movable[np.argsort(p[:, -1] - p[:, -2], kind="stable")]
    queue.reorder(job.store, np.concatenate([waiting[~drawn], order]))
    return True


def _rows(job: Job) -> list[dict[str, object]]:
    last = queue.last_round(job.store)
    return [] if last is None else queue.batch_of(job.store, last["number"])


def _carried(job: Job) -> NDArray[np.int64]:
    """Samples of the queue that somebody has begun, positions."""
    begun = [row["position"] for row in _rows(job) if row["status"] in ("partial", "disputed")]
    return np.array(begun, dtype=np.int64)


def _audit(job: Job, n: int) -> NDArray[np.int64]:
    """The next samples of the audit, in an order that was drawn once: what is labeled of it is a uniform sample at any time."""
    all_ = job.store.of_role("audit")
    order = np.random.default_rng([job.settings.seed, 2]).permutation(all_)
    left = order[~np.isin(order, queries.touched(job.store))]
    return left[: math.ceil(_AUDIT_SHARE * n)]


def _drawn(job: Job, batch: QueryBatch) -> list[queue.QueueEntry]:
    """What a strategy chose, as the queue has it."""
    names = job.store.classes
    predicted: list[int | None] = [names.index(name) for name, _ in batch.predictions]
    values = zip(job.store.positions(batch.ids.tolist()).tolist(), batch.reasons, predicted or [None] * len(batch), strict=True)
    return [
        queue.QueueEntry(position, why, i + 1, float(batch.utilities[i]), float(batch.probabilities[i]), guess)
        for i, (position, why, guess) in enumerate(values)
    ]


def _spread(among: list[queue.QueueEntry], others: list[queue.QueueEntry]) -> list[queue.QueueEntry]:
    """Both in their order, evenly mixed: those who stop early have seen some of each."""
    step = (len(among) + 1) / (len(others) + 1)
    at = [(float(i), item) for i, item in enumerate(among)] + [((i + 1) * step - 0.5, item) for i, item in enumerate(others)]
    return [item for _, item in sorted(at, key=lambda pair: pair[0])]
