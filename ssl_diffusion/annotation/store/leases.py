"""The queue of samples to label, and the leases on them: one annotator at a time, unless a sample requires more votes.

The queue is the batch of the last round. A lease belongs to one tab of one annotator; it ends with the annotator's vote, when
the tab is closed, or when it expires, so that abandoned samples return to the queue.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Exists, Select, and_, bindparam, delete, exists, func, insert, select, update

from ssl_diffusion.annotation.store import schema, statements
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.errors import DataError

__all__ = [
    "LeasedSample",
    "QueueEntry",
    "RoundBatch",
    "add_round",
    "ahead",
    "batch_of",
    "drawn",
    "last_round",
    "last_round_in",
    "lease",
    "lease_these",
    "pending",
    "pending_in",
    "release",
    "reorder",
    "take",
]

LEASE = 600.0  # seconds

_LAST = select(func.max(schema.rounds.c.number)).scalar_subquery()  # number of the last round


@dataclass(frozen=True)
class QueueEntry:
    """A sample of a round.

    Attributes:
        position: Position of the sample.
        note: Reason for the choice, shown to annotators.
        draw: Rank in the order of drawing, from 1; None for a sample that no strategy drew (audit, carried over).
        utility: Utility at the draw; None likewise.
        probability: Probability of the draw given the earlier draws; None likewise.
        predicted: Class number predicted by the model that chose it; None without a classifier.
    """

    position: int
    note: str
    draw: int | None = None
    utility: float | None = None
    probability: float | None = None
    predicted: int | None = None


@dataclass(frozen=True)
class RoundBatch:
    """Samples to label in a round.

    Attributes:
        strategy: Name of the strategy.
        reason: Why this strategy was used, as a sentence.
        seed: Seed of the draws.
        model: Description of the model that chose.
        n_open: Number of samples that could have been drawn.
        entries: Samples in queue order.
    """

    strategy: str
    reason: str
    seed: int
    model: str
    n_open: int
    entries: Sequence[QueueEntry]


@dataclass(frozen=True)
class LeasedSample:
    """A sample handed to an annotator.

    Attributes:
        position: Position of the sample.
        id: Sample id.
        note: Reason for the choice.
        status: Status of the sample.
        until: End of the lease, in seconds since 1970.
    """

    position: int
    id: str
    note: str
    status: str
    until: float = 0.0


def add_round(store: Store, batch: RoundBatch) -> int:
    """Make a batch the queue; returns the number of its round, from 1."""
    with store.writing() as connection:
        number = statements.next_number(connection, schema.rounds.c.number)
        facts = {"strategy": batch.strategy, "reason": batch.reason, "seed": batch.seed, "model": batch.model}
        now = time.time()
        connection.execute(insert(schema.rounds).values(number=number, at=now, n_open=batch.n_open, **facts))
        first = statements.next_number(connection, schema.events.c.number)
        rows, happened = [], []
        for i, item in enumerate(batch.entries):
            drawn: dict[str, Any] = {"position": item.position, "utility": item.utility, "probability": item.probability}
            place = {"round": number, "place": float(i), "draw": item.draw, "predicted": item.predicted, "note": item.note}
            rows.append(drawn | place)
            event = {"number": first + i, "at": now, "kind": "queried", "annotator": "", "final": False}
            happened.append(drawn | event | {"source": batch.strategy, "model": batch.model})
        statements.insert_rows(connection, schema.batch, rows)
        statements.insert_rows(connection, schema.events, happened)
    return number


@retried
def last_round(store: Store) -> dict[str, Any] | None:
    """The last round (columns of `rounds`), or None before the first."""
    with store.reading() as connection:
        return last_round_in(connection)


def last_round_in(connection: Connection) -> dict[str, Any] | None:
    """See :func:`last_round`."""
    query = select(schema.rounds).order_by(schema.rounds.c.number.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return dict(row) if row is not None else None


@retried
def batch_of(store: Store, number: int) -> list[dict[str, Any]]:
    """The batch of a round in queue order: columns of `batch`, with the sample's id, status and label (class number)."""
    query = (
        select(schema.batch, schema.samples.c.id, schema.current.c.status, schema.current.c["class"].label("label"))
        .join(schema.samples, schema.samples.c.position == schema.batch.c.position)
        .join(schema.current, schema.current.c.position == schema.batch.c.position, isouter=True)
        .where(schema.batch.c.round == number)
        .order_by(schema.batch.c.place)
    )
    with store.reading() as connection:
        return [dict(row) | {"status": row["status"] or "open"} for row in connection.execute(query).mappings()]


