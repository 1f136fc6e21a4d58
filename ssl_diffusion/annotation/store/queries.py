"""Read-only queries of a store: labels, counts, listings, history, and the state that one request needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from ssl_diffusion.annotation.store import schema, statements
from ssl_diffusion.annotation.store.decisions import DECIDING
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.labels import as_array, followed, label_in, named
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.annotation.store.votes import FLAGS, VOTE_KINDS, Status, Vote, replay
from ssl_diffusion.errors import SSLDError

__all__ = ["Undoable", "action_of", "check", "counts", "counts_in", "history", "labels", "listing", "touched"]


@retried
def labels(store: Store, role: str | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the labeled samples, increasing, and their class numbers, (n,), or sets of classes as 0/1, (n, K).

    Args:
        store: Store of the job.
        role: Role of the samples to return; None returns all.
    """
    now = schema.current.c
    query = select(now.position, now["class"], now.classes).where(now.status == "labeled")
    if role is not None:
        query = query.join(schema.samples, schema.samples.c.position == schema.current.c.position)
        query = query.where(schema.samples.c.role == role)
    with store.reading() as connection:
        found = connection.execute(query.order_by(schema.current.c.position)).all()
    k = len(store.classes) if store.multilabel else 0
    given = as_array((label_in(row[1], row[2]) for row in found), k, multilabel=store.multilabel)
    return np.array([row[0] for row in found], dtype=np.int64), given


@retried
def touched(store: Store) -> NDArray[np.int64]:
    """Positions of the samples that have a vote, increasing."""
    query = select(schema.current.c.position).where(schema.current.c.status != "open").order_by(schema.current.c.position)
    with store.reading() as connection:
        return np.fromiter(connection.execute(query).scalars(), dtype=np.int64)


@retried
def counts(store: Store) -> dict[str, int]:
    """Number of samples: in all, by status (open, partial, labeled, disputed, skipped), and flagged."""
    n = len(store.ids)
    with store.reading() as connection:
        return counts_in(connection, n)


def counts_in(connection: Connection, n: int) -> dict[str, int]:
    """See :func:`counts`; n is the number of samples."""
    now = schema.current.c
    query = select(now.status, now.flagged, func.count().label("n")).group_by(now.status, now.flagged)
    known = dict.fromkeys(("partial", "labeled", "disputed", "skipped"), 0)
    flagged = 0
    for row in connection.execute(query):
        flagged += row.n if row.flagged else 0
        if row.status in known:
            known[row.status] += row.n
    return {"samples": n, "open": n - sum(known.values()), **known, "flagged": flagged}


