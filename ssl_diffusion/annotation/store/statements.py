"""Reading and writing rows of the store by position, in statements that databases take."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Column, Connection, Table, and_, delete, func, insert, select

from ssl_diffusion.annotation.store import schema as t
from ssl_diffusion.annotation.store.votes import Status, Vote, status_of
from ssl_diffusion.errors import DataError

__all__ = [
    "end_leases",
    "flags_of",
    "insert_rows",
    "known_of",
    "next_number",
    "parts",
    "positions_of",
    "replace_votes",
    "settle",
    "stands",
    "votes_of",
    "wanted_of",
]

_MANY = 1000  # rows of one statement; SQLite takes 32,766 values
_T = TypeVar("_T")
Votes = Mapping[str, tuple[Vote, int]]
"""By annotator: the vote and the number of its event."""


def parts(values: Iterable[_T]) -> Iterator[list[_T]]:
    """Values in lists short enough for one statement."""
    rest = iter(values)
    while part := list(islice(rest, _MANY)):
        yield part


def insert_rows(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows."""
    for part in parts(rows):
        connection.execute(insert(table), part)


def next_number(connection: Connection, column: "Column[int]", first: int = 1) -> int:
    """One more than the largest; the caller writes, so nobody else takes it."""
    number: int = connection.execute(select(func.coalesce(func.max(column), first - 1))).scalar_one() + 1
    return number


def known_of(connection: Connection, ids: Iterable[str]) -> dict[str, int]:
    """Positions by id, of those that are samples."""
    found: dict[str, int] = {}
    for part in parts(dict.fromkeys(ids)):
        found |= dict(connection.execute(select(t.samples.c.id, t.samples.c.position).where(t.samples.c.id.in_(part))).all())
    return found


def positions_of(connection: Connection, ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions of samples by id, (n,).

    Raises:
        DataError: naming the first id that is not in the job.
    """
    found = known_of(connection, ids)
    unknown = [name for name in ids if name not in found]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(f"the job has no sample {unknown[0]!r}{more}")
    return np.array([found[name] for name in ids], dtype=np.int64)


def votes_of(connection: Connection, positions: Iterable[int]) -> dict[int, dict[str, tuple[Vote, int]]]:
    """Votes by position and annotator, in order of time, each with the number of its event."""
    votes: dict[int, dict[str, tuple[Vote, int]]] = {position: {} for position in positions}
    for part in parts(list(votes)):
        query = select(t.votes).where(t.votes.c.position.in_(part)).order_by(t.votes.c.event)
        for position, annotator, label, final, number in connection.execute(query):
            votes[position][annotator] = (Vote(label, final), number)
    return votes


def flags_of(connection: Connection, positions: Iterable[int]) -> dict[int, bool]:
    """Whether each is flagged."""
    flags = dict.fromkeys(positions, False)
    for part in parts(list(flags)):
        query = select(t.current.c.position).where(t.current.c.position.in_(part), t.current.c.flagged)
        flags |= dict.fromkeys(connection.execute(query).scalars(), True)
    return flags


def wanted_of(connection: Connection, positions: Iterable[int], default: int) -> dict[int, int]:
    """Votes that each is asked for."""
    wanted = dict.fromkeys(positions, default)
    for part in parts(list(wanted)):
        rows = t.samples.c.position.in_(part) & t.samples.c.wanted.is_not(None)
        wanted |= dict(connection.execute(select(t.samples.c.position, t.samples.c.wanted).where(rows)).all())
    return wanted


def replace_votes(connection: Connection, pairs: Iterable[tuple[int, str]], votes: Mapping[int, Votes]) -> None:
    """Write the votes of these positions and annotators; those that are not there any more are removed."""
    rows = []
    pairs = list(pairs)
    there = votes_of(connection, [position for position, _ in pairs])
    for position, annotator in pairs:
        if annotator in there[position]:
            own = and_(t.votes.c.position == position, t.votes.c.annotator == annotator)
            connection.execute(delete(t.votes).where(own))
        if (vote := votes[position].get(annotator)) is not None:
            now = {"class": vote[0].label, "final": vote[0].final, "event": vote[1]}
            rows.append({"position": position, "annotator": annotator, **now})
    insert_rows(connection, t.votes, rows)


def end_leases(connection: Connection, pairs: Iterable[tuple[int, str]]) -> None:
    """These annotators are not at these samples any more."""
    pairs = list(pairs)
    held: set[tuple[int, str]] = set()
    for part in parts([position for position, _ in pairs]):
        found = connection.execute(select(t.leases.c.position, t.leases.c.annotator).where(t.leases.c.position.in_(part)))
        held |= {(row.position, row.annotator) for row in found}
    for position, annotator in held.intersection(pairs):
        connection.execute(delete(t.leases).where(and_(t.leases.c.position == position, t.leases.c.annotator == annotator)))


def stands(votes: Votes, wanted: int) -> Status:
    """How a sample with these votes stands."""
    return status_of((vote for vote, _ in sorted(votes.values(), key=lambda pair: pair[1])), wanted)


def settle(connection: Connection, votes: Mapping[int, Votes], flags: Mapping[int, bool], agreement: int) -> None:
    """Write how samples stand."""
    wanted = wanted_of(connection, votes, agreement)
    rows = []
    for position, own in votes.items():
        now = stands(own, wanted[position])
        row = {"position": position, "status": now.status, "class": now.label, "votes": now.votes}
        rows.append(row | {"flagged": flags[position]})
    for part in parts(rows):
        connection.execute(delete(t.current).where(t.current.c.position.in_([row["position"] for row in part])))
        connection.execute(insert(t.current), part)