@retried
def pending(store: Store, n: int | None = None) -> NDArray[np.int64]:
    """Positions in the queue that still need votes, in order; at most n."""
    with store.reading() as connection:
        return pending_in(connection, n)


def pending_in(connection: Connection, n: int | None = None) -> NDArray[np.int64]:
    """See :func:`pending`."""
    return np.array([row.position for row in connection.execute(_queue().limit(n))], dtype=np.int64)


@retried
def drawn(store: Store) -> NDArray[np.int64]:
    """Positions that the strategy of the last round drew, without the audit and what was carried over."""
    query = select(schema.batch.c.position).where(schema.batch.c.round == _LAST, schema.batch.c.draw.is_not(None))
    with store.reading() as connection:
        return np.fromiter(connection.execute(query).scalars(), dtype=np.int64)


@retried
def reorder(store: Store, positions: NDArray[np.int64]) -> None:
    """Move these to the front of the queue, in this order; the others keep theirs."""
    with store.writing() as connection:
        number = connection.execute(select(func.max(schema.rounds.c.number))).scalar_one()
        if number is None:
            return
        rows = connection.execute(select(schema.batch.c.position, schema.batch.c.place).where(schema.batch.c.round == number))
        before = dict(sorted(rows.all(), key=lambda row: float(row[1])))
        after = enumerate(dict.fromkeys([*positions.tolist(), *before]))
        moved = [{"moved": position, "to": float(place)} for place, position in after if before.get(position) != place]
        if moved:
            where = and_(schema.batch.c.round == number, schema.batch.c.position == bindparam("moved"))
            connection.execute(update(schema.batch).where(where).values(place=bindparam("to")), moved)


@retried
def lease(store: Store, annotator: str, holder: str, n: int = 1, seconds: float = LEASE) -> list[LeasedSample]:
    """Lease the next samples of the queue; samples that the holder has already come first.

    If there are no others, samples that other tabs of the same annotator have are taken over: such a tab may have been lost.

    Args:
        store: Store of the job.
        annotator: Name of the annotator.
        holder: Tab or program of the annotator; another holder gets other samples.
        n: Samples to lease.
        seconds: Duration of the lease, after which others may get the samples.

    Returns:
        At most n samples; fewer if the queue has no more for this annotator.

    Raises:
        DataError: If n is not positive, or a name cannot be stored.
    """
    if n < 1:
        raise DataError(f"n is {n}: lease one sample or more")
    statements.check_text("the annotator", annotator)
    statements.check_text("the holder", holder)
    now = time.time()
    with store.writing() as connection:
        connection.execute(delete(schema.leases).where(schema.leases.c.until <= now))
        has = (
            select(schema.leases.c.position, schema.samples.c.id, schema.current.c.status)
            .join(schema.samples, schema.samples.c.position == schema.leases.c.position)
            .join(schema.current, schema.current.c.position == schema.leases.c.position, isouter=True)
            .where(schema.leases.c.holder == holder, ~_has_vote(schema.leases.c.position, annotator))
        )
        mine = {row.position: LeasedSample(row.position, row.id, "", row.status or "open") for row in connection.execute(has)}
        query = _free(annotator, holder, store.agreement)
        elsewhere = _of_other_tabs(annotator, holder)
        others = query.where(schema.batch.c.position.not_in(elsewhere))
        kept = _items(connection, others.where(schema.batch.c.position.in_(mine))) if mine else []
        fresh_ones = _items(connection, others.where(schema.batch.c.position.not_in(mine)).limit(n))
        # A sample that the holder has may be of an earlier round, un-labeled again, or under review.
        in_queue = {item.position for item in kept}
        items = ([item for position, item in mine.items() if position not in in_queue] + kept + fresh_ones)[:n]
        if not items:
            items = _items(connection, query.where(schema.batch.c.position.in_(elsewhere)).limit(n))
            lost = schema.leases.c.position.in_([item.position for item in items])
            connection.execute(delete(schema.leases).where(schema.leases.c.annotator == annotator, lost))
        taken = [item.position for item in items]
        connection.execute(delete(schema.leases).where(schema.leases.c.holder == holder))
        rows = [{"position": p, "holder": holder, "annotator": annotator, "until": now + seconds} for p in taken]
        statements.insert_rows(connection, schema.leases, rows)
        number = statements.next_number(connection, schema.events.c.number)
        fresh = [p for p in taken if p not in mine]
        event = {"at": now, "kind": "shown", "annotator": annotator, "final": False, "source": "page"}
        statements.insert_rows(
            connection, schema.events, [{"number": number + i, "position": p, **event} for i, p in enumerate(fresh)]
        )
    return [replace(item, until=now + seconds) for item in items]