@retried
def listing(
    store: Store, status: str | None = None, flagged: bool | None = None, of: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Samples with a vote or a flag: id, role, status, label, flagged, votes (label by annotator; None for a skip).

    A label is a class name or, in a multi-label store, a tuple of names.

    Args:
        store: Store of the job.
        status: Status of the samples to list; None lists all.
        flagged: Whether to list flagged samples or the others; None lists both.
        of: Sample ids, at most a thousand; None lists all.
    """
    now = schema.current.c
    query = (
        select(now.position, schema.samples.c.id, schema.samples.c.role, now.status, now.flagged, now["class"], now.classes)
        .join(schema.samples, schema.samples.c.position == now.position)
        .order_by(now.position)
    )
    if status is not None:
        query = query.where(now.status == status)
    if flagged is not None:
        query = query.where(now.flagged == flagged)
    if of is not None:
        query = query.where(schema.samples.c.id.in_(of))
    names = store.classes
    with store.reading() as connection:
        found = connection.execute(query).all()
        votes = statements.votes_of(connection, [row[0] for row in found])
    return [
        {
            "id": row[1],
            "role": row[2],
            "status": row[3],
            "label": named(label_in(row[5], row[6]), names),
            "flagged": row[4],
            "votes": {who: named(vote.label, names) for who, (vote, _) in votes[row[0]].items()},
        }
        for row in found
    ]


@dataclass(frozen=True)
class Undoable:
    """A vote, or a label that was kept, that can be taken back.

    Attributes:
        id: Sample id.
        before: Vote of the annotator before, with classes as they are now; None if there was none, or its class was removed.
        number: Number of the event.
        kept: Whether it set no vote, but kept the label.
        flagged: Whether it removed a flag, and nobody has set or removed one since.
    """

    id: str
    before: Vote | None
    number: int
    kept: bool = False
    flagged: bool = False


@retried
def action_of(store: Store, annotator: str, token: str) -> list[Undoable]:
    """Votes that an action of an annotator set, and labels that it kept, as far as that still stands.

    Args:
        store: Store of the job.
        annotator: Name of the annotator.
        token: Token of the action; events of an action on several samples have the tokens TOKEN.0, TOKEN.1 and so on.
    """
    votes, events, samples = schema.votes.c, schema.events.c, schema.samples.c
    of_action = (events.token == token) | events.token.startswith(f"{token}.", autoescape=True)
    query = (
        select(samples.id, votes.position, events.number)
        .join(schema.votes, votes.position == samples.position)
        .join(schema.events, events.number == votes.event)
        .where(votes.annotator == annotator, of_action)
        .order_by(events.number)
    )
    with store.reading() as connection:
        found, retired = [], statements.retired_in(connection)
        for id_, position, number in connection.execute(query).all():
            own = (
                select(events.kind, events["class"], events.classes, events.final)
                .where(events.position == position, events.annotator == annotator, events.number < number)
                .where(events.kind.in_([*VOTE_KINDS, "un-labeled"]))
                .order_by(events.number.desc())
                .limit(1)
            )
            last = connection.execute(own).first()
            before = None
            if last is not None and last.kind != "un-labeled":
                label = followed(label_in(last[1], last[2]), retired)
                before = Vote(label, last.final) if label is not None or last.kind in ("skipped", "dropped") else None
            found.append(Undoable(id_, before, number, flagged=_took_flag(connection, position, number)))
        return found or _kept_by(connection, annotator, token)


def _kept_by(connection: Connection, annotator: str, token: str) -> list[Undoable]:
    """The label that an action kept, unless the same annotator has said something else since."""
    events, samples = schema.events.c, schema.samples.c
    query = (
        select(samples.id, events.position, events.number)
        .join(schema.samples, samples.position == events.position)
        .where(events.annotator == annotator, events.token == token, events.kind == "kept")
    )
    if (event := connection.execute(query).first()) is None:
        return []
    own = (events.position == event.position) & (events.annotator == annotator) & events.kind.in_(DECIDING)
    last = connection.execute(select(func.max(events.number)).where(own)).scalar_one()
    if last != event.number:
        return []
    return [Undoable(event.id, None, event.number, kept=True, flagged=_took_flag(connection, event.position, event.number))]


def _took_flag(connection: Connection, position: int, number: int) -> bool:
    """Whether an event removed a flag that nobody has set or removed since."""
    events = schema.events.c
    query = select(events.number, events.kind).where(events.position == position, events.kind.in_(FLAGS))
    last = connection.execute(query.order_by(events.number.desc()).limit(2)).all()
    return len(last) == 2 and last[0].number == number and bool(FLAGS[last[1].kind])


@retried
def history(store: Store, since: int = 0) -> list[dict[str, Any]]:
    """Events, oldest first: the columns of `events`, with the sample's id and the label by name ("label").

    Args:
        store: Store of the job.
        since: Number of an event; only later events are returned.
    """
    query = (
        select(schema.events, schema.samples.c.id)
        .join(schema.samples, schema.samples.c.position == schema.events.c.position)
        .where(schema.events.c.number > since)
        .order_by(schema.events.c.number)
    )
    names = store.classes
    with store.reading() as connection:
        rows = connection.execute(query).mappings().all()
    return [dict(row) | {"label": named(label_in(row["class"], row["classes"]), names)} for row in rows]


def check(store: Store) -> None:
    """Check that the view equals what its events give.

    Raises:
        SSLDError: If it does not; names the first sample that differs.
    """
    with store.reading() as connection:
        happened = [dict(row) for row in connection.execute(select(schema.events).order_by(schema.events.c.number)).mappings()]
        wanted = statements.wanted_of(connection, {row["position"] for row in happened}, store.agreement)
        told = replay(happened, wanted, statements.retired_in(connection))
        view = {
            row.position: (row.status, label_in(row[2], row.classes), row.votes, row.flagged)
            for row in connection.execute(select(schema.current))
        }
        votes = statements.votes_of(connection, {*told, *view})
    for position in {*told, *view}:
        now, flagged, own = told.get(position, (Status(), False, {}))
        expected = (now.status, now.label, now.votes, flagged)
        seen = view.get(position, ("open", None, 0, False))
        if seen != expected or own != {who: vote for who, (vote, _) in votes[position].items()}:
            name = str(store.ids[position])
            raise SSLDError(f"the store is damaged: sample {name!r} is {seen}, but its events give {expected}")
