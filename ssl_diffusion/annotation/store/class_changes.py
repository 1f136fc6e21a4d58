"""Classes of a job that are added, renamed, merged, removed, and given keys, in the middle of the work.

A class keeps its number for ever, so events keep their meaning. A merged class lends its votes to another; the votes for a
removed class are withdrawn. In a multi-label store sets follow: a removed class leaves them, a merged one becomes the other.
All changes are rows of `class_events`, and the view can still be rebuilt from the events
(:func:`ssl_diffusion.annotation.store.votes.replay`).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ssl_diffusion.annotation.store import schema, statements
from ssl_diffusion.annotation.store.class_examples import move_examples
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.labels import followed, label_in, row_of
from ssl_diffusion.annotation.store.store import Store, add_classes_in
from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.settings import shown

__all__ = [
    "ClassRow",
    "class_rows",
    "class_rows_in",
    "history",
    "merge",
    "remove",
    "rename",
    "set_key",
    "set_target",
    "similar",
]


@dataclass(frozen=True)
class ClassRow:
    """A class.

    Attributes:
        number: Number of the class.
        name: Name of the class.
        key: Key of the keyboard that annotators chose for it; None if they chose none.
        state: "merged" or "removed"; None for a class in use.
        into: Number of the class that a merged one is now.
        target: Number of labels that are wanted of it, 0 for any; None takes the job's setting.
    """

    number: int
    name: str
    key: str | None
    state: str | None
    into: int | None
    target: int | None = None


@retried
def class_rows(store: Store) -> list[ClassRow]:
    """All classes by number, also those that are no longer in use."""
    with store.reading() as connection:
        return class_rows_in(connection)


def class_rows_in(connection: Connection) -> list[ClassRow]:
    """See :func:`class_rows`."""
    return [ClassRow(*row) for row in connection.execute(select(schema.classes).order_by(schema.classes.c.number))]


def similar(name: str, names: Iterable[str]) -> str | None:
    """A class whose name differs only in case, spaces or signs ("Zero" and "zero"); None if there is none.

    Args:
        name: Name of a new class.
        names: Names of the classes in use.
    """
    bare = _bare(name)
    return next((other for other in names if other != name and _bare(other) == bare), None)


def rename(store: Store, name: str, after: str, annotator: str) -> None:
    """Give a class another name; its labels stay.

    Args:
        store: Store of the job.
        name: Name of the class.
        after: New name.
        annotator: Name of the annotator.

    Raises:
        DataError: If there is no such class, the new name is not valid, or another class has or had it.
    """
    _change(store, "renamed", name, after, annotator)


def merge(store: Store, name: str, into: str, annotator: str) -> None:
    """Make one class of two: every label of `name` is one of `into` from now on.

    Args:
        store: Store of the job.
        name: Name of the class that ends.
        into: Name of the class that stays.
        annotator: Name of the annotator.

    Raises:
        DataError: If one of the classes does not exist, or both are the same.
    """
    _change(store, "merged", name, into, annotator)


def remove(store: Store, name: str, annotator: str) -> None:
    """Remove a class; the labels of this class are withdrawn, and their samples have to be labeled again.

    In a multi-label store the other classes of a set stay, and so the sample is labeled.

    Args:
        store: Store of the job.
        name: Name of the class.
        annotator: Name of the annotator.

    Raises:
        DataError: If there is no such class.
    """
    _change(store, "removed", name, "", annotator)


@retried
def set_key(store: Store, name: str, key: str | None) -> None:
    """Choose the key of a class; None leaves it to the page.

    Raises:
        DataError: If there is no such class.
    """
    _set(store, name, key=key)


@retried
def set_target(store: Store, name: str, target: int | None) -> None:
    """Set the number of labels that are wanted of a class: 0 for any, None for the number in the job's settings.

    Raises:
        DataError: If there is no such class.
    """
    _set(store, name, target=target)


def _set(store: Store, name: str, **values: str | int | None) -> None:
    with store.writing() as connection:
        number = _number_of(name, class_rows_in(connection))
        connection.execute(update(schema.classes).where(schema.classes.c.number == number).values(**values))


@retried
def history(store: Store) -> list[dict[str, Any]]:
    """Changes of classes, oldest first: the columns of `class_events`."""
    query = select(schema.class_events).order_by(schema.class_events.c.number)
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


@retried
def _change(store: Store, kind: str, name: str, after: str, annotator: str) -> None:
    statements.check_text("the annotator", annotator)
    with store.writing() as connection:
        rows = class_rows_in(connection)
        number = _number_of(name, rows)
        if kind == "renamed":
            _rename(connection, rows, number, after)
        elif kind == "merged":
            _merge(connection, store, number, _number_of(after, rows), f"{name} (merged into {after})")
        else:
            _remove(connection, store, number, f"{name} (removed)")
        event = {"at": time.time(), "kind": kind, "annotator": annotator, "class": number, "before": name, "after": after}
        event["number"] = statements.next_number(connection, schema.class_events.c.number)
        connection.execute(insert(schema.class_events), [event])


def _rename(connection: Connection, rows: list[ClassRow], number: int, after: str) -> None:
    if other := next((row for row in rows if row.name == after), None):
        raise DataError(f"there is a class {shown(after)} already" + ("" if other.state else ": merge the two"))
    events = schema.class_events.c
    # Models are fitted to names: one that had another meaning would be taken for it.
    had = select(events.number).where(events.before == after, events["class"] != number)
    if connection.execute(had.limit(1)).first() is not None:
        raise DataError(f"another class was called {shown(after)} before: choose another name")
    add_classes_in(connection, [after], check_only=True)
    connection.execute(update(schema.classes).where(schema.classes.c.number == number).values(name=after))


def _merge(connection: Connection, store: Store, number: int, into: int, named: str) -> None:
    if number == into:
        raise DataError("a class cannot be merged into itself")
    votes, classes = schema.votes.c, schema.classes.c
    positions = list(connection.execute(select(votes.position).where(votes["class"] == number).distinct()).scalars())
    positions += _in_sets(connection, {number: into})
    connection.execute(update(schema.votes).where(votes["class"] == number).values({"class": into}))
    connection.execute(update(schema.review).where(schema.review.c.suggested == number).values(suggested=into))
    move_examples(connection, number, into)
    connection.execute(update(schema.classes).where(classes.into == number).values(into=into))
    _retire(connection, number, named, "merged", into)
    _write(connection, store, positions)


def _remove(connection: Connection, store: Store, number: int, named: str) -> None:
    votes = schema.votes.c
    positions = list(connection.execute(select(votes.position).where(votes["class"] == number).distinct()).scalars())
    positions += _in_sets(connection, {number: None})
    connection.execute(delete(schema.votes).where(votes["class"] == number))
    connection.execute(update(schema.review).where(schema.review.c.suggested == number).values(suggested=None))
    move_examples(connection, number, None)
    _retire(connection, number, named, "removed", None)
    _write(connection, store, positions)


def _in_sets(connection: Connection, retired: dict[int, int | None]) -> list[int]:
    """Change the sets of a multi-label store that have a class; returns the positions of their samples."""
    votes, changed = schema.votes.c, []
    having = select(votes.position, votes.annotator, votes.classes).where(votes.classes.contains(str(next(iter(retired)))))
    for position, annotator, numbers in connection.execute(having).all():
        before = label_in(None, numbers)
        if (after := followed(before, retired)) != before:
            own = (votes.position == position) & (votes.annotator == annotator)
            connection.execute(update(schema.votes).where(own).values(row_of(after)))
            changed.append(position)
    return changed


def _retire(connection: Connection, number: int, named: str, state: str, into: int | None) -> None:
    taken = set(connection.execute(select(schema.classes.c.name)).scalars())
    name, n = named, 2
    while name in taken:
        name, n = f"{named} {n}", n + 1
    facts = {"name": name, "key": None, "state": state, "into": into, "target": None}
    connection.execute(update(schema.classes).where(schema.classes.c.number == number).values(facts))


def _write(connection: Connection, store: Store, positions: list[int]) -> None:
    """Write the status of samples whose votes have changed."""
    flags = statements.flags_of(connection, positions)
    statements.write_status(connection, statements.votes_of(connection, positions), flags, store.agreement)


def _number_of(name: str, rows: list[ClassRow]) -> int:
    in_use = {row.name: row.number for row in rows if row.state is None}
    if name not in in_use:
        raise DataError(f"the job has no class {shown(name)}; {nearest_names(name, in_use)}")
    return in_use[name]


def _bare(name: str) -> str:
    bare = "".join(c for c in name.casefold() if c.isalnum())
    return bare or name
