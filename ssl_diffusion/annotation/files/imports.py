"""Import of labels: CSV, JSON lines, Label Studio's JSON, Prodigy's JSON lines. A file is imported as a whole or not at all."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError

__all__ = ["Imported", "LabelRecord", "apply_records", "import_labels", "read_labels"]

_SHOWN = 5
_WHO = "import"


@dataclass(frozen=True)
class LabelRecord:
    """One label in a file; label is None for a skip, where is its place in the file, for messages."""

    id: str
    label: str | None
    annotator: str
    where: str


@dataclass(frozen=True)
class Imported:
    """Result of an import: number of labels and skips, and new classes."""

    labeled: int
    skipped: int
    new_classes: tuple[str, ...]


def import_labels(
    job: Job, path: Path, *, annotator: str | None = None, add_class: bool = False, final: bool = False
) -> Imported:
    """Import the labels of a file.

    Args:
        job: Job to import into.
        path: .csv or .tsv with the columns id (or path) and label, and optionally annotator; .jsonl with the same keys, or from
            Prodigy; .json as Label Studio exports it. Empty labels are ignored.
        annotator: Annotator of labels for which the file names none.
        add_class: Whether to add classes that the job does not have; otherwise they are refused.
        final: Whether these labels override the votes of others.

    Raises:
        DataError: If the file cannot be read, names samples or classes that the job does not have, or has different labels for
            a sample by the same annotator; nothing is imported then.

    Example:
        >>> import_labels(open_job(Path("job")), Path("labels.csv"), annotator="ada")  # doctest: +SKIP
    """
    return apply_records(job, read_labels(path, annotator or _WHO), str(path), "import", add_class=add_class, final=final)


def apply_records(
    job: Job, records: list[LabelRecord], name: str, source: str, *, add_class: bool = False, final: bool = False
) -> Imported:
    """Import labels, all or none; see :func:`import_labels`.

    Args:
        job: Job to import into.
        records: Labels to import.
        name: Name of their origin, for messages.
        source: Source of the actions, see :class:`~ssl_diffusion.annotation.store.Actor`.
        add_class: Whether to add classes that the job does not have.
        final: Whether these labels override the votes of others.

    Example:
        >>> apply_records(job, read_labels(path, "ada"), path.name, "csv")  # doctest: +SKIP
    """
    known, classes = set(job.store.ids.tolist()), job.store.classes
    if unknown := [record for record in records if record.id not in known]:
        ids = f"its ids look like {sorted(known)[0]!r}"
        raise DataError(f"{name}: {_listed(record.id for record in unknown)} not in the job ({unknown[0].where}); {ids}")
    new = tuple(dict.fromkeys(r.label for r in records if r.label is not None and r.label not in classes))
    if new and not add_class:
        known_classes = f"the job has {', '.join(classes)}" if classes else "the job has no classes yet"
        raise DataError(
            f"{name}: {_listed(new)} no class of the job ({known_classes}): correct the file, or add them with --add-class"
        )
    by_sample: dict[tuple[str, str], LabelRecord] = {}
    conflicts = []
    for record in records:
        before = by_sample.setdefault((record.id, record.annotator), record)
        if before.label != record.label:
            conflicts.append(f"{record.id} is {before.label!r} ({before.where}) and {record.label!r} ({record.where})")
    if conflicts:
        more = f", and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
        raise DataError(f"{name} contradicts itself: {'; '.join(conflicts[:_SHOWN])}{more}: nothing was imported")
    if new:
        job.store.add_classes(new)
    job.store.apply([_action(record, source, final) for record in by_sample.values()])
    labeled = sum(record.label is not None for record in by_sample.values())
    return Imported(labeled, len(by_sample) - labeled, new)


def _action(record: LabelRecord, source: str, final: bool) -> Action:
    by = Actor(record.annotator, source)
    return Action("skip", record.id, by) if record.label is None else Action("label", record.id, by, record.label, final)


def read_labels(path: Path, annotator: str) -> list[LabelRecord]:
    """Read the labels of a file; see :func:`import_labels`.

    Example:
        >>> read_labels(Path("labels.csv"), "ada")  # doctest: +SKIP
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        return _from_table(path, annotator)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None
    try:
        if path.suffix.lower() == ".json":
            return list(from_label_studio(json.loads(text), str(path)))
        lines = [(f"line {i}", json.loads(line)) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    return [record for where, row in lines for record in _from_line(row, annotator, f"{path}, {where}")]


def from_label_studio(tasks: Any, name: str) -> Iterable[LabelRecord]:
    """Labels in a JSON export of Label Studio, one per annotator and task.

    Cancelled annotations are skips; empty ones and predictions are ignored. Tasks are identified by `data.ssld_id`.

    Raises:
        DataError: If this is not such an export, or ssld did not make a task.
    """
    if not isinstance(tasks, list):
        raise DataError(f"{name} is not an export of Label Studio: one is a list of tasks")
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
                raise DataError(
                    f"{name}, {where} has {len(chosen)} choices, but one label per image is allowed: {', '.join(chosen)}"
                )
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
            raise DataError(
                f"{where} has {len(accepted)} labels, but one per image is allowed: {', '.join(map(str, accepted))}"
            )
        return
    if "id" not in row or "label" not in row:
        raise DataError(f"{where} needs id and label; it has {', '.join(map(str, row))}")
    if row["label"]:
        yield LabelRecord(str(row["id"]), str(row["label"]), who, where)


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return f"{shown} is" if len(names) == 1 else f"{shown}{' and others' if len(names) > _SHOWN else ''} are"
