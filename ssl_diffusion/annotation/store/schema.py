"""Tables of a job's store, and opening its database: SQLite in the job folder, or PostgreSQL for larger teams.

`events` is append-only: who did what to which sample, when, and what the model predicted then. `votes` and `current` are the
view of it; they change in the transaction that adds the event and can be rebuilt from the events
(:func:`ssl_diffusion.annotation.store.votes.replay`). `leases` is not part of the view: it says who is labeling what.

A sample is a row of `samples`; its position there is its row in the arrays of the job and never leaves the package.
Migrations are Alembic's, see :mod:`ssl_diffusion.annotation.store.upgrades`.
"""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from ssl_diffusion.annotation.store.faults import (
    StoreError,
    StoreUnavailableError,
    database_file,
    shown_url,
    store_name,
    translated,
)

__all__ = [
    "batch",
    "class_events",
    "classes",
    "current",
    "events",
    "examples",
    "leases",
    "metadata",
    "open_store",
    "reading",
    "review",
    "rounds",
    "samples",
    "verdicts",
    "votes",
    "writing",
]

_BUSY = 30.0  # seconds that a writer waits for another
_CONNECT = 10  # seconds that a server has to accept a connection
_LOCK = 7302  # advisory lock of PostgreSQL that every writer takes

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


def _position(**options: Any) -> "Column[int]":
    return Column("position", ForeignKey("samples.position"), nullable=False, **options)


classes = Table(
    "classes",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False, unique=True),
    Column("key", String),  # of the keyboard, as the annotators chose it; NULL takes what is assigned
    Column("state", String),  # NULL: in use; "merged" or "removed"
    Column("into", Integer),  # number of the class that a merged one is now
    Column("target", Integer),  # number of labels that are wanted, 0 for any; NULL takes the job's setting
)

samples = Table(
    "samples",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False, unique=True),
    Column("role", String, nullable=False),  # pool, audit or test
    Column("wanted", Integer),  # votes required; NULL takes the job's setting
    Index("ix_samples_role", "role"),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),  # seconds since 1970, UTC, as everywhere here
    Column("strategy", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("seed", BigInteger().with_variant(Integer, "sqlite"), nullable=False),  # every integer of SQLite has 64 bits
    Column("model", String, nullable=False),
    Column("n_open", Integer, nullable=False),  # samples that could have been drawn
)

batch = Table(
    "batch",
    metadata,
    Column("round", ForeignKey("rounds.number"), primary_key=True),
    _position(primary_key=True),
    Column("draw", Integer),  # rank of the draw, from 1; NULL for samples that no strategy drew
    Column("place", Float, nullable=False),  # order of the queue, smaller first
    Column("utility", Float),
    Column("probability", Float),  # of the draw, given the earlier draws
    Column("predicted", ForeignKey("classes.number")),  # class predicted by the model that chose
    Column("note", String, nullable=False),
    Index("ix_batch_place", "round", "place"),
)

events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    _position(),
    Column("annotator", String, nullable=False),
    Column("class", ForeignKey("classes.number")),
    Column("final", Boolean, nullable=False),  # overrides the votes of others
    Column("source", String, nullable=False),  # page, import, label-studio, ...
    Column("seconds", Float),  # time that the annotator took
    Column("model", String),
    Column("utility", Float),
    Column("probability", Float),
    Column("token", String, unique=True),  # of a request: sent twice, it has one effect
    Column("text", String),  # of a comment
    Column("classes", String),  # of a multi-label job, where "class" is NULL: a JSON list of numbers, increasing
    Index("ix_events_position", "position"),
    Index("ix_events_kind", "kind"),
)

votes = Table(
    "votes",
    metadata,
    _position(primary_key=True),
    Column("annotator", String, primary_key=True),
    Column("class", ForeignKey("classes.number")),  # NULL: skipped
    Column("final", Boolean, nullable=False),
    Column("event", ForeignKey("events.number"), nullable=False),
    Column("classes", String),  # as in `events`; NULL there, too: skipped
)

current = Table(
    "current",
    metadata,
    _position(primary_key=True),
    Column("status", String, nullable=False),
    Column("class", ForeignKey("classes.number")),
    Column("votes", Integer, nullable=False),
    Column("flagged", Boolean, nullable=False),
    Column("classes", String),
    Index("ix_current_status", "status"),
)

leases = Table(
    "leases",
    metadata,
    _position(primary_key=True),
    Column("holder", String, primary_key=True),  # one tab of one annotator
    Column("annotator", String, nullable=False),
    Column("until", Float, nullable=False),
)

# What was done to the classes; a class keeps its number, so that older events keep their meaning.
class_events = Table(
    "class_events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),  # renamed, merged or removed
    Column("annotator", String, nullable=False),
    Column("class", ForeignKey("classes.number"), nullable=False),
    Column("before", String, nullable=False),  # name of the class
    Column("after", String, nullable=False),  # its new name, or the name of the class that it was merged into
)

