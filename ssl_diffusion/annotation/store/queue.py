"""Rounds of samples to be labeled, and who is at which: one annotator at a time, unless a sample needs more votes.

The queue is the batch of the last round. A lease is held by one tab of one annotator; it ends when something is said of the
sample, or when it expires, so that what somebody walked away from comes back.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Exists, Select, and_, bindparam, delete, exists, func, insert, select, update

from ssl_diffusion.annotation.store import schema as t
from ssl_diffusion.annotation.store import statements as r
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.errors import DataError

__all__ = [
    "LeasedSample",
    "QueueEntry",
    "RoundBatch",
    "add_round",
    "batch_of",
    "drawn",
    "last_round",
    "lease",
    "pending",
    "release",
    "reorder",
    "take",
]

LEASE = 600.0  # seconds

_LAST = select(func.max(t.rounds.c.number)).scalar_subquery()  # number of the last round


@dataclass(frozen=True)
class QueueEntry:
    """A sample that a round asks for.

    Attributes:
        position: of the sample.
        note: why it was chosen, in words.
        draw: its number in the order of drawing, from 1; None for what no strategy drew (the audit, what was left over).
        utility: None likewise.
        probability: with which it was drawn, given those before it; None likewise.
        predicted: class number by the model that was asked; None if it has no classes.
    """

    position: int
    note: str
    draw: int | None = None
    utility: float | None = None
    probability: float | None = None
    predicted: int | None = None


@dataclass(frozen=True)
class RoundBatch:
    """What is to be labeled in a round.

    Attributes:
        strategy: that chose it.
        reason: why that strategy, in a sentence.
        seed: of its draws.
        model: the model that was asked, in a few words.
        n_open: samples among which it was drawn.
        asked: samples in the order of asking.
    """

    strategy: str
    reason: str
    seed: int
    model: str
    n_open: int
    asked: Sequence[QueueEntry]


@dataclass(frozen=True)
class LeasedSample:
    """A sample that is to be labeled: its id, why it was chosen, and whether it is in dispute."""

    position: int
    id: str
    note: str
    status: str


def add_round(store: Store, batch: RoundBatch) -> int:
    """Make a batch the queue; returns the number of the round, from 1."""
    with store.writing() as connection:
        number = r.next_number(connection, t.rounds.c.number)
        facts = {"strategy": batch.strategy, "reason": batch.reason, "seed": batch.seed, "model": batch.model}
        now = time.time()
        connection.execute(insert(t.rounds).values(number=number, at=now, n_open=batch.n_open, **facts))
        first = r.next_number(connection, t.events.c.number)
        rows, happened = [], []
        for i, item in enumerate(batch.asked):
            drawn: dict[str, Any] = {"position": item.position, "utility": item.utility, "probability": item.probability}
            place = {"round": number, "place": float(i), "draw": item.draw, "predicted": item.predicted, "note": item.note}
            rows.append(drawn | place)
            event = {"number": first + i, "at": now, "kind": "queried", "annotator": "", "final": False}
            happened.append(drawn | event | {"source": batch.strategy, "model": batch.model})
        r.insert_rows(connection, t.batch, rows)
        r.insert_rows(connection, t.events, happened)
    return number


def last_round(store: Store) -> dict[str, Any] | None:
    """Facts of the last round (columns of `rounds`), or None before the first."""
    with store.reading() as connection:
        row = connection.execute(select(t.rounds).order_by(t.rounds.c.number.desc()).limit(1)).mappings().first()
    return dict(row) if row is not None else None


def batch_of(store: Store, number: int) -> list[dict[str, Any]]:
    """The batch of a round in the order of asking: columns of `batch`, with the sample's id and how it stands."""
    query = (
        select(t.batch, t.samples.c.id, t.current.c.status, t.current.c["class"].label("label"))
        .join(t.samples, t.samples.c.position == t.batch.c.position)
        .join(t.current, t.current.c.position == t.batch.c.position, isouter=True)
        .where(t.batch.c.round == number)
        .order_by(t.batch.c.place)
    )
    with store.reading() as connection:
        return [dict(row) | {"status": row["status"] or "open"} for row in connection.execute(query).mappings()]


def pending(store: Store, n: int | None = None) -> NDArray[np.int64]:
    """Positions in the queue that still need votes, in the order of asking; the first n of them."""
    with store.reading() as connection:
        found = connection.execute(_queue(store).limit(n)).all()
    return np.array([row.position for row in found], dtype=np.int64)


def drawn(store: Store) -> NDArray[np.int64]:
    """Positions that the strategy of the last round drew, not the audit nor what was left over."""
    with store.reading() as connection:
        found = connection.execute(select(t.batch.c.position).where(t.batch.c.round == _LAST, t.batch.c.draw.is_not(None)))
        return np.fromiter(found.scalars(), dtype=np.int64)


