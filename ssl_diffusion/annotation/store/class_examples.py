"""Labeled samples that show what a class looks like: those that people chose, and those that could be shown else.

An example stands while its sample is labeled and has the class; what becomes of its label is never held up by it.
"""

import time
from collections import defaultdict

from sqlalchemy import Connection, case, delete, func, insert, select, update

from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.labels import Label, label_in
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.settings import shown

__all__ = ["MOST", "agreed_in", "choose", "chosen", "chosen_in", "move_examples", "unchoose"]

MOST = 4
"""Number of examples that are kept of a class."""


@retried
def choose(store: Store, id_: str, name: str) -> None:
    """Make a sample an example of a class; of more than four examples the oldest ends.

    Args:
        store: Store of the job.
        id_: Sample id.
        name: Name of the class.

    Raises:
        DataError: If there is no such sample or class, or the sample is not labeled, or has another class.
    """
    (position,) = store.positions([id_]).tolist()
    with store.writing() as connection:
        number = _number_of(connection, name)
        now, examples = schema.current.c, schema.examples.c
        row = connection.execute(select(now.status, now["class"], now.classes).where(now.position == position)).first()
        label = label_in(row[1], row[2]) if row is not None and row.status == "labeled" else None
        if not _has(label, number):
            raise DataError(f"{id_} is not labeled {shown(name)}: an example of a class is an image that has it")
        connection.execute(delete(schema.examples).where(examples["class"] == number, examples.position == position))
        connection.execute(insert(schema.examples), [{"class": number, "position": position, "at": time.time()}])
        kept = select(examples.position).where(examples["class"] == number)
        for old in connection.execute(kept.order_by(examples.at.desc(), examples.position).offset(MOST)).scalars().all():
            connection.execute(delete(schema.examples).where(examples["class"] == number, examples.position == old))


@retried
def unchoose(store: Store, id_: str, name: str) -> None:
    """End a sample as an example of a class; nothing happens if it is none.

    Raises:
        DataError: If there is no such sample or class.
    """
    (position,) = store.positions([id_]).tolist()
    examples = schema.examples.c
    with store.writing() as connection:
        number = _number_of(connection, name)
        connection.execute(delete(schema.examples).where(examples["class"] == number, examples.position == position))


@retried
def chosen(store: Store) -> dict[int, list[int]]:
    """Positions of the examples that were chosen and stand, by the number of their class, the latest first."""
    with store.reading() as connection:
        return chosen_in(connection)


def chosen_in(connection: Connection) -> dict[int, list[int]]:
    """See :func:`chosen`."""
    examples, now = schema.examples.c, schema.current.c
    query = (
        select(examples["class"].label("of"), examples.position, now["class"], now.classes)
        .join(schema.current, now.position == examples.position)
        .where(now.status == "labeled")
        .order_by(examples.at.desc(), examples.position)
    )
    found: dict[int, list[int]] = defaultdict(list)
    for number, position, label, labels in connection.execute(query):
        if _has(label_in(label, labels), number):
            found[number].append(position)
    return dict(found)


def agreed_in(connection: Connection) -> list[tuple[int, Label, int]]:
    """Labeled samples on which nobody disagrees, and no flag is set: position, label, and number of votes for it."""
    now, votes, samples = schema.current.c, schema.votes.c, schema.samples.c
    same = (votes["class"] == now["class"]) | (votes.classes == now.classes)
    against = func.sum(case((same, 0), else_=1))
    query = (
        select(now.position, now["class"], now.classes, func.count())
        .join(schema.votes, votes.position == now.position)
        .join(schema.samples, samples.position == now.position)
        .where(now.status == "labeled", now.flagged.is_(False), samples.role != "test")
        .group_by(now.position, now["class"], now.classes)
        .having(against == 0)
        .order_by(now.position)
    )
    rows = ((row[0], label_in(row[1], row[2]), row[3]) for row in connection.execute(query))
    return [(position, label, n) for position, label, n in rows if label is not None]


def move_examples(connection: Connection, number: int, into: int | None) -> None:
    """Give the examples of a class that ends to the one that it becomes; None ends them, too."""
    examples = schema.examples.c
    if into is not None:
        there = select(examples.position).where(examples["class"] == into)
        known = list(connection.execute(there).scalars())
        move = update(schema.examples).where(examples["class"] == number, examples.position.not_in(known))
        connection.execute(move.values({"class": into}))
    connection.execute(delete(schema.examples).where(examples["class"] == number))


def _has(label: Label | None, number: int) -> bool:
    return number in label if isinstance(label, tuple) else label == number


def _number_of(connection: Connection, name: str) -> int:
    rows = connection.execute(select(schema.classes.c.name, schema.classes.c.number).where(schema.classes.c.state.is_(None)))
    in_use: dict[str, int] = {row.name: row.number for row in rows}
    if name not in in_use:
        raise DataError(f"the job has no class {shown(name)}; {nearest_names(name, in_use)}")
    return in_use[name]
