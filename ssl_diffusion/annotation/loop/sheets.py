"""Sheets: many similar samples that are labeled with one key. Those that measure the model are never on one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.pool_view import PoolView
from ssl_diffusion.annotation.store import leases
from ssl_diffusion.annotation.store.pool_rows import PoolRows, read_rows
from ssl_diffusion.errors import DataError

__all__ = ["LARGEST", "Sheet", "Wanted", "choose_sheet", "inside"]

LARGEST = 96  # samples of a sheet
_AGREED = 0.5  # least part of a lassoed sheet with one predicted class that this class is suggested for


@dataclass(frozen=True)
class Wanted:
    """What a sheet is asked to show.

    Attributes:
        kind: "class" (samples of one predicted class), "similar" (the nearest to one sample, or to the next of the queue),
            "lasso" (samples inside a polygon of the map), or "ids" (these and no others).
        n: Number of samples, 1 to 96.
        label: Predicted class, for "class"; None takes the one of which most are likely to be right.
        sure: Place among the samples of a class: 1 takes the surest, 0 those that are least sure.
        id: Sample id, for "similar"; None takes the next of the queue.
        points: Corners of the polygon, (k, 2) in [0, 1], for "lasso".
        ids: Sample ids, for "ids".
        without: Sample ids that are not to be shown.
    """

    kind: Literal["class", "similar", "lasso", "ids"] = "class"
    n: int = 24
    label: str | None = None
    sure: float = 1.0
    id: str | None = None
    points: tuple[tuple[float, float], ...] = ()
    ids: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A sheet.

    Attributes:
        title: Common feature of the samples, in words.
        label: Suggested class; None without one.
        items: The samples, leased.
        left: Number of further samples of this kind.
    """

    title: str
    label: str | None
    items: list[leases.LeasedSample]
    left: int


def choose_sheet(
    job: Job, view: PoolView, wanted: Wanted, annotator: str, holder: str, queued: Callable[[], NDArray[np.int64]]
) -> Sheet:
    """Choose samples for a sheet and lease them.

    Args:
        job: Job of the samples.
        view: The pool as the model sees it.
        wanted: Samples that are asked for.
        annotator: Name of the annotator.
        holder: Tab of the annotator.
        queued: Function that gives the positions of the queue.

    Raises:
        DataError: If the number of samples is not in [1, 96], or a class or sample does not exist.
    """
    if not 1 <= wanted.n <= LARGEST:
        raise DataError(f"a sheet has 1 to {LARGEST} samples, not {wanted.n}")
    rows = read_rows(job.store, annotator, holder)
    free = rows.free.copy()
    if wanted.without:
        free[job.store.positions(wanted.without)] = False
    title, number, chosen, n_all = _chosen(job, view, wanted, rows, free, queued)
    items = leases.lease_these(job.store, chosen, annotator, holder)
    label = None if number is None else job.store.classes[number]
    return Sheet(title, label, items, max(0, n_all - len(chosen)))


def inside(points: NDArray[np.float64], places: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether places lie inside a polygon, (N,).

    Args:
        points: Corners of the polygon, (k, 2).
        places: Places, (N, 2).
    """
    from matplotlib.path import Path

    if len(points) < 3:
        return np.zeros(len(places), dtype=np.bool_)
    found: NDArray[np.bool_] = Path(points).contains_points(places)
    return found


Chosen = tuple[str, int | None, NDArray[np.int64], int]
"""Title, suggested class number, positions, and the number of samples to choose from."""


def _chosen(
    job: Job,
    view: PoolView,
    wanted: Wanted,
    rows: PoolRows,
    free: NDArray[np.bool_],
    queued: Callable[[], NDArray[np.int64]],
) -> Chosen:
    if wanted.kind == "ids":
        positions = job.store.positions(wanted.ids)
        there = positions[free[positions]]
        return "These samples", None, there[: wanted.n], len(there)
    if wanted.kind == "lasso":
        return _lassoed(view, wanted, free)
    if wanted.kind == "class":
        predictions = view.predictions()
        if predictions is not None:
            return _of_class(job, *predictions, wanted, rows, free)
        if wanted.label is not None:
            raise DataError("no class is predicted yet: label samples of two classes first")
    return _similar(job, view, wanted, free, queued)


def _of_class(
    job: Job,
    predicted: NDArray[np.int64],
    p: NDArray[np.float32],
    wanted: Wanted,
    rows: PoolRows,
    free: NDArray[np.bool_],
) -> Chosen:
    names = job.store.classes
    candidates = np.flatnonzero(free)
    candidates = candidates[np.argsort(-p[candidates], kind="stable")]  # surest first
    if wanted.label is not None:
        if wanted.label not in job.store.classes_in_use:
            raise DataError(f"the job has no class {wanted.label!r}")
        number = names.index(wanted.label)
    else:
        number = _fullest(predicted[candidates], p[candidates], rows, wanted.n)
    own = candidates[predicted[candidates] == number]
    first = math.floor((1 - min(max(wanted.sure, 0.0), 1.0)) * max(0, len(own) - wanted.n))
    return f"Probably {names[number]}", number, own[first : first + wanted.n], len(own)


def _fullest(predicted: NDArray[np.int64], p: NDArray[np.float32], rows: PoolRows, n: int) -> int:
    """The class of which a sheet would have most samples that are right; of those nearly alike, the one with fewest labels."""
    best: tuple[int, int, int] = (-1, 0, 0)
    for number in np.unique(predicted).tolist():
        right = float(p[predicted == number][:n].sum())
        labels = int((rows.label == number).sum())
        best = max(best, (round(right), -labels, number))
    return best[2]


def _lassoed(view: PoolView, wanted: Wanted, free: NDArray[np.bool_]) -> Chosen:
    places = view.places()
    if places is None:
        raise DataError("there is no map yet: the model is being opened")
    own = np.flatnonzero(free & inside(np.array(wanted.points, dtype=np.float64).reshape(-1, 2), places))
    if (found := view.predictions()) is None or not len(own):
        return "This part of the map", None, own[: wanted.n], len(own)
    predicted, p = found
    counts = np.bincount(predicted[own])
    number = int(counts.argmax())
    own = own[np.lexsort((-p[own], predicted[own] != number))]  # those of the most frequent class first, surest first
    agreed = counts[number] >= _AGREED * len(own)
    return "This part of the map", number if agreed else None, own[: wanted.n], len(own)


def _similar(
    job: Job, view: PoolView, wanted: Wanted, free: NDArray[np.bool_], queued: Callable[[], NDArray[np.int64]]
) -> Chosen:
    candidates = np.flatnonzero(free)
    if wanted.id is not None:
        (center,) = job.store.positions([wanted.id]).tolist()
        return f"Like {wanted.id}", None, view.nearest(center, candidates, wanted.n), len(candidates)
    first = [position for position in queued().tolist() if free[position]] or candidates.tolist()
    if not first:
        return "No samples are left", None, candidates, 0
    return "Similar samples", None, view.nearest(first[0], candidates, wanted.n), len(candidates)
