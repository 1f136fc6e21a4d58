"""Synchronization with a Label Studio project: the queue goes out as ordered tasks, labels come back.

Tasks are identified by `data.ssld_id`, never by their place or by Label Studio's own numbers. They are ordered by the score of
their prediction, (rank + 1/2) / N: "uncertainty sampling" serves the lowest first. That holds only for predictions of the
version that the project has selected, so the version is set after every push and the order is read back. Predictions of earlier
rounds stay: Label Studio refuses the annotation of an open task whose prediction was deleted.
"""

import base64
import hashlib
import json
import os
import urllib.parse
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ssl_diffusion.annotation.files.imports import Imported, apply_records, from_label_studio, read_tasks
from ssl_diffusion.annotation.label_studio.client import Interface, LabelStudio, parse_interface
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.labels import NamedLabel
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.shards.rows import ImageInShard
from ssl_diffusion.data.thumbnails import shown_bytes, shown_image
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.storage import atomic_write_text

__all__ = ["Order", "Pulled", "Pushed", "is_selected", "order_of", "prediction", "pull", "push", "remember", "remembered"]

_SAMPLING = "Uncertainty sampling"
_SOURCE = "label-studio"
_TASKS = 50  # in one request; they may contain images
_SIDE = 1024  # largest width and height of an image in a task, in pixels


@dataclass(frozen=True)
class Order:
    """Order in which Label Studio is to serve the last round.

    Attributes:
        version: Version of the predictions that express the order; every order has its own.
        scores: Scores of the waiting samples by id, in (0, 1), increasing in queue order.
        predicted: Classes predicted by the model that chose them, by id; None without a classifier.
        notes: Reasons for the choice, by id.
    """

    version: str
    scores: dict[str, float]
    predicted: dict[str, str | None]
    notes: dict[str, str]


@dataclass(frozen=True)
class Pushed:
    """Result of a push: number of new tasks, number of ordered tasks, version of their predictions, and warnings."""

    new: int
    ordered: int
    version: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """Result of a pull: imported labels, and number of votes withdrawn because they were deleted there."""

    imported: Imported
    withdrawn: int


def order_of(job: Job) -> Order:
    """Order of a job's last round; without scores if nothing is waiting.

    The rank is that within the whole round, so that scores and version change only with the order.
    """
    last = leases.last_round(job.store)
    if last is None:
        return Order("ssld-r000", {}, {}, {})
    rows, waiting = leases.batch_of(job.store, last["number"]), set(leases.pending(job.store).tolist())
    ids, names = [row["id"] for row in rows], job.store.classes
    open_ = [(rank, row) for rank, row in enumerate(rows) if row["position"] in waiting]
    return Order(
        f"ssld-r{last['number']:03d}-{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:8]}",
        {row["id"]: (rank + 0.5) / len(rows) for rank, row in open_},
        {row["id"]: None if row["predicted"] is None else names[row["predicted"]] for _, row in open_},
        {row["id"]: row["note"] for _, row in open_},
    )


def push(job: Job, server: LabelStudio, project: int, *, image_prefix: str | None = None, blind: bool = False) -> Pushed:
    """Make the queue of a job the queue of a project. Tasks and predictions that exist already are not pushed again.

    Args:
        job: Job whose last round is pushed.
        server: Label Studio.
        project: Number of the project.
        image_prefix: Prefix of an id in the address of an image, such as "/data/local-files/?d=photos/" for files that Label
            Studio serves itself; None puts the images, scaled to 1,024 pixels, into the tasks.
        blind: Whether to leave out predicted classes and reasons, so that annotators are not biased.

    Raises:
        SSLDError: If the queue is empty, the project cannot hold the labels, the server refuses something, or it does not serve
            the tasks in this order in the end.
    """
    order = order_of(job)
    if not order.scores:
        raise SSLDError(f"{job.path} has nothing to push: ssld loop next {job.path} chooses what to label")
    settings = server.project(project)
    interface = parse_interface(settings["label_config"], f"project {project}", multilabel=job.store.multilabel)
    if missing := [name for name in job.store.classes_in_use if name not in interface.values]:
        raise SSLDError(
            f"the labeling interface of project {project} does not have {', '.join(map(repr, missing))}: add a Choice for each"
        )
    numbers = {str(task["data"].get("ssld_id")): int(task["id"]) for task in server.tasks(project)}
    new = [id_ for id_ in order.scores if id_ not in numbers]
    for start in range(0, len(new), _TASKS):
        part = new[start : start + _TASKS]
        whys = ["" if blind else order.notes[id_] for id_ in part]
        data = [
            {interface.key: _address(job, id_, image_prefix), "ssld_id": id_, "why": why}
            for id_, why in zip(part, whys, strict=True)
        ]
        numbers |= dict(zip(part, server.add_tasks(project, data), strict=True))
    there = server.predicted(project, order.version)
    labels = {} if blind else order.predicted
    missing = [id_ for id_ in order.scores if numbers[id_] not in there]
    server.add_predictions(
        project, [{"task": numbers[id_], **prediction(interface, order, id_, labels.get(id_))} for id_ in missing]
    )
    server.call("PATCH", f"/api/projects/{project}", {"model_version": order.version, "sampling": _SAMPLING})
    if not is_selected(server, project, order) or not _in_order(server, project, order):
        raise SSLDError(f"project {project} does not serve its tasks in the order that was pushed: push again")
    notes = []
    if (votes := settings.get("maximum_annotations") or 1) > 1:
        notes.append(
            f"the project requires {votes} annotations per task: Label Studio serves tasks that someone has begun first"
        )
    return Pushed(len(new), len(order.scores), order.version, tuple(notes))


