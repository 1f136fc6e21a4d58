"""Import of labels: CSV, JSON lines, Label Studio's JSON, Prodigy's JSON lines, folders and Parquet files.

A file is imported as a whole or not at all.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_diffusion.annotation.files.foreign import LabelLine, ProdigyLine, SetLine, Task, check, parse_json
from ssl_diffusion.annotation.files.import_folders import is_data_set, labels_of_data_set
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.labels import NamedLabel, said
from ssl_diffusion.annotation.store.statements import check_text
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.label_columns import flag_labels
from ssl_diffusion.data.tables import Table, read_table
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown
from ssl_diffusion.storage import read_regular

__all__ = ["Imported", "LabelRecord", "apply_records", "from_label_studio", "import_labels", "read_labels", "read_tasks"]

_SHOWN, _NAMED = 5, 20  # names in a message
_LARGEST = 2**30  # bytes of a file of labels
_WHO = "import"
_NO_CLASSES = ("id", "path", "image", "role", "status", "flagged", "votes", "annotator", "split", "label")  # columns
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRecord:
    """One label in a file; label is None for a skip, where is its place in the file, for messages.

    In a multi-label job a label is the names of a set, in any order.
    """

    id: str
    label: NamedLabel | None
    annotator: str
    where: str

    def says(self, label: NamedLabel | None) -> bool:
        """Whether its label is this one; the order of a set does not matter."""
        if isinstance(label, tuple) and isinstance(self.label, tuple):
            return sorted(label) == sorted(self.label)
        return label == self.label


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
            Prodigy; .json as Label Studio exports it; a folder or .parquet file, see
            :func:`~ssl_diffusion.annotation.files.import_folders.labels_of_data_set`. Empty labels are ignored. For a
            multi-label job a CSV file has a column of 0 and 1 for each class, and a label of .jsonl is a list.
        annotator: Annotator of labels for which the file names none.
        add_class: Whether to add classes that the job does not have, together with the labels; otherwise they are refused.
        final: Whether these labels override the votes of others.

    Raises:
        DataError: If the file cannot be read, names samples or classes that the job does not have, or has different labels for
            a sample by the same annotator; nothing is imported then.

    Example:
        >>> import_labels(open_job(Path("job")), Path("labels.csv"), annotator="ada")  # doctest: +SKIP
    """
    who = annotator or _WHO
    if is_data_set(path) and not (path / "labels.csv").is_file():
        records = [LabelRecord(id_, label, who, where) for id_, label, where in labels_of_data_set(job, path)]
    else:
        classes = job.store.classes_in_use if job.store.multilabel else None
        records = read_labels(path / "labels.csv" if path.is_dir() else path, who, classes)
    return apply_records(job, records, str(path), "import", add_class=add_class, final=final)


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
    for record in records:
        check_text(f"{name}, {record.where}: the annotator", record.annotator)
    known, classes = set(job.store.ids.tolist()), job.store.classes_in_use
    if unknown := [record for record in records if record.id not in known]:
        ids = f"its ids look like {sorted(known)[0]!r}"
        raise DataError(f"{name}: {_listed(record.id for record in unknown)} not in the job ({unknown[0].where}); {ids}")
    named = (name for r in records for name in ((r.label,) if isinstance(r.label, str) else r.label or ()))
    new = tuple(dict.fromkeys(name for name in named if name not in classes))
    if new and not add_class:
        known_classes = f"the job has {_named(classes)}" if classes else "the job has no classes yet"
        raise DataError(
            f"{name}: {_listed(new)} no class of the job ({known_classes}): correct the file, or add them with --add-class"
        )
    by_sample: dict[tuple[str, str], LabelRecord] = {}
    conflicts = []
    for record in records:
        before = by_sample.setdefault((record.id, record.annotator), record)
        if not before.says(record.label):
            one, other = (shown(r.label if isinstance(r.label, str | None) else said(r.label)) for r in (before, record))
            conflicts.append(f"{record.id} is {one} ({before.where}) and {other} ({record.where})")
    if conflicts:
        more = f", and {len(conflicts) - _SHOWN} more" if len(conflicts) > _SHOWN else ""
        raise DataError(f"{name} contradicts itself: {'; '.join(conflicts[:_SHOWN])}{more}: nothing was imported")
    job.store.apply([_action(record, source, final) for record in by_sample.values()], new)
    labeled = sum(record.label is not None for record in by_sample.values())
    return Imported(labeled, len(by_sample) - labeled, new)


