"""Stores for tests: SQLite in a folder, and PostgreSQL from a server that is started for the session where its programs are."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from ssl_diffusion.annotation.store import schema

__all__ = ["PostgreSQL", "postgresql_database", "postgresql_program", "postgresql_server"]


class PostgreSQL:
    """A server of its own, which can be stopped as by a crash, and started again with the same data.

    Args:
        programs: Folder of PostgreSQL's programs.
        folder: Empty folder for its data.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        # The server refuses to run as root.
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(folder, "postgres")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        self.url = f"postgresql://ssld@127.0.0.1:{self._port}"
        self._run("initdb", "-U", "ssld", "-A", "trust")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", f"{self._folder}/log", "start")

    def stop(self) -> None:
        """End it at once, whatever its clients are doing."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, self._programs / program, "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


@contextmanager
def postgresql_program() -> Iterator[PostgreSQL | None]:
    """A running server with no data, or None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        server = PostgreSQL(found[-1].parent, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgresql_database(server: str) -> Iterator[str]:
    """URL of the database of a server, which is emptied at the end."""
    url = f"{server}/postgres"
    yield url
    engine = schema.open_store(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


@contextmanager
def postgresql_server() -> Iterator[str | None]:
    """URL of an empty server, or None if PostgreSQL is not installed."""
    with postgresql_program() as server:
        yield server.url if server is not None else None
