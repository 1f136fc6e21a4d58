"""Durable store of annotations: every event, and the current status of each sample. When a call returns, it is on disk.

The verbs are :meth:`Store.label` (also for corrections), :meth:`~Store.skip`, :meth:`~Store.unlabel` and :meth:`~Store.flag`;
reviewers also keep, drop and comment (:meth:`Store.apply`). Each adds an event and changes the view in one transaction;
:meth:`Store.apply` does several, all or none.
"""

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import URL, Connection, select, update

from ssl_diffusion.annotation.store import decisions, schema, statements, upgrades
from ssl_diffusion.annotation.store.faults import StoreError, retried, store_name
from ssl_diffusion.annotation.store.labels import Label, numbered, row_of
from ssl_diffusion.annotation.store.votes import FLAGS, VOTE_KINDS, Status, Vote
from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.settings import shown

__all__ = ["Action", "Actor", "GivenLabel", "Store", "Verb", "add_classes_in"]

Verb = Literal["label", "skip", "drop", "un-label", "flag", "un-flag", "keep", "un-keep", "comment"]
GivenLabel = str | Sequence[str] | None
"""A class name or, in a multi-label store, the names of a set; None where a verb needs no label."""

# What a verb makes of an annotator's vote: (vote before, label by number, whether it is final) -> (vote after, kind of the
# event), or None if there is nothing to do.
_Change = Callable[[Vote | None, Label | None, bool], tuple[Vote | None, str] | None]
_CHANGES: dict[Verb, _Change] = {
    "label": lambda before, label, final: (Vote(label, final), "corrected" if _names_class(before) else "labeled"),
    "skip": lambda _before, _label, _final: (Vote(None), "skipped"),
    "drop": lambda _before, _label, _final: (Vote(None, True), "dropped"),
    "un-label": lambda before, _label, _final: (None, "un-labeled") if before is not None else None,
    "flag": lambda before, _label, _final: (before, "flagged"),
    "un-flag": lambda before, _label, _final: (before, "un-flagged"),
    "keep": lambda before, _label, _final: (before, "kept"),
    "un-keep": lambda before, _label, _final: (before, "un-kept"),
    "comment": lambda before, _label, _final: (before, "commented"),
}
_SETTLES = ("labeled", "corrected", "kept", "dropped")  # kinds of events that settle what a check asked to look at


@dataclass(frozen=True)
class Actor:
    """Who acts, and by which way.

    Attributes:
        annotator: Name of the annotator.
        source: Origin of the action: "page", "import", "label-studio", "api".
        seconds: Time that the annotator took; None if unknown.
        token: Token of the request: a second action with the same token has no effect. None if it cannot be sent twice.

    Raises:
        DataError: If the name or the token cannot be stored, or the time is negative or not finite.
    """

    annotator: str
    source: str = "api"
    seconds: float | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        statements.check_text("the annotator", self.annotator)
        statements.check_text("the token", self.token or "")
        if self.seconds is not None and not 0 <= self.seconds < math.inf:
            raise DataError(f"an annotator cannot take {self.seconds} seconds: give a number, or leave it out")


@dataclass(frozen=True)
class Action:
    """One change to a sample; see :class:`Store`.

    Attributes:
        verb: Kind of action.
        id: Sample id.
        by: Name of the annotator.
        label: Class name, for "label"; in a multi-label store the names of a set, also of none.
        final: Whether the label overrides the votes of others.
        text: Text of a comment.
        seen: Number of the last event that the annotator knew of: what others said later refuses the action; None for any.
        undoes: Number of the event that this takes back: what it settled is asked again.
    """

    verb: Verb
    id: str
    by: Actor
    label: GivenLabel = None
    final: bool = False
    text: str | None = None
    seen: int | None = None
    undoes: int | None = None

    def __post_init__(self) -> None:
        if self.verb == "comment" and not (self.text or "").strip():
            raise DataError("a comment needs a text")
        if self.verb == "un-keep" and self.undoes is None:
            raise DataError("un-keep needs the decision that it takes back: undo that")
        statements.check_text("the comment", self.text or "")


@dataclass(frozen=True)
class _Samples:
    """Ids and roles by position, and positions in the order of their ids."""

    ids: NDArray[np.str_]
    roles: NDArray[np.str_]
    order: NDArray[np.int64]


