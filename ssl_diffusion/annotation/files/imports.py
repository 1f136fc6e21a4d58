"""Labels from files: CSV, JSON lines, Label Studio's JSON, Prodigy's JSON lines. All of a file is taken, or nothing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError

__all__ = ["Imported", "LabelRecord", "import_labels", "read_labels", "take_over"]

_SHOWN = 5
_WHO = "import"


@dataclass(frozen=True)
class LabelRecord:
    """What a file says of a sample: label is None for a skip; where is the place in the file, for complaints."""

    id: str
    label: str | None
    annotator: str
    where: str


@dataclass(frozen=True)
class Imported:
    """What came of an import: samples labeled and skipped, and new classes."""

    labeled: int
    skipped: int
    new_classes: tuple[str, ...]


def import_labels(
    job: Job, path: Path, *, annotator: str | None = None, add_class: bool = False, final: bool = False
) -> Imported:
    """Take over the labels of a file.

    Args:
        job: the job.
        path: .csv or .tsv with columns id (or path) and label, and perhaps annotator; .jsonl with the same keys, or of Prodigy;
            .json as Label Studio exports it. An empty label is left out.
        annotator: who said so, where the file does not say.
        add_class: take classes that the job does not have; else they are refused.
        final: these labels settle samples, whatever others say.

    Raises:
        DataError: if the file cannot be read, names samples or classes that the job does not have, or says different things of
            a sample in the name of the same annotator; nothing is taken over then.
    """
    return take_over(job, read_labels(path, annotator or _WHO), str(path), "import", add_class=add_class, final=final)


def take_over(
    job: Job, said: list[LabelRecord], name: str, source: str, *, add_class: bool = False, final: bool = False
) -> Imported:
    """Take over labels, all or none; see :func:`import_labels`."""
    known, classes = set(job.store.ids.tolist()), job.store.classes
    if unknown := [s for s in said if s.id not in known]:
        ids = f"ids are as {sorted(known)[0]!r}"
        raise DataError(f"{name}: {_listed(s.id for s in unknown)} not in the job ({unknown[0].where}); {ids}")
    new = tuple(dict.fromkeys(s.label for s in said if s.label is not None and s.label not in classes))
    if new and not add_class:
        known_classes = f"the job has {', '.join(classes)}" if classes else "the job has no classes yet"
        raise DataError(f"{name}: {_listed(new)} no class of the job ({known_classes}): correct it, or add with --add-class")
    by_sample: dict[tuple[str, str], LabelRecord] = {}
    conflicts = []
    for s in said:
        before = by_sample.setdefault((s.id, s.annotator), s)
        if before.label != s.label:
            conflicts.append(f"{s.id} is {before.label!r} ({before.where}) and {s.label!r} ({s.where})")
    if conflicts:
        more = f", and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
        raise DataError(f"{name} contradicts itself: {'; '.join(conflicts[:_SHOWN])}{more}: nothing was taken over")
    if new:
        job.store.add_classes(new)
    actions = [
        Action(
            "label" if s.label is not None else "skip", s.id, Actor(s.annotator, source), s.label, final and s.label is not None
        )
        for s in by_sample.values()
    ]
    job.store.apply(actions)
    labeled = sum(s.label is not None for s in by_sample.values())
    return Imported(labeled, len(by_sample) - labeled, new)


def read_labels(path: Path, annotator: str) -> list[LabelRecord]:
    """What a file says; see :func:`import_labels`."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return _from_table(path, annotator)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from None
    try:
        if path.suffix.lower() == ".json":
            return list(from_label_studio(json.loads(text), str(path)))
        lines = [(f"line {i}", json.loads(line)) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    return [said for where, row in lines for said in _from_line(row, annotator, f"{path}, {where}")]


def from_label_studio(tasks: Any, name: str) -> Iterable[LabelRecord]:
    """What the annotators of Label Studio said, from its JSON export: one entry an annotator and task.

    Cancelled annotations are skips, empty ones and predictions say nothing. Tasks are known by `data.ssld_id`.

    Raises:
        DataError: if this is not such an export, or a task is none of ours.
    """
    if not isinstance(tasks, list):
        raise DataError(f"{name} is not an export of Label Studio: it is a list of tasks")
    for k, task in enumerate(tasks, start=1):
        where = f"task {task.get('id', k)}" if isinstance(task, dict) else f"task {k}"
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not data.get("ssld_id"):
            raise DataError(f"{name}, {where} has no ssld_id in its data: it was not made by ssld")
        for annotation in task.get("annotations") or []:
            who = _annotator(annotation)
            if annotation.get("was_cancelled"):
                yield LabelRecord(str(data["ssld_id"]), None, who, where)
                continue
            chosen = [c for item in annotation.get("result") or [] for c in (item.get("value") or {}).get("choices") or []]
            if len(chosen) > 1:
                raise DataError(f"{name}, {where} has {len(chosen)} choices; one label an image is taken: {', '.join(chosen)}")
            if chosen:
                yield LabelRecord(str(data["ssld_id"]), str(chosen[0]), who, where)


def _annotator(annotation: dict[str, Any]) -> str:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return f"label-studio:{who}" if who is not None else "label-studio"


def _from_table(path: Path, annotator: str) -> list[LabelRecord]:
    table = read_table(path)
    id_column = next(iter(table.any_case("id", "path", "image")), None)
    label_column = next(iter(table.any_case("label", "class")), None)
    if id_column is None or label_column is None:
        raise DataError(f"{path} needs the columns id and label; it has {', '.join(table.header)}")
    who_column = next(iter(table.any_case("annotator")), None)
    who = table.column(who_column) if who_column is not None else [annotator] * len(table.rows)
    rows = zip(table.column(id_column), table.column(label_column), who, table.numbers, strict=True)
    return [
        LabelRecord(id_, label.strip(), name or annotator, f"row {number}")
        for id_, label, name, number in rows
        if label.strip()
    ]


def _from_line(row: Any, annotator: str, where: str) -> Iterable[LabelRecord]:
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object with id and label")
    who = str(row.get("annotator") or row.get("_annotator_id") or annotator)
    if "answer" in row:  # Prodigy
        id_ = (row.get("meta") or {}).get("id")
        if not id_:
            raise DataError(f"{where} has no meta.id: it was not made by ssld")
        accepted = row.get("accept") or ([row["label"]] if row.get("label") else [])
        if row["answer"] != "accept":
            yield LabelRecord(str(id_), None, who, where)
        elif len(accepted) == 1:
            yield LabelRecord(str(id_), str(accepted[0]), who, where)
        elif accepted:
            raise DataError(f"{where} has {len(accepted)} labels; one label an image is taken: {', '.join(map(str, accepted))}")
        return
    if "id" not in row or "label" not in row:
        raise DataError(f"{where} needs id and label; it has {', '.join(map(str, row))}")
    if row["label"]:
        yield LabelRecord(str(row["id"]), str(row["label"]), who, where)


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return f"{shown} is" if len(names) == 1 else f"{shown}{' and others' if len(names) > _SHOWN else ''} are"