def reorder(store: Store, positions: NDArray[np.int64]) -> None:
    """Ask for these first, in this order; the others of the queue follow as they were."""
    with store.writing() as connection:
        number = connection.execute(select(func.max(t.rounds.c.number))).scalar_one()
        if number is None:
            return
        rows = connection.execute(select(t.batch.c.position, t.batch.c.place).where(t.batch.c.round == number))
        before = dict(sorted(rows.all(), key=lambda row: float(row[1])))
        after = enumerate(dict.fromkeys([*positions.tolist(), *before]))
        moved = [{"moved": position, "to": float(place)} for place, position in after if before.get(position) != place]
        if moved:
            where = and_(t.batch.c.round == number, t.batch.c.position == bindparam("moved"))
            connection.execute(update(t.batch).where(where).values(place=bindparam("to")), moved)


def lease(store: Store, annotator: str, holder: str, n: int = 1, seconds: float = LEASE) -> list[LeasedSample]:
    """Take the next samples of the queue; what the holder has already comes first.

    Args:
        store: of the job.
        annotator: who will label.
        holder: the tab or program of the annotator; another one gets other samples.
        n: samples to take.
        seconds: until they may be given to others.

    Returns:
        At most n; fewer where the queue has no more for this annotator.
    """
    if n < 1:
        raise DataError(f"one sample or more can be taken, not {n}")
    now = time.time()
    with store.writing() as connection:
        connection.execute(delete(t.leases).where(t.leases.c.until <= now))
        has = (
            select(t.leases.c.position, t.samples.c.id, t.current.c.status)
            .join(t.samples, t.samples.c.position == t.leases.c.position)
            .join(t.current, t.current.c.position == t.leases.c.position, isouter=True)
            .where(t.leases.c.holder == holder, ~_said(t.leases.c.position, annotator))
        )
        mine = {row.position: LeasedSample(row.position, row.id, "", row.status or "open") for row in connection.execute(has)}
        own = select(t.leases.c.position).where(t.leases.c.annotator == annotator, t.leases.c.holder != holder)
        others = (
            select(t.leases.c.position, func.count().label("taken"))
            .where(t.leases.c.holder != holder)
            .group_by(t.leases.c.position)
            .subquery()
        )
        asked = func.coalesce(t.samples.c.wanted, store.agreement)
        votes = func.coalesce(t.current.c.votes, 0)
        short = func.coalesce(others.c.taken, 0) < asked - votes
        # A tie asks for one more vote than there are.
        tied = and_(t.current.c.status == "disputed", func.coalesce(others.c.taken, 0) < 1)
        query = (
            _queue(store)
            .join(others, others.c.position == t.batch.c.position, isouter=True)
            .where(~_said(t.batch.c.position, annotator), t.batch.c.position.not_in(own), short | tied)
        )
        kept = _items(connection, query.where(t.batch.c.position.in_(mine))) if mine else []
        fresh_ones = _items(connection, query.where(t.batch.c.position.not_in(mine)).limit(n))
        # What the holder has may be of an earlier round, taken back or under review.
        in_queue = {item.position for item in kept}
        items = ([item for position, item in mine.items() if position not in in_queue] + kept + fresh_ones)[:n]
        taken = [item.position for item in items]
        connection.execute(delete(t.leases).where(t.leases.c.holder == holder))
        rows = [{"position": p, "holder": holder, "annotator": annotator, "until": now + seconds} for p in taken]
        r.insert_rows(connection, t.leases, rows)
        number, fresh = r.next_number(connection, t.events.c.number), [p for p in taken if p not in mine]
        event = {"at": now, "kind": "shown", "annotator": annotator, "final": False, "source": "page"}
        r.insert_rows(connection, t.events, [{"number": number + i, "position": p, **event} for i, p in enumerate(fresh)])
    return items


def release(store: Store, holder: str) -> None:
    """Give back what a holder has."""
    with store.writing() as connection:
        connection.execute(delete(t.leases).where(t.leases.c.holder == holder))


def take(store: Store, id_: str, annotator: str, holder: str, seconds: float = LEASE) -> None:
    """Take one sample, of the queue or not, whoever else is at it: to correct it, or to settle a dispute.

    Raises:
        DataError: if there is no such sample.
    """
    with store.writing() as connection:
        (position,) = r.positions_of(connection, [id_]).tolist()
        connection.execute(delete(t.leases).where(t.leases.c.holder == holder))
        row = {"position": position, "holder": holder, "annotator": annotator, "until": time.time() + seconds}
        r.insert_rows(connection, t.leases, [row])


def _said(position: "ColumnElement[int]", annotator: str) -> "Exists":
    """Whether an annotator has a vote on a sample."""
    return exists().where(t.votes.c.position == position, t.votes.c.annotator == annotator)


def _items(connection: Connection, query: "Select[tuple[int, str, str, str]]") -> list[LeasedSample]:
    return [LeasedSample(row.position, row.id, row.note, row.status or "open") for row in connection.execute(query)]


def _queue(store: Store) -> Select[tuple[int, str, str, str]]:
    """Samples of the last round that need votes: position, id, note, status; in the order of asking."""
    return (
        select(t.batch.c.position, t.samples.c.id, t.batch.c.note, t.current.c.status)
        .join(t.samples, t.samples.c.position == t.batch.c.position)
        .join(t.current, t.current.c.position == t.batch.c.position, isouter=True)
        .where(t.batch.c.round == _LAST, func.coalesce(t.current.c.status, "open").in_(["open", "partial", "disputed"]))
        .order_by(t.batch.c.place)
    )