class Store:
    """Store of a job.

    Args:
        url: URL of the database, see :func:`ssl_diffusion.annotation.store.schema.open_store`.
        agreement: Votes that a sample requires, unless it has its own number (:meth:`require_votes`).
        exists: Whether the store must be there already, so that none is created in the place of a lost one.
        multilabel: Whether labels are sets of classes, also of none, and not one class each.

    Raises:
        StoreError: If the database cannot be opened, is of a newer version or another program, or is damaged; if `exists`, also
            if it is missing or empty; or if its labels are of the other kind. Later, whatever method is called: if the database
            fails.
    """

    def __init__(self, url: str | URL, agreement: int = 1, *, exists: bool = False, multilabel: bool = False) -> None:
        self.agreement, self.multilabel = agreement, multilabel
        self.engine = schema.open_store(url, exists=exists)
        upgrades.upgrade(self.engine, exists=exists)
        self._writing = threading.Lock()
        self._samples: _Samples | None = None
        self._check_kind()

    def _check_kind(self) -> None:
        """Check that the labels are sets, or are not, as the job's settings say."""
        votes = schema.votes.c
        given = select(votes.classes).where(votes["class"].is_not(None) | votes.classes.is_not(None)).limit(1)
        with self.reading() as connection:
            first = connection.execute(given).first()  # all are of one kind
        if first is None or (first.classes is not None) == self.multilabel:
            return
        has, wanted = ("one class an image", "false") if self.multilabel else ("sets of classes", "true")
        raise StoreError(f"{store_name(self.engine.url)} has labels of {has}: set multilabel = {wanted} in job.toml again")

    def close(self) -> None:
        """Close all connections to the database."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads: all its statements see the store at one moment."""
        with schema.reading(self.engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction; one at a time."""
        # Threads queue here: SQLite lets each waiter sleep and try again, and some would never get their turn.
        with self._writing, schema.writing(self.engine) as connection:
            yield connection

    # -- samples and classes ------------------------------------------------------------------------------------------

    @property
    def ids(self) -> NDArray[np.str_]:
        """Sample ids by position, (N,)."""
        return self._known.ids

    def add_samples(self, ids: Sequence[str], roles: Sequence[str] | str = "pool") -> None:
        """Append samples.

        Args:
            ids: New, distinct ids.
            roles: Role of each, or of all: "pool", "audit" or "test".
        """
        each = [roles] * len(ids) if isinstance(roles, str) else list(roles)
        with self.writing() as connection:
            first = statements.next_number(connection, schema.samples.c.position, 0)
            rows = (
                {"position": first + i, "id": name, "role": role} for i, (name, role) in enumerate(zip(ids, each, strict=True))
            )
            statements.insert_rows(connection, schema.samples, rows)
        self._samples = None

    @retried
    def positions(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Positions of samples by id, (n,).

        Raises:
            DataError: If an id is not in the job; names the first.
        """
        with self.reading() as connection:
            return statements.positions_of(connection, list(ids))

    def of_role(self, role: str) -> NDArray[np.int64]:
        """Positions of the samples with a role, increasing."""
        return np.flatnonzero(self._known.roles == role)

    def role_of(self, position: int) -> str:
        """Role of a sample: "pool", "audit" or "test"."""
        return str(self._known.roles[position])

    def by_id(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort distinct positions by their ids, so that draws from them do not depend on the order of files."""
        order = self._known.order
        wanted = np.zeros(len(order), dtype=bool)
        wanted[positions] = True
        return order[wanted[order]]

    @property
    @retried
    def _known(self) -> "_Samples":
        """Ids and roles, which never change, read once."""
        if self._samples is None:
            with self.reading() as connection:
                query = select(schema.samples.c.id, schema.samples.c.role).order_by(schema.samples.c.position)
                rows = connection.execute(query).all()
            ids, roles = (np.array([row[i] for row in rows], dtype=np.str_) for i in (0, 1))
            sorted_ = bool((ids[:-1] <= ids[1:]).all())
            self._samples = _Samples(ids, roles, np.arange(len(ids)) if sorted_ else np.argsort(ids, kind="stable"))
        return self._samples

    @retried
    def require_votes(self, id_: str, votes: int | None) -> None:
        """Set the number of votes that a sample requires; None takes that of the job.

        Raises:
            DataError: If there is no such sample, or the number is not positive.
        """
        if votes is not None and votes < 1:
            raise DataError(f"a sample requires one vote or more, not {votes}")
        with self.writing() as connection:
            (position,) = statements.positions_of(connection, [id_]).tolist()
            connection.execute(update(schema.samples).where(schema.samples.c.position == position).values(wanted=votes))
            statements.write_status(
                connection,
                statements.votes_of(connection, [position]),
                statements.flags_of(connection, [position]),
                self.agreement,
            )

    @property
    @retried
    def classes(self) -> tuple[str, ...]:
        """Class names by number, also of classes that are no longer in use."""
        with self.reading() as connection:
            return tuple(connection.execute(select(schema.classes.c.name).order_by(schema.classes.c.number)).scalars())

    @property
    @retried
    def classes_in_use(self) -> tuple[str, ...]:
        """Names of the classes that have been neither merged nor removed, by number."""
        query = select(schema.classes.c.name).where(schema.classes.c.state.is_(None)).order_by(schema.classes.c.number)
        with self.reading() as connection:
            return tuple(connection.execute(query).scalars())

    @retried
    def add_classes(self, names: Iterable[str]) -> None:
        """Append classes; known ones keep their number.

        Raises:
            DataError: If a name is empty, or has spaces around it or unprintable characters.
        """
        with self.writing() as connection:
            add_classes_in(connection, names)

    # -- verbs --------------------------------------------------------------------------------------------------------

    def label(self, id_: str, label: str | Sequence[str], by: Actor, *, final: bool = False) -> Status:
        """Label a sample, or correct an earlier label by the same annotator.

        Args:
            id_: Sample id.
            label: Class name; in a multi-label store the names of a set, also of none.
            by: Name of the annotator.
            final: Whether the label overrides the votes of others.

        Raises:
            DataError: If there is no such sample or class.
        """
        return self.apply([Action("label", id_, by, label, final)])[0]

    def skip(self, id_: str, by: Actor) -> Status:
        """Vote for no class; the sample is not shown to the same annotator again."""
        return self.apply([Action("skip", id_, by)])[0]

    def unlabel(self, id_: str, by: Actor) -> Status:
        """Withdraw the vote of an annotator; without one nothing happens."""
        return self.apply([Action("un-label", id_, by)])[0]

    def flag(self, id_: str, by: Actor, on: bool = True) -> Status:
        """Mark a sample for a second look, or remove the mark."""
        return self.apply([Action("flag" if on else "un-flag", id_, by)])[0]

    def apply(self, actions: Sequence[Action], new_classes: Iterable[str] = ()) -> list[Status]:
        """Apply several actions in one transaction: all, or none.

        Args:
            actions: Actions, in order.
            new_classes: Classes to append first, in the same transaction.

        Returns:
            Status of the sample of each action after all of them.

        Raises:
            DataError: If a sample, class or verb does not exist, or a new class is not valid.
            DecidedMeanwhileError: If an action says what its annotator has seen, and others said something since.
        """
        if self.engine.dialect.name == "postgresql":  # a server may vanish after it has committed
            actions = [replace(a, by=replace(a.by, token=a.by.token or uuid.uuid4().hex)) for a in actions]
        return self._apply(actions, list(new_classes))

    @retried
    def _apply(self, actions: Sequence[Action], new_classes: Sequence[str]) -> list[Status]:
        with self.writing() as connection:
            add_classes_in(connection, new_classes)
            in_use = select(schema.classes.c.number, schema.classes.c.name).where(schema.classes.c.state.is_(None))
            numbers = {name: k for k, name in connection.execute(in_use)}
            positions = statements.positions_of(connection, [action.id for action in actions]).tolist()
            used = statements.used_tokens(connection, [action.by.token for action in actions])
            votes = statements.votes_of(connection, positions)
            flags = statements.flags_of(connection, positions)
            first, now = statements.next_number(connection, schema.events.c.number), time.time()
            events: list[dict[str, Any]] = []
            for position, action in zip(positions, actions, strict=True):
                by = action.by
                if by.token in used:
                    continue
                if by.token is not None:
                    used.add(by.token)
                if action.seen is not None:
                    decisions.check_seen(connection, position, action.seen, now)
                before = votes[position].get(by.annotator)
                label = numbered(action.label, numbers, multilabel=self.multilabel) if action.verb == "label" else None
                change = _change_of(action.verb)(before[0] if before is not None else None, label, action.final)
                if change is None:
                    continue
                vote, kind = change
                number = first + len(events)
                flags[position] = FLAGS.get(kind, flags[position])
                if kind not in (*VOTE_KINDS, "un-labeled"):
                    pass  # the vote stays
                elif vote is None:
                    del votes[position][by.annotator]
                else:
                    votes[position][by.annotator] = (vote, number)
                event = {"number": number, "at": now, "kind": kind, "position": position, "annotator": by.annotator}
                what = {"final": action.final, "source": by.source, "seconds": by.seconds, "token": by.token}
                events.append(event | what | row_of(label) | {"text": action.text if action.verb == "comment" else None})
            voters = [(event["position"], event["annotator"]) for event in events if event["kind"] in VOTE_KINDS]
            statements.insert_rows(connection, schema.events, events)
            pairs = dict.fromkeys((event["position"], event["annotator"]) for event in events)
            statements.replace_votes(connection, pairs, votes)
            statements.end_leases(connection, voters)
            statements.settle(connection, {e["position"]: e["number"] for e in events if e["kind"] in _SETTLES})
            decisions.reopen(connection, [action.undoes for action in actions if action.undoes is not None])
            changed = dict.fromkeys(event["position"] for event in events)
            statements.write_status(connection, {p: votes[p] for p in changed}, flags, self.agreement)
            wanted = statements.wanted_of(connection, positions, self.agreement)
            return [statements.status_from(votes[p], wanted[p]) for p in positions]


def add_classes_in(connection: Connection, names: Iterable[str], *, check_only: bool = False) -> None:
    """See :meth:`Store.add_classes`; `check_only` adds none."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if not name or name != name.strip() or not name.isprintable():
            raise DataError(f"{shown(name)} is not a valid class name: use printable characters, without spaces around them")
    if check_only:
        return
    known = list(connection.execute(select(schema.classes.c.name)).scalars())
    new = [name for name in wanted if name not in known]
    statements.insert_rows(connection, schema.classes, ({"number": len(known) + i, "name": n} for i, n in enumerate(new)))


def _names_class(vote: Vote | None) -> bool:
    return vote is not None and vote.label is not None


def _change_of(verb: Verb) -> _Change:
    if verb not in _CHANGES:
        raise DataError(f"there is no verb {shown(verb)}; {nearest_names(verb, _CHANGES)}")
    return _CHANGES[verb]
