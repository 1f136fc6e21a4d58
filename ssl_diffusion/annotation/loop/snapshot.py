"""A job at one moment: its store, model, classifier and fit, taken once for everything that answers one request."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_diffusion.annotation.loop.fit_state import FitState, fit_state
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.state import StoreState, read_state
from ssl_diffusion.progress import ProgressCallback

if TYPE_CHECKING:
    from ssl_diffusion.annotation.loop.current_model import Classifier, Model

__all__ = ["Moment", "Snapshot", "take_moment", "take_snapshot"]


@dataclass(frozen=True)
class Moment:
    """A job at one moment, its model aside.

    Attributes:
        job: The job.
        state: State of its store.
        fit: State of the last fit, whoever started it.
    """

    job: Job
    state: StoreState
    fit: FitState


@dataclass(frozen=True)
class Snapshot(Moment):
    """A job at one moment.

    Attributes:
        model: Current model; None while it is being opened.
        classifier: Classifier by that model; None with labels of fewer than two classes.
    """

    model: "Model | None"
    classifier: "Classifier | None"


def take_moment(job: Job) -> Moment:
    """Read the store of a job, and how its fit is going; no model is opened.

    Args:
        job: Job to read.
    """
    return Moment(job, read_state(job.store), fit_state(job))


def take_snapshot(
    job: Job, model: "Model | None" = None, *, fast: bool = False, progress: ProgressCallback | None = None
) -> Snapshot:
    """Read the store of a job and fit a classifier to its labels.

    Args:
        job: Job to read.
        model: Current model; None opens it.
        fast: Whether to skip the cross-validation that chooses the probe's penalty.
        progress: Callback for the images read by a new model.

    Example:
        >>> snapshot = take_snapshot(open_job(Path("job")))  # doctest: +SKIP
    """
    from ssl_diffusion.annotation.loop.current_model import classifier_of, present_model

    model = present_model(job, progress) if model is None else model
    state = read_state(job.store)
    return Snapshot(job, state, fit_state(job), model, classifier_of(job, model, state, fast=fast))
