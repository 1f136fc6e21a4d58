"""Status of a job: labels, model, accuracy, speed, and advice on what to do next."""

import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
from sqlalchemy import select

from ssl_diffusion.annotation.loop.accuracy import Estimate, audit_figure, audit_interval, lure, majority_accuracy
from ssl_diffusion.annotation.loop.class_sets import AuditByClass, by_class, macro_f1
from ssl_diffusion.annotation.loop.class_targets import progress_line, targets_of
from ssl_diffusion.annotation.loop.fit_state import FitState
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.model_file import FittedTo, described, lacking, teaches
from ssl_diffusion.annotation.loop.snapshot import Moment, Snapshot, take_moment, take_snapshot
from ssl_diffusion.annotation.loop.stopping import advice, forecast_of
from ssl_diffusion.annotation.store import leases, schema
from ssl_diffusion.annotation.store.votes import VOTE_KINDS
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.settings import read_state

__all__ = ["JobStatus", "audit_estimate", "drawn_estimate", "fitted_labels", "job_status", "labels_per_hour", "status_of"]

_HOUR = 3600.0
_PAUSE = 300.0  # seconds without a label that are not counted as work
_LATEST = 5000  # events
_FASTEST = 40_000.0  # labels per hour; faster ones were given by a program
_FEWEST = 10  # labels from which accuracy is estimated


@dataclass(frozen=True)
class JobStatus:
    """Status of a job.

    Attributes:
        image_size: Height and width in pixels of the images as models see them.
        counts: Number of samples by status, see :func:`ssl_diffusion.annotation.store.queries.counts`.
        labels: Number of labeled samples by class.
        targets: Number of labels that are wanted, by class; classes of which any number will do are left out.
        without_class: Number of labeled samples of a multi-label job that have none of the classes; None in other jobs.
        rounds: Number of rounds so far.
        waiting: Number of samples in the queue that need votes.
        model: Description of the current model.
        new_labels: Number of labels that it was not fitted to.
        fit: State of the last fit, whoever started it.
        no_fit: Reason why no fit can be started now; empty if one can.
        audit: Accuracy of the current classifier on the labels of the audit set, or its macro F1 in a multi-label job; None
            without any.
        audit_metric: The figure of the setting `training.metric` on these labels, with its bootstrap interval; None where that
            is what `audit` has, where no label allows it, or without labels.
        audit_majority: Accuracy of always saying the most frequent class of these labels, beside the accuracy; None without
            any, and in a multi-label job.
        audit_by_class: F1 and average precision of each class on these labels; empty but in multi-label jobs.
        drawn: Accuracy, on the pool, of the model that chose the last round, estimated from samples drawn in proportion to
            utility (LURE); None if the strategy does not draw so, or fewer than ten draws are labeled.
        labels_per_hour: Labels per hour of work; None before the second label.
        next_step: Advice on the next step, one sentence.
        forecast: Accuracy that more labels are expected to bring, with its 80 % interval, or why it cannot be foreseen; one
            sentence.
        advice: Sentences on whether more labels seem worthwhile.
    """

    image_size: tuple[int, int]
    counts: dict[str, int]
    labels: dict[str, int]
    targets: dict[str, int]
    without_class: int | None
    rounds: int
    waiting: int
    model: str
    new_labels: int
    fit: FitState
    no_fit: str
    audit: Estimate | None
    audit_metric: Estimate | None
    audit_majority: float | None
    audit_by_class: AuditByClass
    drawn: Estimate | None
    labels_per_hour: float | None
    next_step: str
    forecast: str
    advice: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The status as values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Measured:
    """What the labels of the audit set say of the current classifier, see :class:`JobStatus`."""

    audit: Estimate | None = None
    metric: Estimate | None = None
    majority: float | None = None
    by_class: AuditByClass = field(default_factory=dict)


def job_status(snapshot: Snapshot) -> JobStatus:
    """Status of a job.

    Args:
        snapshot: The job at one moment, see :func:`~ssl_diffusion.annotation.loop.snapshot.take_snapshot`.

    Example:
        >>> job_status(take_snapshot(job)).next_step  # doctest: +SKIP
    """
    model = snapshot.model
    named = (model.name, model.description) if model is not None else None
    return _status(snapshot, named, _measured(snapshot))


def status_of(job: Job, progress: ProgressCallback | None = None) -> JobStatus:
    """Status of a job as it is now; its model is opened only if it has a backbone, or to measure it on labels of the audit set.

    Args:
        job: Job to read.
        progress: Callback for the images read by a new model.

    Example:
        >>> status_of(open_job(Path("job"))).next_step  # doctest: +SKIP
    """
    moment = take_moment(job)
    if len(moment.state.labels_of("audit")[0]) or (named := described(job)) is None:
        return job_status(take_snapshot(job, progress=progress))
    return _status(moment, named, _Measured())


