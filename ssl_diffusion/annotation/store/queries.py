"""How things stand in a store: labels, counts, lists, and what happened."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from ssl_diffusion.annotation.store import schema as t
from ssl_diffusion.annotation.store import statements as r
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.annotation.store.votes import Status, replay
from ssl_diffusion.errors import SSLDError

__all__ = ["check", "counts", "history", "labels", "last_said", "listing", "touched"]


def labels(store: Store, role: str | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the samples whose label is settled, increasing, and their class numbers.

    Args:
        store: of the job.
        role: only samples with this role; None: all.
    """
    query = select(t.current.c.position, t.current.c["class"]).where(t.current.c.status == "labeled")
    if role is not None:
        query = query.join(t.samples, t.samples.c.position == t.current.c.position).where(t.samples.c.role == role)
    with store.reading() as connection:
        found = connection.execute(query.order_by(t.current.c.position)).all()
    pairs = np.array([tuple(row) for row in found], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def touched(store: Store) -> NDArray[np.int64]:
    """Positions of samples of which somebody has said something that stands, increasing."""
    query = select(t.current.c.position).where(t.current.c.status != "open").order_by(t.current.c.position)
    with store.reading() as connection:
        return np.fromiter(connection.execute(query).scalars(), dtype=np.int64)


def counts(store: Store) -> dict[str, int]:
    """Samples in all, by status (open, partial, labeled, disputed, skipped), and flagged ones."""
    with store.reading() as connection:
        by_status = select(t.current.c.status, func.count()).group_by(t.current.c.status)
        found = {status: int(n) for status, n in connection.execute(by_status)}
        n = connection.execute(select(func.count()).select_from(t.samples)).scalar_one()
        flagged = connection.execute(select(func.count()).select_from(t.current).where(t.current.c.flagged)).scalar_one()
    known = {status: found.get(status, 0) for status in ("partial", "labeled", "disputed", "skipped")}
    return {"samples": n, "open": n - sum(known.values()), **known, "flagged": flagged}


def listing(store: Store, status: str | None = None, flagged: bool | None = None) -> list[dict[str, Any]]:
    """Samples of which somebody has said something: id, role, status, label, flagged, votes (label by annotator).

    Args:
        store: of the job.
        status: only those that stand so; None: all.
        flagged: only those that are marked, or only those that are not; None: all.
    """
    now = t.current.c
    query = (
        select(now.position, t.samples.c.id, t.samples.c.role, now.status, t.classes.c.name, now.flagged)
        .join(t.samples, t.samples.c.position == now.position)
        .join(t.classes, t.classes.c.number == now["class"], isouter=True)
        .order_by(now.position)
    )
    if status is not None:
        query = query.where(now.status == status)
    if flagged is not None:
        query = query.where(now.flagged == flagged)
    names = store.classes
    with store.reading() as connection:
        found = connection.execute(query).all()
        votes = r.votes_of(connection, [row[0] for row in found])
    return [
        dict(zip(("id", "role", "status", "label", "flagged"), row[1:], strict=True))
        | {"votes": {who: names[v.label] if v.label is not None else None for who, (v, _) in votes[row[0]].items()}}
        for row in found
    ]


def last_said(store: Store, annotator: str) -> str | None:
    """Id of the sample about which an annotator's latest vote is; None without any."""
    query = (
        select(t.samples.c.id)
        .join(t.votes, t.votes.c.position == t.samples.c.position)
        .where(t.votes.c.annotator == annotator)
        .order_by(t.votes.c.event.desc())
        .limit(1)
    )
    with store.reading() as connection:
        return connection.execute(query).scalar_one_or_none()


def history(store: Store, since: int = 0) -> list[dict[str, Any]]:
    """What happened, in order: the columns of `events`, with the sample's id and the name of the class ("label").

    Args:
        store: of the job.
        since: only events with a larger number.
    """
    query = (
        select(t.events, t.samples.c.id, t.classes.c.name.label("label"))
        .join(t.samples, t.samples.c.position == t.events.c.position)
        .join(t.classes, t.classes.c.number == t.events.c["class"], isouter=True)
        .where(t.events.c.number > since)
        .order_by(t.events.c.number)
    )
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def check(store: Store) -> None:
    """Compare how samples stand with what the events say.

    Raises:
        SSLDError: naming the first sample where they differ.
    """
    with store.reading() as connection:
        happened = [dict(row) for row in connection.execute(select(t.events).order_by(t.events.c.number)).mappings()]
        told = replay(happened, r.wanted_of(connection, {row["position"] for row in happened}, store.agreement))
        view = {row[0]: tuple(row[1:]) for row in connection.execute(select(t.current))}
        votes = r.votes_of(connection, {*told, *view})
    for position in {*told, *view}:
        now, flagged, own = told.get(position, (Status(), False, {}))
        expected = (now.status, now.label, now.votes, flagged)
        seen = view.get(position, ("open", None, 0, False))
        if seen != expected or own != {who: vote for who, (vote, _) in votes[position].items()}:
            name = str(store.ids[position])
            raise SSLDError(f"the store is damaged: sample {name!r} stands as {seen}, and its events say {expected}")
