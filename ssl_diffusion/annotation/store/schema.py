"""Tables of a job's store, and opening its database: SQLite in the job folder, or PostgreSQL for larger teams.

`events` is append-only: who did what to which sample, when, and what the model predicted then. `votes` and `current` are the
view of it; they change in the transaction that adds the event and can be rebuilt from the events
(:func:`ssl_diffusion.annotation.store.votes.replay`). `leases` is not part of the view: it says who is labeling what.

A sample is a row of `samples`; its position there is its row in the arrays of the job and never leaves the package.
Migrations are Alembic's (`migrations/`); a store of a newer version is refused.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ssl_diffusion.errors import SSLDError

__all__ = [
    "batch",
    "classes",
    "current",
    "events",
    "leases",
    "metadata",
    "open_store",
    "rounds",
    "samples",
    "upgrade",
    "votes",
    "writing",
]

_BUSY = 30.0  # seconds that a writer waits for another
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
    Column("seed", Integer, nullable=False),
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
)

current = Table(
    "current",
    metadata,
    _position(primary_key=True),
    Column("status", String, nullable=False),
    Column("class", ForeignKey("classes.number")),
    Column("votes", Integer, nullable=False),
    Column("flagged", Boolean, nullable=False),
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


def open_store(url: str) -> Engine:
    """Connect to a database by its URL; tables are created and migrated by :func:`upgrade`.

    Raises:
        SSLDError: If the URL is not of SQLite or PostgreSQL, a driver is missing, or the server does not answer.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise SSLDError(f"a store is SQLite or PostgreSQL, not {parsed.get_backend_name()!r}: use sqlite:///FILE")
        lite = parsed.get_backend_name() == "sqlite"
        engine = create_engine(parsed, connect_args={"timeout": _BUSY} if lite else {}, pool_pre_ping=not lite)
        if lite:
            event.listen(engine, "connect", _configure)
            event.listen(engine, "begin", _begin)
        with engine.connect():
            pass
    except (ArgumentError, NoSuchModuleError) as error:
        raise SSLDError(f"{url!r} is not the URL of a store ({error}): use sqlite:///FILE or postgresql://HOST/NAME") from None
    except ModuleNotFoundError as error:
        raise SSLDError(f"PostgreSQL needs the package {error.name}: pip install 'ssld[postgres]'") from None
    except DBAPIError as error:
        shown = make_url(url).render_as_string(hide_password=True)
        raise SSLDError(f"the store {shown} cannot be opened ({_short(error)})") from None
    return engine


def upgrade(engine: Engine) -> None:
    """Create the tables, or migrate those of an older version, in one transaction.

    Raises:
        SSLDError: If the store was written by a newer version, or the database has tables of another program.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with writing(engine) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
        if found == script.get_current_head():
            return
        known = {revision.revision for revision in script.walk_revisions()}
        if found is not None and found not in known:
            raise SSLDError(
                f"the store has version {found}, which is newer than this program ({script.get_current_head()}): update ssld"
            )
        if found is None and inspect(connection).has_table("samples"):
            raise SSLDError("the database has tables of another program: use an empty one")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A write transaction; one at a time across all processes."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield connection


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


def _short(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
