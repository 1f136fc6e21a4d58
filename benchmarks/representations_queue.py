"""Processes share the rows of :mod:`representations`: each takes the first that is neither there nor being made."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from common import find_row

__all__ = ["Queue"]


class Queue:
    """Claims to rows, which end with the process that made them.

    Args:
        folder: Folder of the claims.
        rows: CSV file of the rows that are there.

    Attributes:
        waiting: Whether the last :meth:`take` left out rows that others are making, or that wait for them.
    """

    def __init__(self, folder: Path, rows: Path) -> None:
        self._folder, self._rows = folder, rows
        self.waiting = False
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, keys: Sequence[dict[str, Any] | None]) -> AbstractContextManager[dict[str, Any]] | None:
        """The first free row, to be made inside the context; None if there is none. A key None stands for unknown rows."""
        self.waiting = None in keys
        for key in keys:
            if key is None or find_row(self._rows, key) is not None:
                continue
            name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
            file = os.open(self._folder / name, os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                self.waiting = True
                continue
            if find_row(self._rows, key) is None:  # it may have been finished between the two looks
                return _held(file, key)
            os.close(file)
        return None


@contextmanager
def _held(file: int, key: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        yield key
    finally:
        os.close(file)