def _action(record: LabelRecord, source: str, final: bool) -> Action:
    by = Actor(record.annotator, source)
    return Action("skip", record.id, by) if record.label is None else Action("label", record.id, by, record.label, final)


def read_labels(path: Path, annotator: str, classes: Sequence[str] | None = None) -> list[LabelRecord]:
    """Read the labels of a file; see :func:`import_labels`.

    Args:
        path: File.
        annotator: Annotator of labels for which the file names none.
        classes: Classes of a multi-label job, of which labels are sets; None for labels of one class.

    Example:
        >>> read_labels(Path("labels.csv"), "ada")  # doctest: +SKIP
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        return _from_table(path, annotator) if classes is None else _sets_from_table(path, annotator, classes)
    try:
        text = read_regular(path, largest=_LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 (byte {error.start}): save it as UTF-8") from None
    if path.suffix.lower() == ".json":
        tasks = read_tasks(parse_json(text, str(path)), str(path))
        return list(from_label_studio(tasks, str(path), multilabel=classes is not None))
    # Not splitlines: a JSON text may hold other line separators of Unicode.
    lines = [(f"line {i}", line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty: it holds no labels")
    return [
        record
        for where, line in lines
        for record in _from_line(parse_json(line, f"{path}, {where}"), annotator, str(path), where, classes is not None)
    ]


def read_tasks(found: Any, name: str) -> list[Task]:
    """Tasks in a JSON export of Label Studio.

    Args:
        found: Parsed JSON.
        name: Name of its origin, for messages.

    Raises:
        DataError: If this is not such an export; names the task and the field.
    """
    if not isinstance(found, list):
        raise DataError(f"{name} is not an export of Label Studio: one is a list of tasks")
    tasks = []
    for k, task in enumerate(found, start=1):
        number = task.get("id") if isinstance(task, dict) else None
        tasks.append(check(Task, task, f"{name}, task {number if isinstance(number, int | str) else k}"))
    return tasks


def from_label_studio(tasks: Iterable[Task], name: str, *, multilabel: bool = False) -> Iterable[LabelRecord]:
    """Labels of tasks, one per annotator and task.

    Cancelled annotations are skips; empty ones and predictions are ignored. Tasks are identified by `data.ssld_id`.

    Args:
        tasks: Tasks with their annotations.
        name: Name of their origin, for messages.
        multilabel: Whether an annotation may have several choices; an empty one says then that there is none of the classes.

    Raises:
        DataError: If ssld did not make a task, or an annotation has several choices.
    """
    for k, task in enumerate(tasks, start=1):
        where = f"task {task.id if task.id is not None else k}"
        if not task.sample:
            raise DataError(f"{name}, {where} has no ssld_id in its data: it was not made by ssld")
        for annotation in task.annotations or []:
            chosen = annotation.labels
            if annotation.was_cancelled:
                yield LabelRecord(task.sample, None, annotation.annotator, where)
            elif multilabel:
                yield LabelRecord(task.sample, tuple(chosen), annotation.annotator, where)
            elif len(chosen) > 1:
                raise DataError(
                    f"{name}, {where} has {len(chosen)} choices, but one label per image is allowed: {_named(chosen)}"
                )
            elif chosen:
                yield LabelRecord(task.sample, chosen[0], annotation.annotator, where)


def _from_table(path: Path, annotator: str) -> list[LabelRecord]:
    table = read_table(path)
    id_column = next(iter(table.any_case("id", "path", "image")), None)
    label_column = next(iter(table.any_case("label", "class")), None)
    if id_column is None or label_column is None:
        raise DataError(f"{path} needs the columns id and label; it has {_named(table.header)}")
    who_column = next(iter(table.any_case("annotator")), None)
    who = table.column(who_column) if who_column is not None else [annotator] * len(table.rows)
    rows = zip(table.column(id_column), table.column(label_column), who, table.numbers, strict=True)
    found = []
    for id_, label, name, number in rows:
        if not label.strip():
            continue
        row = {"id": id_, "label": label.strip(), "annotator": name or annotator}
        check(LabelLine, row, f"{path}, row {number}")
        found.append(LabelRecord(row["id"], row["label"], row["annotator"], f"row {number}"))
    return found


def _sets_from_table(path: Path, annotator: str, classes: Sequence[str]) -> list[LabelRecord]:
    """Labels of a table with a column of 0 and 1 for each class; a row with an empty cell among them has no label."""
    table, notes = read_table(path), list[str]()
    id_column = next(iter(table.any_case("id", "path", "image")), None)
    lacking = [name for name in classes if name not in table.header]
    if id_column is None or lacking:
        what = "column id" if id_column is None else f"columns of 0 and 1 {_named(lacking)}"
        raise DataError(f"{path} needs the {what}, as the job is multi-label; it has {_named(table.header)}")
    columns = [name for name in table.header if name in classes or _is_of_flags(table, name)]
    who_column = next(iter(table.any_case("annotator")), None)
    who = table.column(who_column) if who_column is not None else [annotator] * len(table.rows)
    labels = flag_labels(table, columns, notes)
    for note in notes:
        _log.warning("%s: %s", path, note)
    found = []
    for id_, label, name, number in zip(table.column(id_column), labels, who, table.numbers, strict=True):
        if label is not None:
            row = {"id": id_, "label": [each for each in columns if each in label], "annotator": name or annotator}
            line = check(SetLine, row, f"{path}, row {number}")
            found.append(LabelRecord(line.id, tuple(line.label or ()), name or annotator, f"row {number}"))
    return found


def _is_of_flags(table: Table, name: str) -> bool:
    """Whether a column that is no class of the job seems to be one."""
    cells = {cell.strip() for cell in table.column(name)}
    return name.lower() not in _NO_CLASSES and cells <= {"0", "1", ""} and cells != {""}


def _from_line(row: Any, annotator: str, name: str, where: str, multilabel: bool) -> Iterable[LabelRecord]:
    if not isinstance(row, dict):
        raise DataError(f"{name}, {where} is not an object with id and label")
    if "answer" in row:
        answer = check(ProdigyLine, row, f"{name}, {where}")
        if answer.meta is None:
            raise DataError(f"{name}, {where} has no meta.id: it was not made by ssld")
        who = answer.annotator or answer.annotator_id or annotator
        if answer.answer != "accept":
            yield LabelRecord(answer.meta.id, None, who, where)
        elif multilabel:
            yield LabelRecord(answer.meta.id, tuple(answer.labels), who, where)
        elif len(answer.labels) == 1:
            yield LabelRecord(answer.meta.id, answer.labels[0], who, where)
        elif answer.labels:
            raise DataError(
                f"{name}, {where} has {len(answer.labels)} labels, but one per image is allowed: {_named(answer.labels)}"
            )
        return
    if "id" not in row or "label" not in row:
        raise DataError(f"{name}, {where} needs id and label; it has {_named(row)}")
    if multilabel:
        several = check(SetLine, row, f"{name}, {where}")
        if several.label is not None:
            yield LabelRecord(several.id, tuple(several.label), several.annotator or annotator, where)
        return
    line = check(LabelLine, row, f"{name}, {where}")
    if line.label:
        yield LabelRecord(line.id, line.label, line.annotator or annotator, where)


def _named(names: Iterable[str]) -> str:
    """Names in a message, cut if they are many or long."""
    names = list(names)
    return ", ".join(shown(name)[1:-1] for name in names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    some = ", ".join(map(shown, names[:_SHOWN]))
    return f"{some} is" if len(names) == 1 else f"{some}{' and others' if len(names) > _SHOWN else ''} are"
