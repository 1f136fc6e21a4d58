"""What annotators did: the history of samples, and each annotator's agreement with the others and speed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from ssl_diffusion.annotation.store import class_changes, schema
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.labels import Label, label_in, named
from ssl_diffusion.annotation.store.store import Store
from ssl_diffusion.annotation.store.votes import VOTE_KINDS

__all__ = ["SILENT", "AnnotatorFacts", "annotators", "last_flag", "latest_events"]

SILENT = ("queried", "shown")  # kinds of events that no person brought about


@dataclass(frozen=True)
class AnnotatorFacts:
    """What is known of an annotator.

    Attributes:
        name: Name of the annotator.
        votes: Number of votes that stand and are no skips.
        skips: Number of skips that stand.
        seconds: Median time for a label in seconds; None if no time is known.
        compared: Number of samples that another annotator has voted on, too.
        agreed: Fraction of the votes of others on these samples that are the same; of sets of classes the mean Jaccard index
            with them (classes that both name, of those that one of them does; 1 for two empty sets); None without any.
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
    query = select(
        votes.position,
        votes.annotator,
        votes["class"],
        votes.classes,
        current["class"].label("one"),
        current.classes.label("set"),
    ).join(schema.current, current.position == votes.position)
    times = select(events.annotator, events.seconds).where(events.kind.in_(VOTE_KINDS), events.seconds.is_not(None))
    with store.reading() as connection:
        rows = [(row[0], row[1], label_in(row[2], row[3]), label_in(row[4], row[5])) for row in connection.execute(query).all()]
        took: dict[str, list[float]] = {}
        for name, seconds in connection.execute(times):
            took.setdefault(name, []).append(seconds)
    by_sample: dict[int, list[tuple[str, Label | None]]] = {}
    for row in rows:
        by_sample.setdefault(row[0], []).append((row[1], row[2]))
    found = []
    for name in sorted({row[1] for row in rows}):
        own = [row for row in rows if row[1] == name]
        same, n, compared = 0.0, 0, 0
        for row in own:
            others = [label for who, label in by_sample[row[0]] if who != name and label is not None]
            if row[2] is not None and others:
                compared += 1
                n += len(others)
                same += sum(_agreement(row[2], label) for label in others)
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


def _agreement(a: Label, b: Label) -> float:
    """How far two labels agree, in [0, 1]."""
    if isinstance(a, tuple) and isinstance(b, tuple) and (either := {*a, *b}):
        return len({*a} & {*b}) / len(either)
    return float(a == b)


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
    events, samples = schema.events.c, schema.samples.c
    columns = (events.number, events.at, events.kind, samples.id, events.annotator, events["class"], events.classes)
    query = (
        select(*columns, events.final, events.source, events.seconds, events.text)
        .join(schema.samples, samples.position == events.position)
        .where(events.kind.not_in(SILENT))
        .order_by(events.number.desc())
        .limit(n)
    )
    if id_ is not None:
        query = query.where(samples.id == id_)
    if annotator is not None:
        query = query.where(events.annotator == annotator)
    if before is not None:
        query = query.where(events.number < before)
    names = store.classes
    with store.reading() as connection:
        rows = connection.execute(query).mappings().all()
    found = [
        {key: value for key, value in row.items() if key not in ("class", "classes")}
        | {"label": named(label_in(row["class"], row["classes"]), names)}
        for row in rows
    ]
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


@retried
def last_flag(store: Store, id_: str) -> str | None:
    """Name of the person who flagged a sample last; None if nobody did."""
    events, samples = schema.events.c, schema.samples.c
    query = (
        select(events.annotator)
        .join(schema.samples, samples.position == events.position)
        .where(samples.id == id_, events.kind == "flagged")
        .order_by(events.number.desc())
        .limit(1)
    )
    with store.reading() as connection:
        return connection.execute(query).scalar()
