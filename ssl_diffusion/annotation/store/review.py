"""Samples that a check asks people to look at again, and what they decided."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select

from ssl_diffusion.annotation.store import schema, statements
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["ReviewItem", "add_items", "last_event", "n_open", "open_items"]


@dataclass(frozen=True)
class ReviewItem:
    """A sample to look at again.

    Attributes:
        id: Sample id.
        kind: Kind of the doubt, such as "label issue", "duplicate" or "outlier".
        note: Doubt, in words for people.
        suggested: Suggested class name; None without one.
        score: Strength of the doubt, larger first.
    """

    id: str
    kind: str
    note: str = ""
    suggested: str | None = None
    score: float = 0.0


@retried
def add_items(store: Store, items: Sequence[ReviewItem], replaces: Iterable[str] = ()) -> int:
    """Ask people to look at samples again; what they have settled before is not asked again for the same reason.

    Args:
        store: Store of the job.
        items: Samples, of which none needs to be new.
        replaces: Kinds whose open items are removed first.

    Returns:
        Number of items that were added.

    Raises:
        DataError: If there is no such sample or class.
    """
    table = schema.review
    for item in items:
        statements.check_text("the note", item.note)
    with store.writing() as connection:
        gone = table.c.kind.in_(list(replaces)) & table.c.decided.is_(None)
        connection.execute(delete(table).where(gone))
        numbers = {name: k for k, name in connection.execute(select(schema.classes.c.number, schema.classes.c.name))}
        if unknown := [item.suggested for item in items if item.suggested is not None and item.suggested not in numbers]:
            raise DataError(f"the job has no class {shown(unknown[0])}")
        positions = statements.positions_of(connection, [item.id for item in items]).tolist()
        known = {tuple(row) for row in connection.execute(select(table.c.position, table.c.kind, table.c.suggested))}
        first, now = statements.next_number(connection, table.c.number), time.time()
        rows: list[dict[str, object]] = []
        for position, item in zip(positions, items, strict=True):
            suggested = None if item.suggested is None else numbers[item.suggested]
            if (position, item.kind, suggested) in known:
                continue
            facts = {"position": position, "kind": item.kind, "note": item.note, "suggested": suggested, "score": item.score}
            rows.append({"number": first + len(rows), "at": now, "decided": None, **facts})
        statements.insert_rows(connection, table, rows)
    return len(rows)


@retried
def open_items(store: Store, n: int | None = None) -> list[ReviewItem]:
    """Samples that nobody has looked at again, the strongest doubt first; at most n."""
    table, classes = schema.review.c, schema.classes.c
    query = (
        select(schema.samples.c.id, table.kind, table.note, classes.name, table.score)
        .join(schema.samples, schema.samples.c.position == table.position)
        .join(schema.classes, classes.number == table.suggested, isouter=True)
        .where(table.decided.is_(None))
        .order_by(table.score.desc(), table.number)
        .limit(n)
    )
    with store.reading() as connection:
        return [ReviewItem(*row) for row in connection.execute(query)]


@retried
def n_open(store: Store) -> int:
    """Number of samples that nobody has looked at again."""
    query = select(func.count(schema.review.c.position.distinct())).where(schema.review.c.decided.is_(None))
    with store.reading() as connection:
        return int(connection.execute(query).scalar_one())


@retried
def last_event(store: Store) -> int:
    """Number of the latest event; 0 without any. A decision on what was listed after that names it, see :class:`Action`."""
    with store.reading() as connection:
        return statements.next_number(connection, schema.events.c.number) - 1