def pull(job: Job, server: LabelStudio, project: int, *, add_class: bool = False, final: bool = False) -> Pulled:
    """Import what has changed in a project since the last pull: labels, skips, corrections, deletions.

    Args:
        job: Job to import into.
        server: Label Studio.
        project: Number of the project; tasks without an `ssld_id` are ignored.
        add_class: Whether to add classes that the job does not have; otherwise they are refused.
        final: Whether the labels override the votes of others.

    Raises:
        SSLDError: If the server cannot be read, or its labels cannot be imported; nothing is imported then.
    """
    name = f"project {project}"
    tasks = [
        # Of several annotations by one annotator the latest counts.
        task.model_copy(update={"annotations": sorted(task.annotations or [], key=lambda a: a.updated_at or "")})
        for task in read_tasks(server.annotated(project), name)
        if task.sample
    ]
    records = {(r.id, r.annotator): r for r in from_label_studio(tasks, name, multilabel=job.store.multilabel)}
    before = {
        (row["id"], who): label
        for row in queries.listing(job.store)
        for who, label in row["votes"].items()
        if who.partition(":")[0] == _SOURCE
    }
    fresh = [r for key, r in records.items() if key not in before or not r.says(before[key])]
    imported = apply_records(job, fresh, name, _SOURCE, add_class=add_class, final=final)
    there = {task.sample for task in tasks}
    # Votes on samples without a task in this project are of another project, or came from a file.
    gone = [key for key in before if key not in records and key[0] in there]
    job.store.apply([Action("un-label", id_, Actor(who, _SOURCE)) for id_, who in gone])
    return Pulled(imported, len(gone))


class _Project(State):
    """Project that a job was used with last."""

    url: str
    project: int = Field(ge=1)


def remember(job: Job, url: str, project: int) -> None:
    """Write which project a job belongs to (`label-studio.json`; without the token)."""
    atomic_write_text(job.path / "label-studio.json", _Project(url=url, project=project).model_dump_json() + "\n")


def remembered(job: Job) -> tuple[str | None, int | None]:
    """Address and number of the project used last; None without one.

    Raises:
        StateError: If the file that says so is damaged.
    """
    path = job.path / "label-studio.json"
    if not os.path.lexists(path):
        return None, None
    facts = read_state(path, _Project, remedy="remove it, and give --label-studio URL --project NUMBER once again")
    return facts.url, facts.project


def prediction(interface: Interface, order: Order, id_: str, label: NamedLabel | None) -> dict[str, Any]:
    """Prediction of a sample, without its task; samples that are not waiting come after all that are."""
    names = (label,) if isinstance(label, str) else label or ()
    result = interface.result(label) if label and {*names} <= {*interface.values} else []
    return {"score": order.scores.get(id_, 1.0), "model_version": order.version, "result": result}


def is_selected(server: LabelStudio, project: int, order: Order) -> bool:
    """Whether a project is ordered by these predictions: an ML backend or a person may have changed that."""
    found = server.project(project)
    return bool(found.get("model_version") == order.version and found.get("sampling") == _SAMPLING)


def _in_order(server: LabelStudio, project: int, order: Order) -> bool:
    """Whether the server, sorting by score, returns the waiting samples in this order."""
    ids = [str(task["data"].get("ssld_id")) for task in server.tasks(project, order="tasks:predictions_score")]
    return [id_ for id_ in ids if id_ in order.scores] == list(order.scores)


def _address(job: Job, id_: str, prefix: str | None) -> str:
    if prefix is not None:
        return prefix + urllib.parse.quote(id_)
    (position,) = job.store.positions([id_]).tolist()
    image = job.image_content(position)
    if isinstance(image, ImageInShard):
        held, ending = image.load()
        content, kind = shown_bytes(held, f"{id_}{ending}", side=_SIDE)
    else:
        content, kind = shown_image(image, side=_SIDE)
    return f"data:{kind};base64," + base64.b64encode(content).decode()
