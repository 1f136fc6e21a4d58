"""What people say of counterfactuals: true (it shows the other class now), false (nothing that matters changed), none of these.

A verdict is kept with the changed image itself, so that it stands when the model that made it has been replaced. Of several by
one annotator on one image the last counts.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import insert, select

from ssl_diffusion.annotation.store import schema, statements
from ssl_diffusion.annotation.store.faults import retried
from ssl_diffusion.annotation.store.store import Actor, Store
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["Judgement", "Verdict", "add_verdict", "all_verdicts", "verdicts"]

Judgement = Literal["true", "false", "none", "withdrawn"]


@dataclass(frozen=True)
class Verdict:
    """A verdict on a counterfactual.

    Attributes:
        id: Sample id.
        verdict: Judgement of the changed image.
        source: Class predicted before the change.
        target: Class predicted after it.
        model: Name of the model that made the change.
        picture: Changed image as the model sees it, PNG.
        digest: Digest of that image.
        annotator: Name of the annotator.
        at: Time in seconds since 1970.
        seconds: Time that the annotator took; None if unknown.
    """

    id: str
    verdict: Judgement
    source: str
    target: str
    model: str
    picture: bytes
    digest: str
    annotator: str = ""
    at: float = 0.0
    seconds: float | None = None


def add_verdict(store: Store, verdict: Verdict, by: Actor) -> None:
    """Record a verdict.

    Args:
        store: Store of the job.
        verdict: The verdict; its annotator and times are taken from `by`.
        by: Actor who judges.

    Raises:
        DataError: If there is no such sample, class or verdict.
    """
    if verdict.verdict not in get_args(Judgement):
        raise DataError(f"there is no verdict {shown(verdict.verdict)}: use true, false, none or withdrawn")
    _add(store, verdict, by)


@retried
def _add(store: Store, verdict: Verdict, by: Actor) -> None:
    table = schema.verdicts
    with store.writing() as connection:
        if by.token is not None and connection.execute(select(table.c.number).where(table.c.token == by.token)).first():
            return
        numbers = {name: k for k, name in connection.execute(select(schema.classes.c.number, schema.classes.c.name))}
        if missing := [name for name in (verdict.source, verdict.target) if name not in numbers]:
            raise DataError(f"the job has no class {shown(missing[0])}")
        row = {
            "number": statements.next_number(connection, table.c.number),
            "at": time.time(),
            "position": int(statements.positions_of(connection, [verdict.id])[0]),
            "annotator": by.annotator,
            "verdict": verdict.verdict,
            "source": numbers[verdict.source],
            "target": numbers[verdict.target],
            "model": verdict.model,
            "picture": verdict.picture,
            "digest": verdict.digest,
            "seconds": by.seconds,
            "token": by.token,
        }
        connection.execute(insert(table), [row])


@retried
def all_verdicts(store: Store) -> list[Verdict]:
    """Every verdict that was ever given, oldest first; classes that were merged have the name of the class they are now."""
    table, samples = schema.verdicts.c, schema.samples.c
    query = select(schema.verdicts, samples.id).join(schema.samples, samples.position == table.position).order_by(table.number)
    with store.reading() as connection:
        rows = connection.execute(select(schema.classes)).all()
        names = {row.number: row.name for row in rows}
        names |= {row.number: names[row.into] for row in rows if row.into is not None}
        return [
            Verdict(
                row.id,
                row.verdict,
                names[row.source],
                names[row.target],
                row.model,
                row.picture,
                row.digest,
                row.annotator,
                row.at,
                row.seconds,
            )
            for row in connection.execute(query)
        ]


def verdicts(store: Store, ids: Sequence[str] | None = None) -> list[Verdict]:
    """Verdicts that count: the last of each annotator on each image, unless it was withdrawn.

    Args:
        store: Store of the job.
        ids: Sample ids; None takes all.
    """
    last = {(each.id, each.annotator, each.digest): each for each in all_verdicts(store) if ids is None or each.id in ids}
    return [each for each in last.values() if each.verdict != "withdrawn"]
