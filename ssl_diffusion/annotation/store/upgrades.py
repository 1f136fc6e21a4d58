"""Versions of a store: its tables are created, and migrated from those of earlier versions, by Alembic (`migrations/`).

A store of a newer version is refused.
"""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.faults import StoreError, store_name

__all__ = ["upgrade", "versions"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADDED = {"class_events", "examples", "review", "verdicts"}  # tables that stores of earlier versions lack


def upgrade(engine: Engine, *, exists: bool = False) -> None:
    """Create the tables, or migrate those of an older version, in one transaction.

    Args:
        engine: Engine of the database.
        exists: Whether the tables must be there already.

    Raises:
        StoreError: If the store was written by a newer version, has tables of another program, or lacks some.
    """
    with schema.reading(engine) as connection:  # usually nothing is to be done, also with a store that may only be read
        if _is_present(connection, exists):
            return
    # Only here: Alembic takes as long to import as the rest of a command that only reads.
    from alembic import command
    from alembic.config import Config

    with schema.writing(engine) as connection:
        if not _is_present(connection, exists):  # another process may have been faster
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def versions() -> list[str]:
    """Versions that a store may have, the oldest first: `migrations/versions/v0001.py` makes version "0001"."""
    return sorted(path.stem.removeprefix("v") for path in (_MIGRATIONS / "versions").glob("v*.py"))


def _is_present(connection: Connection, exists: bool) -> bool:
    """Whether the tables are those of this version; raises :class:`StoreError` if they cannot be made so."""
    name, known = store_name(connection.engine.url), versions()
    head, there = known[-1], set(inspect(connection).get_table_names())
    found = _version_in(connection) if "alembic_version" in there else None
    if found is not None and found not in known:
        if found.isdigit() and set(schema.metadata.tables) <= there:
            raise StoreError(f"{name} has version {found}, which is newer than this program ({head}): update ssld")
        raise StoreError(f"{name} is the database of another program: use an empty one")
    expected = set(schema.metadata.tables) - (_ADDED if found != head else set())
    if found is not None and (missing := sorted(expected - there)):
        raise StoreError(f"{name} is damaged: it has no table {', '.join(missing)}; put back a copy of it")
    if found is None and exists:
        what = "is the database of another program" if there else "is empty"
        raise StoreError(f"{name} {what}, but should hold the labels of the job: put back a copy of it")
    # A server's database may have tables of extensions.
    if found is None and there and (connection.dialect.name == "sqlite" or there & set(schema.metadata.tables)):
        raise StoreError(f"{name} has tables of another program: use an empty database")
    return found == head


def _version_in(connection: Connection) -> str | None:
    """What Alembic has noted; None before the first migration, and something that is no version if it has noted several."""
    return "+".join(sorted(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())) or None
