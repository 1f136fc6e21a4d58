"""Several jobs side by side: the folders that hold them, and how far each of them is, without opening a model."""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from ssl_diffusion.annotation.loop.class_sets import figure_name
from ssl_diffusion.annotation.loop.fit_state import FitState, fit_state
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.model_file import current_model
from ssl_diffusion.annotation.loop.stopping import progress_of
from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.leases import pending_in
from ssl_diffusion.annotation.store.people import SILENT
from ssl_diffusion.annotation.store.queries import counts_in
from ssl_diffusion.annotation.store.review import n_open
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.errors import RunError, SSLDError, shown

__all__ = ["JobOverview", "Newcomers", "find_jobs", "job_name", "overview"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobOverview:
    """How far a job is.

    Attributes:
        name: Name of the job.
        samples: Number of samples.
        labeled: Number of labeled samples.
        waiting: Number of samples in the queue that need votes.
        to_review: Number of samples that are disputed, flagged, or doubted by a check.
        classes: Number of classes in use.
        model: Name of the current model; empty before the first fit.
        accuracy: Accuracy, or another figure, on the labels of the audit set before the last round, in [0, 1]; None if it was
            never measured.
        figure: Name of that figure, "accuracy" or, in a multi-label job, "macro F1".
        low: Lower end of its 95 % interval.
        high: Upper end.
        measured_at: Number of labels for training at that measurement.
        fit: State of the last fit, whoever started it.
        last_at: Time of the last thing that a person did, in seconds since 1970; None before it.
        last_by: Name of that person.
        problem: Reason why the job cannot be read now; empty if it can. The numbers are 0 then.
    """

    name: str
    samples: int = 0
    labeled: int = 0
    waiting: int = 0
    to_review: int = 0
    classes: int = 0
    model: str = ""
    accuracy: float | None = None
    figure: str = "accuracy"
    low: float | None = None
    high: float | None = None
    measured_at: int | None = None
    fit: FitState = field(default_factory=FitState)
    last_at: float | None = None
    last_by: str | None = None
    problem: str = ""


def job_name(path: Path) -> str:
    """Name of the job in a folder, as the page says it."""
    return path.resolve().name


def find_jobs(places: Sequence[Path]) -> dict[str, Path]:
    """Job folders by name, in the order of the places.

    Args:
        places: Job folders, or folders that contain job folders (not deeper).

    Raises:
        RunError: If a folder holds no job, the same job is named twice, or two jobs have the same name.

    Example:
        >>> find_jobs([Path("jobs")])  # doctest: +SKIP
        {'birds': PosixPath('jobs/birds'), 'cells': PosixPath('jobs/cells')}
    """
    found: dict[str, Path] = {}
    for place in places:
        for path in _jobs_in(place):
            name = job_name(path)
            if (other := found.get(name)) is None:
                found[name] = path
            elif other.resolve() == path.resolve():
                raise RunError(f"the job {path} is named twice: leave it out once")
            else:
                raise RunError(f"{other} and {path} are both called {shown(name)}: give one of the folders another name")
    return found


def _jobs_in(place: Path) -> list[Path]:
    """The job that a folder is, or the jobs in it."""
    if os.path.lexists(place / "job.toml") or not place.is_dir():
        return [place]  # opening it says what is wrong with it
    jobs = sorted(path.parent for path in place.glob("*/job.toml"))
    if not jobs:
        raise RunError(
            f"{place} is not a job folder (it has no job.toml), and contains none: create one with: "
            f"ssld loop init {place / 'NAME'} --data FOLDER"
        )
    return jobs


class Newcomers:
    """Jobs that are made in folders of jobs while these are served; each call returns those that were not known before.

    One that cannot be opened, or that another server serves, is tried again at the next call; the log says why, once.

    Args:
        places: Job folders, in which nothing is looked for, and folders that contain job folders.
        known: Names of the jobs that are known.
        locks: Stack that gets the lock of each job that is served.

    Example:
        >>> Newcomers([Path("jobs")], ["birds"], locks)()  # doctest: +SKIP
        {'cells': <ssl_diffusion.annotation.loop.job.Job object at 0x7f3a5c0d6b10>}
    """

    def __init__(self, places: Sequence[Path], known: Iterable[str], locks: ExitStack) -> None:
        self._places = [place for place in places if not os.path.lexists(place / "job.toml")]
        self._known, self._locks = set(known), locks
        self._refused: dict[str, str] = {}

    def __call__(self) -> dict[str, Job]:
        """The new jobs by name, locked."""
        found: dict[str, Job] = {}
        for path in (path.parent for place in self._places for path in sorted(place.glob("*/job.toml"))):
            if (name := job_name(path)) in self._known:
                continue
            try:
                job = open_job(path)
                self._locks.enter_context(job.alone("serve"))
            except SSLDError as error:
                if self._refused.get(name) != str(error):
                    _log.warning("%s is not served: %s", path, error)
                self._refused[name] = str(error)
                continue
            self._known.add(name)
            found[name] = job
        return found


def overview(job: Job, name: str | None = None) -> JobOverview:
    """How far a job is; a job that cannot be read says so, since the others can.

    Args:
        job: Job to look at. No model is opened.
        name: Name of the job; None takes that of its folder.

    Example:
        >>> overview(open_job(Path("job"))).labeled  # doctest: +SKIP
        120
    """
    name = job_name(job.path) if name is None else name
    try:
        counts, waiting, at, by = _numbers(job.store)
        model, measured = current_model(job), progress_of(job).dropna(subset=["audit_accuracy"])
        accuracy = measured[["audit_accuracy", "audit_low", "audit_high"]].iloc[-1].tolist() if len(measured) else [None] * 3
        return JobOverview(
            name,
            samples=counts["samples"],
            labeled=counts["labeled"],
            waiting=waiting,
            to_review=counts["disputed"] + counts["flagged"] + n_open(job.store),
            classes=len(job.store.classes_in_use),
            model=model.model if model is not None else "",
            accuracy=accuracy[0],
            figure=figure_name(job.store.multilabel),
            low=accuracy[1],
            high=accuracy[2],
            measured_at=int(measured["labels"].iloc[-1]) if len(measured) else None,
            fit=fit_state(job),
            last_at=at,
            last_by=by,
        )
    except SSLDError as error:
        return JobOverview(name, problem=str(error))


@retried
def _numbers(store: Store) -> tuple[dict[str, int], int, float | None, str | None]:
    """Samples by status, samples that wait, and when and by whom the last thing was done."""
    events = schema.events.c
    last = select(events.at, events.annotator).where(events.kind.not_in(SILENT)).order_by(events.number.desc()).limit(1)
    n = len(store.ids)
    with store.reading() as connection:
        row = connection.execute(last).first()
        counts, waiting = counts_in(connection, n), len(pending_in(connection))
    return counts, waiting, row.at if row is not None else None, row.annotator if row is not None else None