@retried
def ahead(store: Store, annotator: str, holder: str, n: int) -> list[LeasedSample]:
    """Samples that a holder would get after those that it has, at most n; they are not leased."""
    has = select(schema.leases.c.position).where(schema.leases.c.annotator == annotator)
    query = _free(annotator, holder, store.agreement).where(schema.batch.c.position.not_in(has))
    with store.reading() as connection:
        return _items(connection, query.limit(n))


@retried
def release(store: Store, holder: str, until: float = math.inf, after: float = 0.0) -> None:
    """End leases of a holder.

    Args:
        store: Store of the job.
        holder: Tab or program of an annotator.
        until: Latest end of the leases meant, in seconds since 1970: a lease that was renewed in the meantime stays.
        after: Seconds from now after which they end.
    """
    statements.check_text("the holder", holder)
    mine = and_(schema.leases.c.holder == holder, schema.leases.c.until <= until)
    with store.writing() as connection:
        if after:
            end = time.time() + after
            connection.execute(update(schema.leases).where(mine, schema.leases.c.until > end).values(until=end))
        else:
            connection.execute(delete(schema.leases).where(mine))


@retried
def take(store: Store, id_: str, annotator: str, holder: str, seconds: float = LEASE) -> LeasedSample:
    """Lease one sample, in the queue or not and whoever else has it: to correct it, or to settle a dispute.

    Args:
        store: Store of the job.
        id_: Sample id.
        annotator: Name of the annotator.
        holder: Tab or program of the annotator; its other leases end.
        seconds: Duration of the lease.

    Raises:
        DataError: If there is no such sample, or a name cannot be stored.
    """
    statements.check_text("the annotator", annotator)
    statements.check_text("the holder", holder)
    with store.writing() as connection:
        (position,) = statements.positions_of(connection, [id_]).tolist()
        connection.execute(delete(schema.leases).where(schema.leases.c.holder == holder))
        until = time.time() + seconds
        row = {"position": position, "holder": holder, "annotator": annotator, "until": until}
        statements.insert_rows(connection, schema.leases, [row])
        status = select(schema.current.c.status).where(schema.current.c.position == position)
        return LeasedSample(position, id_, "", connection.execute(status).scalar_one_or_none() or "open", until)


