"""SQL statements that read and write rows of the store by position, split into parts that databases accept."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Column, Connection, Table, and_, delete, func, insert, select, update

from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.labels import label_in, row_of
from ssl_diffusion.annotation.store.votes import Status, Vote, status_of
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = [
    "check_text",
    "end_leases",
    "flags_of",
    "insert_rows",
    "is_storable",
    "known_of",
    "next_number",
    "parts",
    "positions_of",
    "replace_votes",
    "retired_in",
    "settle",
    "status_from",
    "used_tokens",
    "votes_of",
    "wanted_of",
    "write_status",
]

_MANY = 1000  # rows in one statement; SQLite accepts 32,766 values
_T = TypeVar("_T")
Votes = Mapping[str, tuple[Vote, int]]
"""The vote and the number of its event, by annotator."""


def is_storable(text: str) -> bool:
    """Whether every database stores a text: no half of a surrogate pair, no NUL."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def check_text(what: str, text: str) -> None:
    """Raise :class:`DataError` if a text cannot be stored; `what` says what it is."""
    if not is_storable(text):
        raise DataError(f"{what} {shown(text)} has characters that cannot be stored: write it anew")


def parts(values: Iterable[_T]) -> Iterator[list[_T]]:
    """Split values into lists short enough for one statement."""
    rest = iter(values)
    while part := list(islice(rest, _MANY)):
        yield part


def insert_rows(connection: Connection, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows."""
    for part in parts(rows):
        connection.execute(insert(table), part)


def next_number(connection: Connection, column: "Column[int]", first: int = 1) -> int:
    """The next free number; the caller holds the write transaction, so no one else can take it."""
    number: int = connection.execute(select(func.coalesce(func.max(column), first - 1))).scalar_one() + 1
    return number


def known_of(connection: Connection, ids: Iterable[str]) -> dict[str, int]:
    """Positions by id; unknown ids are left out."""
    found: dict[str, int] = {}
    for part in parts(id_ for id_ in dict.fromkeys(ids) if is_storable(id_)):
        query = select(schema.samples.c.id, schema.samples.c.position).where(schema.samples.c.id.in_(part))
        found |= dict(connection.execute(query).all())
    return found


def positions_of(connection: Connection, ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions of samples by id, (n,).

    Raises:
        DataError: If an id is not in the job; names the first.
    """
    found = known_of(connection, ids)
    unknown = [name for name in ids if name not in found]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(f"the job has no sample {shown(unknown[0])}{more}")
    return np.array([found[name] for name in ids], dtype=np.int64)


def votes_of(connection: Connection, positions: Iterable[int]) -> dict[int, dict[str, tuple[Vote, int]]]:
    """Votes by position and annotator, oldest first, each with the number of its event."""
    votes: dict[int, dict[str, tuple[Vote, int]]] = {position: {} for position in positions}
    for part in parts(list(votes)):
        query = select(schema.votes).where(schema.votes.c.position.in_(part)).order_by(schema.votes.c.event)
        for position, annotator, one, final, number, several in connection.execute(query):
            votes[position][annotator] = (Vote(label_in(one, several), final), number)
    return votes


def retired_in(connection: Connection) -> dict[int, int | None]:
    """Classes that are no longer in use: the class that a merged one is now, None for a removed one, by number."""
    table = schema.classes.c
    query = select(table.number, table.into).where(table.state.is_not(None))
    found: dict[int, int | None] = {row.number: row.into for row in connection.execute(query)}
    # A class that others were merged into may have been removed since.
    return {number: found.get(into, into) if into is not None else None for number, into in found.items()}


def flags_of(connection: Connection, positions: Iterable[int]) -> dict[int, bool]:
    """Whether each is flagged."""
    flags = dict.fromkeys(positions, False)
    for part in parts(list(flags)):
        query = select(schema.current.c.position).where(schema.current.c.position.in_(part), schema.current.c.flagged)
        flags |= dict.fromkeys(connection.execute(query).scalars(), True)
    return flags


def wanted_of(connection: Connection, positions: Iterable[int], default: int) -> dict[int, int]:
    """Number of votes that each sample requires."""
    wanted = dict.fromkeys(positions, default)
    for part in parts(list(wanted)):
        rows = schema.samples.c.position.in_(part) & schema.samples.c.wanted.is_not(None)
        wanted |= dict(connection.execute(select(schema.samples.c.position, schema.samples.c.wanted).where(rows)).all())
    return wanted


def replace_votes(connection: Connection, pairs: Iterable[tuple[int, str]], votes: Mapping[int, Votes]) -> None:
    """Write the votes of these positions and annotators; votes that are no longer in `votes` are removed."""
    rows = []
    pairs = list(pairs)
    there = votes_of(connection, [position for position, _ in pairs])
    for position, annotator in pairs:
        if annotator in there[position]:
            own = and_(schema.votes.c.position == position, schema.votes.c.annotator == annotator)
            connection.execute(delete(schema.votes).where(own))
        if (vote := votes[position].get(annotator)) is not None:
            now = {"final": vote[0].final, "event": vote[1], **row_of(vote[0].label)}
            rows.append({"position": position, "annotator": annotator, **now})
    insert_rows(connection, schema.votes, rows)


def end_leases(connection: Connection, pairs: Iterable[tuple[int, str]]) -> None:
    """End the leases that these annotators hold on these samples."""
    pairs = list(pairs)
    held: set[tuple[int, str]] = set()
    for part in parts([position for position, _ in pairs]):
        found = connection.execute(
            select(schema.leases.c.position, schema.leases.c.annotator).where(schema.leases.c.position.in_(part))
        )
        held |= {(row.position, row.annotator) for row in found}
    for position, annotator in held.intersection(pairs):
        connection.execute(
            delete(schema.leases).where(and_(schema.leases.c.position == position, schema.leases.c.annotator == annotator))
        )


def settle(connection: Connection, events: Mapping[int, int]) -> None:
    """Note which events settled what checks asked to look at, by position."""
    if connection.execute(select(schema.review.c.number).where(schema.review.c.decided.is_(None)).limit(1)).first() is None:
        return
    for position, number in events.items():
        asked = and_(schema.review.c.position == position, schema.review.c.decided.is_(None))
        connection.execute(update(schema.review).where(asked).values(decided=number))


def used_tokens(connection: Connection, tokens: Iterable[str | None]) -> set[str]:
    """The tokens among these that an event has."""
    seen: set[str] = set()
    for part in parts(token for token in tokens if token is not None):
        seen |= set(connection.execute(select(schema.events.c.token).where(schema.events.c.token.in_(part))).scalars())
    return seen


def status_from(votes: Votes, wanted: int) -> Status:
    """Status of a sample with these votes, taken in the order of their events."""
    return status_of((vote for vote, _ in sorted(votes.values(), key=lambda pair: pair[1])), wanted)


def write_status(connection: Connection, votes: Mapping[int, Votes], flags: Mapping[int, bool], agreement: int) -> None:
    """Write the status of samples with these votes and flags."""
    wanted = wanted_of(connection, votes, agreement)
    rows = []
    for position, own in votes.items():
        now = status_from(own, wanted[position])
        row = {"position": position, "status": now.status, "votes": now.votes, **row_of(now.label)}
        rows.append(row | {"flagged": flags[position]})
    for part in parts(rows):
        connection.execute(delete(schema.current).where(schema.current.c.position.in_([row["position"] for row in part])))
        connection.execute(insert(schema.current), part)