# Labeled samples that people chose to show what a class looks like; they stand while the sample has the class.
examples = Table(
    "examples",
    metadata,
    Column("class", ForeignKey("classes.number"), primary_key=True),
    _position(primary_key=True),
    Column("at", Float, nullable=False),
)

# What people say of counterfactuals.
verdicts = Table(
    "verdicts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    _position(),
    Column("annotator", String, nullable=False),
    Column("verdict", String, nullable=False),  # true, false or none
    Column("source", ForeignKey("classes.number"), nullable=False),  # class predicted before the change
    Column("target", ForeignKey("classes.number"), nullable=False),  # class predicted after it
    Column("model", String, nullable=False),
    Column("picture", LargeBinary, nullable=False),  # the changed image as the model sees it, PNG
    Column("digest", String, nullable=False),  # of the picture
    Column("seconds", Float),
    Column("token", String, unique=True),
    Index("ix_verdicts_position", "position"),
)

# Samples that a check, not a person, asks to look at again.
review = Table(
    "review",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    _position(),
    Column("kind", String, nullable=False),  # such as "label issue"
    Column("note", String, nullable=False),
    Column("suggested", ForeignKey("classes.number")),
    Column("score", Float, nullable=False),  # larger first
    Column("decided", ForeignKey("events.number")),  # event that settled it; NULL: to be looked at
    Index("ix_review_position", "position"),
)


def open_store(url: str | URL, *, exists: bool = False) -> Engine:
    """Connect to a database by its URL; tables are created and migrated by :func:`~.upgrades.upgrade`.

    Args:
        url: URL of the database; "postgresql" needs no driver's name.
        exists: Whether the store must be there already, so that none is created in the place of a lost one.

    Raises:
        StoreError: If the URL is not of SQLite or PostgreSQL, a driver is missing, the server does not answer, or the file of
            an existing store is missing or empty.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(f"a store is SQLite or PostgreSQL, not {parsed.get_backend_name()!r}: use sqlite:///FILE")
        if parsed.host and "@" in parsed.host:
            raise StoreError(f"the URL of the store {shown_url(parsed)} has an @ in its password: write it as %40")
        lite = parsed.get_backend_name() == "sqlite"
        if exists and (file := database_file(parsed)) is not None:
            _check_file(file)
        engine = create_engine(parsed, connect_args=_arguments(lite), pool_pre_ping=not lite)
        if lite:
            event.listen(engine, "connect", _configure)
            event.listen(engine, "begin", _begin)
        with translated(parsed), engine.connect():
            pass
    except (ArgumentError, NoSuchModuleError, ValueError):
        text = f"{shown_url(url)} is not the URL of a store: use sqlite:///FILE or postgresql://HOST/NAME"
        raise StoreError(text) from None
    except ModuleNotFoundError as error:
        raise StoreError(f"PostgreSQL needs the package {error.name}: pip install 'ssld[postgres]'") from None
    return engine


def _arguments(lite: bool) -> dict[str, Any]:
    if lite:
        return {"timeout": _BUSY}
    # A host that is cut off ends a call, too; whoever waits for a lock is told which program has it.
    alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
    name = f"ssld, process {os.getpid()} on {socket.gethostname()}"
    return {"connect_timeout": _CONNECT, "fallback_application_name": name, **alive}


def _check_file(file: Path) -> None:
    lost = "put back a copy of it, or start anew with another job folder"
    if not file.is_file():
        what = "not a file" if file.exists() else "missing"
        raise StoreError(f"{file}, which holds the labels of the job, is {what}: {lost}")
    if not file.stat().st_size:
        raise StoreError(f"{file}, which holds the labels of the job, is empty: {lost}")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: all its statements see the store at one moment."""
    with translated(engine.url), engine.connect() as connection:
        if connection.dialect.name == "postgresql":  # a transaction of SQLite is that by itself
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A write transaction; one at a time across all processes."""
    with translated(engine.url), engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            _wait_for_others(connection)
        yield connection


def _wait_for_others(connection: Connection) -> None:
    """Take the lock of PostgreSQL that every writer takes, for the rest of the transaction."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(1000 * _BUSY)}")
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
            raise
        query = (
            "SELECT application_name, pid FROM pg_stat_activity JOIN pg_locks USING (pid) "
            f"WHERE locktype = 'advisory' AND objid = {_LOCK} AND granted"
        )
        with connection.engine.connect() as another:
            found = another.exec_driver_sql(query).all()
        whom = " and ".join(f"{name or 'a program'} (process {number} of the server)" for name, number in found)
        raise StoreUnavailableError(
            f"{store_name(connection.engine.url)} is locked by {whom or 'another program'}: "
            "wait until it has finished, or stop it, and try again"
        ) from None


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions are begun in _begin: the driver would begin them late, and as readers.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: what was acknowledged also survives a power failure.
    connection.execute("PRAGMA synchronous = FULL")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later could fail because another writer was faster.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
