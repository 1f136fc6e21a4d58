"""Decisions of reviewers: that of somebody else meanwhile, and what a decision that is taken back had settled."""

from collections.abc import Iterable

from sqlalchemy import Connection, select, update

from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.labels import label_in, named
from ssl_diffusion.annotation.store.votes import VOTE_KINDS
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["DECIDING", "DecidedMeanwhileError", "check_seen", "reopen"]

DECIDING = (*VOTE_KINDS, "un-labeled", "kept", "un-kept")
"""Kinds of events that say something about the label of a sample."""

_DID = {
    "kept": "kept its label",
    "dropped": "dropped it",
    "skipped": "skipped it",
    "un-labeled": "withdrew a label",
    "un-kept": "took back that its label is right",
}


class DecidedMeanwhileError(DataError):
    """Somebody has said something about a sample since the annotator looked at it."""


def check_seen(connection: Connection, position: int, seen: int, now: float) -> None:
    """Refuse a decision on a sample about which something was said since.

    Args:
        connection: Transaction of the decision.
        position: Position of the sample.
        seen: Number of the last event that the annotator knew of.
        now: Time in seconds since 1970.

    Raises:
        DecidedMeanwhileError: Says who did what, and how long ago.
    """
    events, samples = schema.events.c, schema.samples.c
    query = (
        select(samples.id, events.annotator, events.kind, events.at, events["class"], events.classes)
        .join(schema.samples, samples.position == events.position)
        .where(events.position == position, events.number > seen, events.kind.in_(DECIDING))
        .order_by(events.number.desc())
        .limit(1)
    )
    if (last := connection.execute(query).first()) is None:
        return
    id_, annotator, kind, at, one, several = last
    names = connection.execute(select(schema.classes.c.name).order_by(schema.classes.c.number)).scalars().all()
    given = named(label_in(one, several), names)
    label = given if isinstance(given, str) else ", ".join(given or ()) or "none of the classes"
    did = _DID.get(kind, f"labeled it {label}")
    raise DecidedMeanwhileError(f"{shown(annotator)} {did} {_ago(now - at)}: look at {id_} again before you decide")


def reopen(connection: Connection, numbers: Iterable[int]) -> None:
    """Ask people to look again at what these events had settled."""
    for number in numbers:
        connection.execute(update(schema.review).where(schema.review.c.decided == number).values(decided=None))


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (n := int(seconds // length)) > 0:
            return f"{n} {unit}{'s' if n > 1 else ''} ago"
    return "less than a minute ago"