@retried
def lease_these(
    store: Store, positions: "NDArray[np.int64]", annotator: str, holder: str, seconds: float = LEASE
) -> list[LeasedSample]:
    """Lease several samples, in the queue or not; those that somebody else has got in the meantime are left out.

    Args:
        store: Store of the job.
        positions: Positions of the samples, in the order of the result.
        annotator: Name of the annotator.
        holder: Tab or program of the annotator; its other leases end.
        seconds: Duration of the lease.

    Raises:
        DataError: If a name cannot be stored.
    """
    statements.check_text("the annotator", annotator)
    statements.check_text("the holder", holder)
    now, wanted = time.time(), positions.tolist()
    with store.writing() as connection:
        gone = (schema.leases.c.holder == holder) | (schema.leases.c.until <= now)
        connection.execute(delete(schema.leases).where(gone))
        taken: set[int] = set()
        rows: dict[int, tuple[str, str]] = {}
        for part in statements.parts(wanted):
            taken |= set(
                connection.execute(select(schema.leases.c.position).where(schema.leases.c.position.in_(part))).scalars()
            )
            query = (
                select(schema.samples.c.position, schema.samples.c.id, schema.current.c.status)
                .join(schema.current, schema.current.c.position == schema.samples.c.position, isouter=True)
                .where(schema.samples.c.position.in_(part))
            )
            rows |= {row.position: (row.id, row.status or "open") for row in connection.execute(query)}
        free, until = [p for p in wanted if p not in taken], now + seconds
        leased = [{"position": p, "holder": holder, "annotator": annotator, "until": until} for p in free]
        statements.insert_rows(connection, schema.leases, leased)
        number = statements.next_number(connection, schema.events.c.number)
        event = {"at": now, "kind": "shown", "annotator": annotator, "final": False, "source": "page"}
        happened = [{"number": number + i, "position": p, **event} for i, p in enumerate(free)]
        statements.insert_rows(connection, schema.events, happened)
    return [LeasedSample(p, rows[p][0], "", rows[p][1], until) for p in free]


def _of_other_tabs(annotator: str, holder: str) -> "Select[tuple[int]]":
    """Positions that other tabs of an annotator have."""
    has = schema.leases.c
    return select(has.position).where(has.annotator == annotator, has.holder != holder)


def _free(annotator: str, holder: str, agreement: int) -> "Select[tuple[int, str, str, str]]":
    """Samples of the queue that an annotator may vote on: those that lack more votes than other annotators may be giving."""
    others = (
        select(schema.leases.c.position, func.count().label("taken"))
        .where(schema.leases.c.holder != holder, schema.leases.c.annotator != annotator)
        .group_by(schema.leases.c.position)
        .subquery()
    )
    required = func.coalesce(schema.samples.c.wanted, agreement)
    votes = func.coalesce(schema.current.c.votes, 0)
    short = func.coalesce(others.c.taken, 0) < required - votes
    # A tie requires one more vote.
    tied = and_(schema.current.c.status == "disputed", func.coalesce(others.c.taken, 0) < 1)
    return (
        _queue()
        .join(others, others.c.position == schema.batch.c.position, isouter=True)
        .where(~_has_vote(schema.batch.c.position, annotator), short | tied)
    )


def _has_vote(position: "ColumnElement[int]", annotator: str) -> "Exists":
    """Whether an annotator has a vote on a sample."""
    return exists().where(schema.votes.c.position == position, schema.votes.c.annotator == annotator)


def _items(connection: Connection, query: "Select[tuple[int, str, str, str]]") -> list[LeasedSample]:
    return [LeasedSample(row.position, row.id, row.note, row.status or "open") for row in connection.execute(query)]


def _queue() -> Select[tuple[int, str, str, str]]:
    """Samples of the last round that need votes: position, id, note, status; in queue order."""
    return (
        select(schema.batch.c.position, schema.samples.c.id, schema.batch.c.note, schema.current.c.status)
        .join(schema.samples, schema.samples.c.position == schema.batch.c.position)
        .join(schema.current, schema.current.c.position == schema.batch.c.position, isouter=True)
        .where(
            schema.batch.c.round == _LAST, func.coalesce(schema.current.c.status, "open").in_(["open", "partial", "disputed"])
        )
        .order_by(schema.batch.c.place)
    )
