"""What databases raise, as sentences; which of it passes; and URLs without their passwords.

Everything that SQLAlchemy raises while a store is used goes through :func:`translated`, so no other module knows its errors.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ssl_diffusion.errors import SSLDError

__all__ = [
    "StoreError",
    "StoreUnavailableError",
    "database_file",
    "holders",
    "retried",
    "shown_url",
    "store_name",
    "translated",
]

PATIENCE = 3.0  # seconds for which a call is tried again while the server is away
_PAUSE = 0.1  # seconds before the first repetition; doubled every time
_SECRET_KEYS = ("password", "sslpassword", "passfile")
_HIDDEN = "***"

P = ParamSpec("P")
R = TypeVar("R")


class StoreError(SSLDError):
    """The database of a job cannot be opened, read or written, or is not the job's."""


class StoreUnavailableError(StoreError):
    """The database does not answer, or is held by another; the same call may succeed later."""


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn the errors of a database into :class:`StoreError`.

    Args:
        url: URL of the store; its password does not appear in messages.

    Raises:
        StoreUnavailableError: If the server is away, or another process holds the store for too long.
        StoreError: If the disk is full or read-only, the store is damaged, or lacks a table.
    """
    try:
        yield
    except PoolTimeout:
        raise StoreUnavailableError(f"{store_name(url)} is busy with too many requests: try again") from None
    except DBAPIError as error:
        # Without a cause: it would hold the connection string.
        raise (_of_sqlite if url.get_backend_name() == "sqlite" else _of_postgresql)(url, error) from None


def _of_sqlite(url: URL, error: DBAPIError) -> StoreError:
    name = store_name(url)
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without the extension
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        by = holders(Path(url.database or ""))
        who = f"locked by {by}" if by else "locked by another program"
        return StoreUnavailableError(f"{name} is {who}: wait until it has finished, or stop it, and try again")
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"the disk is full, so {name} was not changed: free some space and repeat the command")
    if code == sqlite3.SQLITE_READONLY:
        return StoreError(f"{name} is read-only, so it was not changed: allow writing to the file and its folder")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreError(f"{name} cannot be opened: check that its folder exists, and that you may write there")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreError(f"{name} is damaged ({_short(error)}): put back a copy of this file")
    if _short(error).startswith(("no such table", "no such column")):
        return StoreError(f"{name} is damaged or of another program ({_short(error)}): put back a copy of this file")
    return StoreError(f"{name} cannot be used ({_short(error)})")


_STATES = {
    "53100": "its disk is full, so nothing was changed: free some space there and repeat the command",
    "25006": "it is read-only, so nothing was changed: allow this user to write there",
    "42501": "this user may not do that: grant it the rights of the owner of the tables",
    "42P01": "it is damaged or of another program: put back a copy of the database",
    "42703": "it is damaged or of another program: put back a copy of the database",
}
_AWAY = ("08", "57P", "53300", "55P03", "40")  # connection lost, shut down, too many connections, locked, deadlock


def _of_postgresql(url: URL, error: DBAPIError) -> StoreError:
    name = store_name(url)
    said = _without_password(_short(error), url)
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == "55P03":
        return StoreUnavailableError(f"{name} is locked by another program: wait until it has finished, or stop it ({said})")
    if error.connection_invalidated or state.startswith(_AWAY) or (not state and type(error).__name__ == "OperationalError"):
        return StoreUnavailableError(
            f"{name} does not answer ({said}): what was acknowledged is kept; start the server, or wait for it, and go on"
        )
    return StoreError(f"{name} cannot be used ({said}): {_STATES[state]}" if state in _STATES else f"{name} failed ({said})")


def holders(path: Path) -> str:
    """The processes that hold a write lock on a file of SQLite, as text; "" where that is not known."""
    files = [path, path.with_name(f"{path.name}-shm")]
    found: dict[int, str] = {}
    with suppress(OSError, ValueError, IndexError):
        nodes = {file.stat().st_ino for file in files if file.exists()}
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()  # 1: POSIX ADVISORY WRITE 4711 fe:00:131082 120 120
            if words[1] == "->" or words[3] != "WRITE" or int(words[5].rpartition(":")[2]) not in nodes:
                continue
            if (process := int(words[4])) > 0:
                found[process] = _command(process)
    return " and ".join(f"process {process}{f' ({name})' if name else ''}" for process, name in found.items())


def _command(process: int) -> str:
    if process == os.getpid():
        return "this one"
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""


_trying: ContextVar[bool] = ContextVar("trying", default=False)


def retried(call: Callable[P, R]) -> Callable[P, R]:
    """Repeat a call for some seconds while the database is away, as when its server is started again.

    The call must have one effect however often it is made: a connection can be lost after the server has committed.
    """

    @wraps(call)
    def again(*args: P.args, **kwargs: P.kwargs) -> R:
        if _trying.get():  # a call inside another one: that one repeats
            return call(*args, **kwargs)
        state = _trying.set(True)
        end, pause = time.monotonic() + PATIENCE, _PAUSE
        try:
            while True:
                try:
                    return call(*args, **kwargs)
                except StoreUnavailableError:
                    if time.monotonic() + pause > end:
                        raise
                time.sleep(pause)
                pause *= 2
        finally:
            _trying.reset(state)

    return again


def shown_url(url: URL | str) -> str:
    """A URL as it may be shown: passwords are hidden, also those of a text that is no URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        before, at, rest = str(url).partition("?")[0].rpartition("@")
        return f"{_HIDDEN}@{rest}" if at else before + rest
    query = {key: _HIDDEN if key in _SECRET_KEYS else value for key, value in parsed.query.items()}
    if parsed.host and "@" in parsed.host:  # a password with an @ that should be %40
        parsed = parsed.set(host=parsed.host.rpartition("@")[2])
    return parsed.set(query=query).render_as_string(hide_password=True)


def store_name(url: URL) -> str:
    """A store in a message: its file, or its URL."""
    return f"the store {database_file(url) or shown_url(url)}"


def database_file(url: URL) -> Path | None:
    """File of a SQLite store; None for a server or a database in memory."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:" or "uri" in url.query:
        return None
    return Path(url.database)


def _without_password(text: str, url: URL) -> str:
    secrets = [str(url.password or ""), *(str(url.query[key]) for key in _SECRET_KEYS if key in url.query)]
    for secret in filter(None, secrets):
        text = text.replace(secret, _HIDDEN)
    return text


def _short(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
