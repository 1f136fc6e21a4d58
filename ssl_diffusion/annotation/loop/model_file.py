"""What a job notes about its current model, read without opening the model.

`ssld loop status` and the start of a fit need no more than this; opening a model takes seconds, and torch.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.inference.run_path import MODEL_FILE
from ssl_diffusion.models.weights import read_metadata
from ssl_diffusion.settings import PlainName, State, read_state

__all__ = [
    "CurrentModel",
    "FittedTo",
    "current_model",
    "described",
    "description_before_fits",
    "description_of",
    "folder_of",
    "label_digest",
    "lacking",
    "teaches",
    "training_labels",
]


class CurrentModel(State):
    """What `model.json` says: name of the run in `models/`, and digests of the labels and judged pictures it was fitted to."""

    model: PlainName
    labels: str | None = None
    verdicts: str | None = None


class FittedTo(State):
    """What `models/NNN.json` says: digest and number of the labels of a run, and digest of the judged pictures it learned.

    Of a multi-label job also the classes: a set says of each of them whether the image has it.
    """

    labels: str | None
    n: int = Field(ge=0)
    verdicts: str | None = None
    classes: tuple[str, ...] = ()


def current_model(job: Job) -> CurrentModel | None:
    """Content of `model.json`; None before the first fit.

    Raises:
        StateError: If the file is damaged.
    """
    path = job.path / "model.json"
    if not os.path.lexists(path):
        return None
    return read_state(path, CurrentModel, remedy=f"fit again: ssld loop fit {job.path}")


def described(job: Job) -> tuple[str, str] | None:
    """Name and description of the current model; None if it has to be opened to tell, or to say what is wrong with it.

    That is so with a backbone, which may be another one than in the fit, or not be installed.

    Args:
        job: Job of the model.
    """
    if job.settings.recipe.backbone.name not in ("none", "auto"):
        return None
    current = current_model(job)
    if current is None:
        return "pixels", description_before_fits(None)
    facts = read_metadata(folder_of(job, current.model) / MODEL_FILE)
    if facts is None or not isinstance(config := facts.get("config"), Mapping) or not isinstance(facts.get("objective"), str):
        return None
    return None if "backbone" in config else (current.model, description_of(facts["objective"], current.model, None))


def description_before_fits(backbone: str | None) -> str:
    """What represents the samples before the first fit, in words."""
    return f"{f'features of {backbone}' if backbone else 'principal components of the pixels'} (no model yet)"


def description_of(objective: str, name: str, backbone: str | None) -> str:
    """A fitted model in words."""
    return f"{objective} model {name}{f' with {backbone}' if backbone else ''}"


def folder_of(job: Job, name: str) -> Path:
    """Run folder of a model."""
    return job.path / "models" / name


def training_labels(job: Job) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the labeled samples that models are trained on, and their labels, see :func:`~.store.queries.labels`."""
    return queries.labels(job.store, "pool")


def label_digest(positions: NDArray[np.int64], classes: NDArray[np.int64]) -> str:
    """Digest of labels, to tell whether there are new ones; a class that no sample has does not change that of sets."""
    if classes.ndim == 2:
        rows, numbers = np.nonzero(classes)
        sets = np.concatenate([positions, [-1], positions[rows], numbers])
        return hashlib.sha256(sets.astype("<i8").tobytes()).hexdigest()[:16]
    return hashlib.sha256(np.stack([positions, classes]).astype("<i8").tobytes()).hexdigest()[:16]


def teaches(labels: NDArray[np.int64]) -> bool:
    """Whether labels tell classes apart: two classes, or one that some samples of a multi-label job have and others have not.

    Args:
        labels: Class numbers, (n,), or 0/1 for every class, (n, K).
    """
    if labels.ndim == 1:
        return len(np.unique(labels)) > 1
    return len(labels) > 1 and bool((labels.min(axis=0) != labels.max(axis=0)).any())


def lacking(multilabel: bool) -> str:
    """What a job lacks whose labels do not tell classes apart, in words."""
    return "a class that some labeled samples have and others have not" if multilabel else "labels of two classes or more"