def _status(moment: Moment, model: tuple[str, str] | None, measured: _Measured) -> JobStatus:
    """Status with what needs the model: its name and description, None while it is being opened, and its figures."""
    job, state = moment.job, moment.state
    given, sets = state.labels[1], job.store.multilabel
    counts = dict(enumerate(given.sum(axis=0).tolist())) if sets else Counter(given.tolist())
    labels = {state.classes[k]: counts.get(k, 0) for k in state.in_use}
    targets = targets_of(labels, state.targets, job.settings.target)
    waiting = len(state.waiting)
    _, _, height, width = job.images.shape
    return JobStatus(
        image_size=(height, width),
        counts=state.counts,
        labels=labels,
        targets=targets,
        without_class=int((given.sum(axis=1) == 0).sum()) if sets else None,
        rounds=state.last_round["number"] if state.last_round is not None else 0,
        waiting=waiting,
        model=model[1] if model is not None else "being opened",
        new_labels=len(state.training[0]) - fitted_labels(job, model[0]) if model is not None else 0,
        fit=moment.fit,
        no_fit=_no_fit(moment),
        audit=measured.audit,
        audit_metric=measured.metric,
        audit_majority=measured.majority,
        audit_by_class=measured.by_class,
        drawn=drawn_estimate(moment),
        labels_per_hour=labels_per_hour(job),
        next_step=_next_step(job, waiting, bool(labels)),
        forecast=str(forecast_of(moment)),
        advice=[line for line in (progress_line(labels, targets),) if line] + advice(moment),
    )


def _no_fit(moment: Moment) -> str:
    if moment.fit.state == "running":
        return f"a fit is running (by {moment.fit.process})"
    if not teaches(moment.state.training[1]):
        return f"a fit needs {lacking(moment.job.store.multilabel)}"
    return ""


def _next_step(job: Job, waiting: int, classes: bool) -> str:
    if not classes:
        return f"there are no classes yet: ssld loop serve {job.path}, and press n on its page to add the first one"
    if waiting:
        return f"{waiting} samples are waiting: ssld loop serve {job.path}"
    return f"nothing is waiting: ssld loop next {job.path} chooses what to label"


def fitted_labels(job: Job, name: str) -> int:
    """Number of labels that a model was fitted to.

    Example:
        >>> fitted_labels(job, "001")  # doctest: +SKIP
        120
    """
    path = job.path / "models" / f"{name}.json"
    if not os.path.lexists(path):
        return 0
    return read_state(path, FittedTo, remedy=f"fit again: ssld loop fit {job.path}").n


def audit_estimate(snapshot: Snapshot) -> Estimate | None:
    """Accuracy of the classifier, or its macro F1 in a multi-label job, on the labeled samples of the audit set; None without
    any, or without a classifier.

    Example:
        >>> audit_estimate(take_snapshot(job)).accuracy  # doctest: +SKIP
    """
    positions, classes = snapshot.state.labels_of("audit")
    if snapshot.classifier is None or not len(positions):
        return None
    p = snapshot.classifier.probabilities(positions)
    if classes.ndim == 2:
        return macro_f1(p, classes)
    right = p.argmax(axis=1) == classes
    return audit_interval(int(right.sum()), len(right))


def _measured(snapshot: Snapshot) -> _Measured:
    positions, labels = snapshot.state.labels_of("audit")
    if snapshot.classifier is None or not len(positions):
        return _Measured()
    p, sets = snapshot.classifier.probabilities(positions), labels.ndim == 2
    if sets:
        columns = list(snapshot.state.in_use)
        p, labels = p[:, columns], labels[:, columns]
    name = snapshot.job.settings.recipe.training.metric
    measured_anyway = name == "accuracy" or (sets and name == "macro-f1")
    return _Measured(
        audit_estimate(snapshot),
        None if measured_anyway else audit_figure(name, p, labels),
        None if sets else majority_accuracy(labels),
        by_class(p, labels, snapshot.state.names) if sets else {},
    )


def drawn_estimate(moment: Moment) -> Estimate | None:
    """Accuracy of the model that chose the last round, by LURE; None if it did not draw at random, or too few are labeled.

    Samples are used in the order of their draws, up to the first that has no label yet; skipped samples are left out, as if
    they were not in the pool.

    Example:
        >>> drawn_estimate(take_moment(job)).accuracy  # doctest: +SKIP
    """
    last = moment.state.last_round
    if last is None or not (last["strategy"] == "random" or last["strategy"].endswith(":sampled")):
        return None
    rows = leases.batch_of(moment.job.store, last["number"])
    drawn = sorted((row for row in rows if row["draw"]), key=lambda row: row["draw"])
    done = list(takewhile(lambda row: row["status"] in ("labeled", "skipped"), drawn))
    labeled = [row for row in done if row["status"] == "labeled" and row["predicted"] is not None]
    if len(labeled) < _FEWEST:
        return None
    right = np.array([row["label"] == row["predicted"] for row in labeled])
    if last["strategy"] == "random":
        return audit_interval(int(right.sum()), len(right))
    return lure(right, np.array([row["probability"] for row in labeled]), last["n_open"])


def labels_per_hour(job: Job, now: float | None = None) -> float | None:
    """Votes per hour, over the last hour of work; imports and pauses over five minutes do not count.

    None with fewer than two, and for a rate that no person keeps up.

    Args:
        job: Job of the votes.
        now: Time in seconds since 1970 up to which votes count; None is the current time.

    Example:
        >>> labels_per_hour(job)  # doctest: +SKIP
        840.0
    """
    events = schema.events.c
    query = select(events.at).where(events.kind.in_(VOTE_KINDS), events.source != "import").order_by(events.at.desc())
    with job.store.reading() as connection:
        times = np.fromiter(connection.execute(query.limit(_LATEST)).scalars(), dtype=np.float64)
    times = np.sort(times[times <= (time.time() if now is None else now)])
    gaps = np.diff(times)
    work = gaps[gaps <= _PAUSE][::-1]
    work = work[np.cumsum(work) <= _HOUR]
    if not len(work) or work.sum() <= 0:
        return None
    rate = float(_HOUR * len(work) / work.sum())
    return rate if rate <= _FASTEST else None
