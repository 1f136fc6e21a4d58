"""What annotators did: the history of samples, and each annotator's agreement with the others and speed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from ssl_diffusion.annotation.store import class_changes, schema
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.annotation.store.votes import VOTE_KINDS

__all__ = ["AnnotatorFacts", "annotators", "latest_events"]

_SILENT = ("queried", "shown")  # kinds of events that no person brought about


@dataclass(frozen=True)
class AnnotatorFacts:
    """What is known of an annotator.

    Attributes:
        name: Name of the annotator.
        votes: Number of votes for a class that stand.
        skips: Number of skips that stand.
        seconds: Median time for a label in seconds; None if no time is known.
        compared: Number of samples that another annotator has voted on, too.
        agreed: Fraction of the votes of others on these samples that are the same; None without any.
        overruled: Number of votes that the label of the sample contradicts.
    """

    name: str
    votes: int
    skips: int
    seconds: float | None
    compared: int
    agreed: float | None
    overruled: int


@retried
def annotators(store: Store) -> list[AnnotatorFacts]:
    """What is known of every annotator, in the order of their names."""
    votes, current, events = schema.votes.c, schema.current.c, schema.events.c
    query = select(votes.position, votes.annotator, votes["class"], current["class"].label("label")).join(
        schema.current, current.position == votes.position
    )
    times = select(events.annotator, events.seconds).where(events.kind.in_(VOTE_KINDS), events.seconds.is_not(None))
    with store.reading() as connection:
        rows = connection.execute(query).all()
        took: dict[str, list[float]] = {}
        for name, seconds in connection.execute(times):
            took.setdefault(name, []).append(seconds)
    by_sample: dict[int, list[tuple[str, int | None]]] = {}
    for row in rows:
        by_sample.setdefault(row[0], []).append((row[1], row[2]))
    found = []
    for name in sorted({row[1] for row in rows}):
        own = [row for row in rows if row[1] == name]
        same, n, compared = 0, 0, 0
        for row in own:
            others = [label for who, label in by_sample[row[0]] if who != name and label is not None]
            if row[2] is not None and others:
                compared += 1
                n += len(others)
                same += sum(label == row[2] for label in others)
        named = [row for row in own if row[2] is not None]
        found.append(
            AnnotatorFacts(
                name,
                len(named),
                len(own) - len(named),
                round(float(np.median(took[name])), 3) if name in took else None,
                compared,
                same / n if n else None,
                sum(row[3] is not None and row[3] != row[2] for row in named),
            )
        )
    return found


@retried
def latest_events(
    store: Store, *, id_: str | None = None, annotator: str | None = None, before: int | None = None, n: int = 100
) -> list[dict[str, Any]]:
    """What people did, the latest first: number, at, kind, id, annotator, label, final, source, seconds, text.

    Args:
        store: Store of the job.
        id_: Sample id; None takes all samples.
        annotator: Name of the annotator; None takes all.
        before: Number of an event; only earlier ones are returned.
        n: Events to return at most.
    """
    events, samples, classes = schema.events.c, schema.samples.c, schema.classes.c
    columns = (events.number, events.at, events.kind, samples.id, events.annotator, classes.name.label("label"))
    query = (
        select(*columns, events.final, events.source, events.seconds, events.text)
        .join(schema.samples, samples.position == events.position)
        .join(schema.classes, classes.number == events["class"], isouter=True)
        .where(events.kind.not_in(_SILENT))
        .order_by(events.number.desc())
        .limit(n)
    )
    if id_ is not None:
        query = query.where(samples.id == id_)
    if annotator is not None:
        query = query.where(events.annotator == annotator)
    if before is not None:
        query = query.where(events.number < before)
    with store.reading() as connection:
        found = [dict(row) for row in connection.execute(query).mappings()]
    if id_ is not None or before is not None:
        return found
    changes = [
        {
            "number": None,
            "at": row["at"],
            "kind": row["kind"],
            "id": "",
            "annotator": row["annotator"],
            "label": row["before"],
            "final": False,
            "source": "page",
            "seconds": None,
            "text": row["after"],
        }
        for row in class_changes.history(store)
        if annotator in (None, row["annotator"])
    ]
    return sorted([*found, *changes[-n:]], key=lambda row: -row["at"])
