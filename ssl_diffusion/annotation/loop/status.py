"""How a job stands: labels, models, how accurate they are, how fast it goes, and whether to go on."""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from sqlalchemy import select

from ssl_diffusion.annotation.loop.accuracy import Estimate, audit_interval, lure
from ssl_diffusion.annotation.loop.current_model import Classifier, Model, model_and_classifier, training_labels
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.stopping import advice
from ssl_diffusion.annotation.store import queries, queue
from ssl_diffusion.annotation.store import schema as t
from ssl_diffusion.progress import ProgressCallback

__all__ = ["JobStatus", "audit_estimate", "drawn_estimate", "fitted_labels", "job_status", "labels_per_hour"]

_HOUR = 3600.0
_PAUSE = 300.0  # seconds without a label that are not counted as work
_LATEST = 5000
_FEWEST = 10  # labels for an estimate
_SAID = ("labeled", "corrected", "skipped")


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes:
        counts: samples by status, see :func:`ssl_diffusion.annotation.store.queries.counts`.
        labels: settled labels by class.
        rounds: rounds so far.
        waiting: samples of the last round that need votes.
        model: the present model, in words.
        new_labels: labels that it was not fitted to.
        fitting: which process is fitting another one; None if none is.
        audit: accuracy of the present classifier on the labels of the audit; None without any.
        drawn: accuracy of the model that chose the last round on the pool it was drawn from, by what was drawn in proportion to
            utility (LURE); None if the strategy does not draw so, or fewer than two draws are labeled.
        labels_per_hour: of the time that annotators worked; None before there are two labels.
        next_step: what to do next, a sentence.
        advice: sentences on whether more labels seem worth it.
    """

    counts: dict[str, int]
    labels: dict[str, int]
    rounds: int
    waiting: int
    model: str
    new_labels: int
    fitting: str | None
    audit: Estimate | None
    drawn: Estimate | None
    labels_per_hour: float | None
    next_step: str
    advice: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def job_status(
    job: Job, progress: ProgressCallback | None = None, seen: tuple[Model | None, Classifier | None] | None = None
) -> JobStatus:
    """Look at a job.

    Args:
        job: the job.
        progress: called while the pool is read by a new model.
        seen: the present model, if it has been opened, and what classifies; None opens them.
    """
    store = job.store
    known, _ = training_labels(job)
    model, classifier = seen or model_and_classifier(job, progress)
    last = queue.last_round(store)
    by_class = Counter(queries.labels(store)[1].tolist())
    waiting = len(queue.pending(store))
    return JobStatus(
        counts=queries.counts(store),
        labels={name: by_class.get(k, 0) for k, name in enumerate(store.classes)},
        rounds=last["number"] if last is not None else 0,
        waiting=waiting,
        model=model.words if model is not None else "being opened",
        new_labels=len(known) - fitted_labels(job, model.name) if model is not None else 0,
        fitting=job.busy_with("fit"),
        audit=audit_estimate(job, classifier),
        drawn=drawn_estimate(job),
        labels_per_hour=labels_per_hour(job),
        next_step=_next_step(job, waiting),
        advice=advice(job, len(known)),
    )


def _next_step(job: Job, waiting: int) -> str:
    if waiting:
        return f"{waiting} samples are waiting: ssld loop serve {job.path}"
    return f"nothing is waiting: ssld loop next {job.path} chooses what to label"


def fitted_labels(job: Job, name: str) -> int:
    """How many labels a model was fitted to."""
    path = job.path / "models" / f"{name}.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["n"]) if path.exists() else 0


def audit_estimate(job: Job, classifier: Classifier | None) -> Estimate | None:
    """Accuracy of a classifier on the samples of the audit that have a label; None without any."""
    positions, classes = queries.labels(job.store, "audit")
    if classifier is None or not len(positions):
        return None
    right = classifier.probabilities(positions).argmax(axis=1) == classes
    return audit_interval(int(right.sum()), len(right))


def drawn_estimate(job: Job) -> Estimate | None:
    """Accuracy of the model that drew the last round, by LURE; None if it did not draw by chance, or it is too early to say.

    Samples are taken in the order of their draws, up to the first that has no label yet; what was skipped is left out, as if it
    were not in the pool.
    """
    last = queue.last_round(job.store)
    if last is None or not (last["strategy"] == "random" or last["strategy"].endswith(":sampled")):
        return None
    drawn = sorted((row for row in queue.batch_of(job.store, last["number"]) if row["draw"]), key=lambda row: row["draw"])
    done = list(takewhile(lambda row: row["status"] in ("labeled", "skipped"), drawn))
    labeled = [row for row in done if row["status"] == "labeled" and row["predicted"] is not None]
    if len(labeled) < _FEWEST:
        return None
    right = np.array([row["label"] == row["predicted"] for row in labeled])
    if last["strategy"] == "random":
        return audit_interval(int(right.sum()), len(right))
    return lure(right, np.array([row["probability"] for row in labeled]), last["n_open"])


def labels_per_hour(job: Job, now: float | None = None) -> float | None:
    """Labels and skips by hand in the last hour of work; pauses over five minutes are no work. None with fewer than two.

    Args:
        job: the job.
        now: seconds since 1970; only what was before counts. None is now.
    """
    query = (
        select(t.events.c.at).where(t.events.c.kind.in_(_SAID), t.events.c.source != "import").order_by(t.events.c.at.desc())
    )
    with job.store.reading() as connection:
        times = np.fromiter(connection.execute(query.limit(_LATEST)).scalars(), dtype=np.float64)
    times = np.sort(times[times <= (time.time() if now is None else now)])
    gaps = np.diff(times)
    work = gaps[gaps <= _PAUSE][::-1]
    work = work[np.cumsum(work) <= _HOUR]
    if not len(work) or work.sum() <= 0:
        return None
    return float(_HOUR * len(work) / work.sum())
