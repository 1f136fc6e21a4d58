"""What to label next goes to a Label Studio project as tasks in order; what its annotators said comes back.

Tasks are known by `data.ssld_id`, never by their place or by Label Studio's own numbers. The order is that of a prediction's
score, (rank + 1/2) / N: "uncertainty sampling" serves the lowest first. That holds only for predictions of the version that the
project has selected, so the version is set after every push, and the order is read back. Predictions of earlier rounds stay:
Label Studio refuses the answer of an annotator who has a task open whose prediction was deleted.
"""

import base64
import hashlib
import json
import urllib.parse
from dataclasses import dataclass
from typing import Any

from ssl_diffusion.annotation.files.imports import Imported, from_label_studio, take_over
from ssl_diffusion.annotation.label_studio.client import Interface, LabelStudio, parse_interface
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries, queue
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pictures import shown_image
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.storage import atomic_write_text

__all__ = ["Order", "Pulled", "Pushed", "is_selected", "order_of", "prediction", "pull", "push", "remember", "remembered"]

_SAMPLING = "Uncertainty sampling"
_SOURCE = "label-studio"
_TASKS = 50  # of a request; images may be in them
_SIDE = 1024  # pixels of an image in a task


@dataclass(frozen=True)
class Order:
    """The last round as Label Studio is to serve it.

    Attributes:
        version: of the predictions that say so: another one for every order.
        scores: of the samples that wait, by id, in (0, 1), increasing in the order of asking.
        predicted: their classes by the model that chose them; None where it had none.
        notes: why they were chosen.
    """

    version: str
    scores: dict[str, float]
    predicted: dict[str, str | None]
    notes: dict[str, str]


@dataclass(frozen=True)
class Pushed:
    """What a push did: tasks that are new, tasks in the order, the version of their predictions, and what to look out for."""

    new: int
    ordered: int
    version: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """What a pull did: what was taken over, and votes that were taken back since they were deleted there."""

    imported: Imported
    taken_back: int


def order_of(job: Job) -> Order:
    """The order of a job's last round; without scores if nothing waits.

    The rank is that within the whole round, so that what is asked and how it is scored only changes with the order.
    """
    last = queue.last_round(job.store)
    if last is None:
        return Order("ssld-r000", {}, {}, {})
    rows, waiting = queue.batch_of(job.store, last["number"]), set(queue.pending(job.store).tolist())
    ids, names = [row["id"] for row in rows], job.store.classes
    open_ = [(rank, row) for rank, row in enumerate(rows) if row["position"] in waiting]
    return Order(
        f"ssld-r{last['number']:03d}-{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:8]}",
        {row["id"]: (rank + 0.5) / len(rows) for rank, row in open_},
        {row["id"]: None if row["predicted"] is None else names[row["predicted"]] for _, row in open_},
        {row["id"]: row["note"] for _, row in open_},
    )


def push(job: Job, server: LabelStudio, project: int, *, image_prefix: str | None = None, blind: bool = False) -> Pushed:
    """Make the queue of a job the queue of a project. What was pushed before is not pushed again.

    Args:
        job: the job; its last round is pushed.
        server: where.
        project: number of the project.
        image_prefix: what comes before an id in the address of an image, as "/data/local-files/?d=photos/" for files that Label
            Studio serves itself; None puts the images, scaled to 1,024 pixels, into the tasks.
        blind: predictions without a class, and without the reason of the choice, so that annotators are not biased.

    Raises:
        SSLDError: if there is no queue, the project cannot hold the labels, the server refuses something, or its order is
            another one in the end.
    """
    order = order_of(job)
    if not order.scores:
        raise SSLDError(f"{job.path} has nothing to push: ssld loop next {job.path} chooses what to label")
    settings = server.project(project)
    interface = parse_interface(settings["label_config"], f"project {project}")
    if missing := [name for name in job.store.classes if name not in interface.values]:
        raise SSLDError(
            f"the labeling interface of project {project} does not have {', '.join(map(repr, missing))}: add a Choice"
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
        notes.append(f"the project wants {votes} annotations a task: Label Studio serves what somebody has begun first")
    return Pushed(len(new), len(order.scores), order.version, tuple(notes))


def pull(job: Job, server: LabelStudio, project: int, *, add_class: bool = False, final: bool = False) -> Pulled:
    """Take over what the annotators of a project said since the last time: labels, skips, corrections, deletions.

    Args:
        job: the job.
        server: where.
        project: number of the project; tasks that have no `ssld_id` are left alone.
        add_class: take classes that the job does not have; else they are refused.
        final: labels settle samples, whatever others say.

    Raises:
        SSLDError: if the server cannot be read, or its labels cannot be taken over; nothing is taken over then.
    """
    tasks = [task for task in server.annotated(project) if (task.get("data") or {}).get("ssld_id")]
    for task in tasks:  # who annotates a task twice means what was said last
        task["annotations"] = sorted(task.get("annotations") or [], key=lambda a: str(a.get("updated_at") or ""))
    said = {(s.id, s.annotator): s for s in from_label_studio(tasks, f"project {project}")}
    before = {
        (row["id"], who): label
        for row in queries.listing(job.store)
        for who, label in row["votes"].items()
        if who.partition(":")[0] == _SOURCE
    }
    fresh = [s for key, s in said.items() if key not in before or before[key] != s.label]
    imported = take_over(job, fresh, f"project {project}", _SOURCE, add_class=add_class, final=final)
    there = {str(task["data"]["ssld_id"]) for task in tasks}
    # Votes on samples that are no tasks of this project are another project's, or came from a file.
    gone = [key for key in before if key not in said and key[0] in there]
    job.store.apply([Action("un-label", id_, Actor(who, _SOURCE)) for id_, who in gone])
    return Pulled(imported, len(gone))


def remember(job: Job, url: str, project: int) -> None:
    """Write down which project a job belongs to (`label-studio.json`; no token)."""
    atomic_write_text(job.path / "label-studio.json", json.dumps({"url": url, "project": project}) + "\n")


def remembered(job: Job) -> tuple[str | None, int | None]:
    """Address and number of the project that was used last; None where none was."""
    try:
        facts = json.loads((job.path / "label-studio.json").read_text(encoding="utf-8"))
        return str(facts["url"]), int(facts["project"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def prediction(interface: Interface, order: Order, id_: str, label: str | None) -> dict[str, Any]:
    """The prediction of a sample, without its task; those that do not wait come after all that do."""
    result = interface.result(label) if label is not None and label in interface.values else []
    return {"score": order.scores.get(id_, 1.0), "model_version": order.version, "result": result}


def is_selected(server: LabelStudio, project: int, order: Order) -> bool:
    """Whether a project goes by the predictions of this order: an ML backend or a person may have changed that."""
    found = server.project(project)
    return bool(found.get("model_version") == order.version and found.get("sampling") == _SAMPLING)


def _in_order(server: LabelStudio, project: int, order: Order) -> bool:
    """Whether the samples that wait have scores that increase as they are to be asked, by the server's own sorting."""
    ids = [str(task["data"].get("ssld_id")) for task in server.tasks(project, order="tasks:predictions_score")]
    return [id_ for id_ in ids if id_ in order.scores] == list(order.scores)


def _address(job: Job, id_: str, prefix: str | None) -> str:
    if prefix is not None:
        return prefix + urllib.parse.quote(id_)
    (position,) = job.store.positions([id_]).tolist()
    content, kind = shown_image(job.image_file(position), side=_SIDE)
    return f"data:{kind};base64," + base64.b64encode(content).decode()
