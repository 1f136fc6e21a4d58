"""What is known of a job's samples: who said what, and how things stand. Durable: what a call acknowledged is on disk.

The verbs are :meth:`Store.label` (also used to correct), :meth:`~Store.skip`, :meth:`~Store.unlabel` and :meth:`~Store.flag`.
Each adds an event and changes the view in one transaction; several at once (:meth:`Store.apply`) are all done, or none.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select, update

from ssl_diffusion.annotation.store import schema as t
from ssl_diffusion.annotation.store import statements as r
from ssl_diffusion.annotation.store.votes import Status, Vote
from ssl_diffusion.errors import DataError, nearest_names

__all__ = ["Action", "Actor", "Store"]


_SAID = ("labeled", "corrected", "skipped")


@dataclass(frozen=True)
class Actor:
    """Who does something, and how.

    Attributes:
        annotator: a name.
        source: where from: "page", "import", "label-studio", "api".
        seconds: that it took; None if unknown.
        token: of the request; what is sent again with the same token has no second effect. None if it cannot be sent twice.
    """

    annotator: str
    source: str = "api"
    seconds: float | None = None
    token: str | None = None


@dataclass(frozen=True)
class Action:
    """One verb: see :class:`Store`.

    Attributes:
        verb: "label", "skip", "un-label", "flag" or "un-flag".
        id: sample id.
        by: who.
        label: class name, for "label".
        final: whether it settles the sample, whatever others say.
    """

    verb: str
    id: str
    by: Actor
    label: str | None = None
    final: bool = False


@dataclass(frozen=True)
class _Samples:
    """Ids and roles by position, and positions in the order of ids."""

    ids: NDArray[np.str_]
    roles: NDArray[np.str_]
    order: NDArray[np.int64]


class Store:
    """The store of a job.

    Args:
        url: of the database, see :func:`ssl_diffusion.annotation.store.schema.open_store`.
        agreement: votes that a sample needs, where nothing else is said of it.

    Raises:
        SSLDError: if the database cannot be opened, or is of a newer version.
    """

    def __init__(self, url: str, agreement: int = 1) -> None:
        self.agreement = agreement
        self.engine = t.open_store(url)
        t.upgrade(self.engine)
        self._writing = threading.Lock()
        self._samples: _Samples | None = None

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; one at a time."""
        # Threads queue here: of those that SQLite lets wait, each sleeps and tries again, and some never get their turn.
        with self._writing, t.writing(self.engine) as connection:
            yield connection

    # -- samples and classes ------------------------------------------------------------------------------------------

    @property
    def ids(self) -> NDArray[np.str_]:
        """Sample ids by position, (N,)."""
        return self._known.ids

    def add_samples(self, ids: Sequence[str], roles: Sequence[str] | str = "pool") -> None:
        """Add samples after those that are there.

        Args:
            ids: new, distinct ids.
            roles: of each, or of all: "pool", "audit" or "test".
        """
        each = [roles] * len(ids) if isinstance(roles, str) else list(roles)
        with self.writing() as connection:
            first = r.next_number(connection, t.samples.c.position, 0)
            rows = (
                {"position": first + i, "id": name, "role": role} for i, (name, role) in enumerate(zip(ids, each, strict=True))
            )
            r.insert_rows(connection, t.samples, rows)
        self._samples = None

    def positions(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Positions of samples by id, (n,).

        Raises:
            DataError: naming the first id that is not in the job.
        """
        with self.reading() as connection:
            return r.positions_of(connection, list(ids))

    def of_role(self, role: str) -> NDArray[np.int64]:
        """Positions of the samples with a role, increasing."""
        return np.flatnonzero(self._known.roles == role)

    def by_id(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Distinct positions in the order of their ids, so that what is drawn from them does not depend on how files lie."""
        order = self._known.order
        wanted = np.zeros(len(order), dtype=bool)
        wanted[positions] = True
        return order[wanted[order]]

    @property
    def _known(self) -> "_Samples":
        """What never changes of samples, read once."""
        if self._samples is None:
            with self.reading() as connection:
                query = select(t.samples.c.id, t.samples.c.role).order_by(t.samples.c.position)
                rows = connection.execute(query).all()
            ids, roles = (np.array([row[i] for row in rows], dtype=np.str_) for i in (0, 1))
            sorted_ = bool((ids[:-1] <= ids[1:]).all())
            self._samples = _Samples(ids, roles, np.arange(len(ids)) if sorted_ else np.argsort(ids, kind="stable"))
        return self._samples

    def ask_for(self, id_: str, votes: int | None) -> None:
        """Ask for several annotators' votes on a sample; None asks for as many as of the others."""
        if votes is not None and votes < 1:
            raise DataError(f"a sample needs one vote or more, not {votes}")
        with self.writing() as connection:
            (position,) = r.positions_of(connection, [id_]).tolist()
            connection.execute(update(t.samples).where(t.samples.c.position == position).values(wanted=votes))
            r.settle(connection, r.votes_of(connection, [position]), r.flags_of(connection, [position]), self.agreement)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by number."""
        with self.reading() as connection:
            return tuple(connection.execute(select(t.classes.c.name).order_by(t.classes.c.number)).scalars())

    def add_classes(self, names: Iterable[str]) -> None:
        """Add classes after those that are there; known ones are left as they are.

        Raises:
            DataError: if a name is empty, or has spaces around it or characters that are not printed.
        """
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if not name or name != name.strip() or not name.isprintable():
                raise DataError(f"{name!r} is not the name of a class: use printable characters, without spaces around them")
        with self.writing() as connection:
            known = list(connection.execute(select(t.classes.c.name)).scalars())
            new = [name for name in wanted if name not in known]
            if new:
                rows = [{"number": len(known) + i, "name": name} for i, name in enumerate(new)]
                r.insert_rows(connection, t.classes, rows)

    # -- verbs --------------------------------------------------------------------------------------------------------

    def label(self, id_: str, label: str, by: Actor, *, final: bool = False) -> Status:
        """Say what a sample shows, or correct what the same annotator said before.

        Raises:
            DataError: if there is no such sample or class.
        """
        return self.apply([Action("label", id_, by, label, final)])[0]

    def skip(self, id_: str, by: Actor) -> Status:
        """Say that one cannot tell; the sample is not shown again to the same annotator."""
        return self.apply([Action("skip", id_, by)])[0]

    def unlabel(self, id_: str, by: Actor) -> Status:
        """Take back what the annotator said."""
        return self.apply([Action("un-label", id_, by)])[0]

    def flag(self, id_: str, by: Actor, on: bool = True) -> Status:
        """Mark a sample for a second look, or take the mark back."""
        return self.apply([Action("flag" if on else "un-flag", id_, by)])[0]

    def apply(self, actions: Sequence[Action]) -> list[Status]:
        """Do several things in one transaction: all, or none.

        Returns:
            How the sample of each action stands after all of them.

        Raises:
            DataError: if there is no such sample, class or verb; nothing is done then.
        """
        actions = list(actions)
        with self.writing() as connection:
            numbers = {name: k for k, name in connection.execute(select(t.classes.c.number, t.classes.c.name))}
            where = r.positions_of(connection, [a.id for a in actions]).tolist()
            seen = _seen(connection, [a.by.token for a in actions if a.by.token is not None])
            votes = r.votes_of(connection, where)
            flags = r.flags_of(connection, where)
            at, now = r.next_number(connection, t.events.c.number), time.time()
            rows: list[dict[str, Any]] = []
            for position, action in zip(where, actions, strict=True):
                if action.by.token is not None and action.by.token in seen:
                    continue
                if action.by.token is not None:
                    seen.add(action.by.token)
                own = votes[position]
                before = own.pop(action.by.annotator, None)
                number = at + len(rows)
                if action.verb == "label":
                    number_of_class = _class_number(action.label, numbers)
                    own[action.by.annotator] = (Vote(number_of_class, action.final), number)
                    kind = "labeled" if before is None or before[0].label is None else "corrected"
                elif action.verb == "skip":
                    own[action.by.annotator] = (Vote(None), number)
                    kind = "skipped"
                elif action.verb == "un-label":
                    if before is None:
                        continue
                    kind = "un-labeled"
                elif action.verb in ("flag", "un-flag"):
                    if before is not None:
                        own[action.by.annotator] = before
                    flags[position] = action.verb == "flag"
                    kind = "flagged" if flags[position] else "un-flagged"
                else:
                    raise DataError(f"there is no verb {action.verb!r}")
                vote = own.get(action.by.annotator)
                rows.append(
                    {
                        "number": number,
                        "at": now,
                        "kind": kind,
                        "position": position,
                        "annotator": action.by.annotator,
                        "class": vote[0].label if vote is not None and action.verb == "label" else None,
                        "final": action.final,
                        "source": action.by.source,
                        "seconds": action.by.seconds,
                        "token": action.by.token,
                    }
                )
            r.insert_rows(connection, t.events, rows)
            r.replace_votes(connection, dict.fromkeys((row["position"], row["annotator"]) for row in rows), votes)
            r.end_leases(connection, [(row["position"], row["annotator"]) for row in rows if row["kind"] in _SAID])
            touched = dict.fromkeys(row["position"] for row in rows)
            r.settle(connection, {p: votes[p] for p in touched}, flags, self.agreement)
            wanted = r.wanted_of(connection, where, self.agreement)
            return [r.stands(votes[p], wanted[p]) for p in where]


def _class_number(name: str | None, numbers: Mapping[str, int]) -> int:
    if name is None or name not in numbers:
        raise DataError(f"the job has no class {name!r}; {nearest_names(str(name), numbers)}; --add-class adds one")
    return numbers[name]


def _seen(connection: Connection, tokens: list[str]) -> set[str]:
    """Those of the tokens that were used."""
    seen: set[str] = set()
    for part in r.parts(tokens):
        seen |= set(connection.execute(select(t.events.c.token).where(t.events.c.token.in_(part))).scalars())
    return seen
