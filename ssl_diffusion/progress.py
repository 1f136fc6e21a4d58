"""How long-running work reports: it calls back and logs; who shows it, and where, is up to the caller."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["ProgressCallback", "ProgressUpdate", "log_to"]


@dataclass(frozen=True)
class ProgressUpdate:
    """One report: `done` of `total` units of `task`, with a short text about the state of things."""

    task: str
    done: int
    total: int
    unit: str = "images"
    info: str = ""


ProgressCallback = Callable[[ProgressUpdate], None]


@contextmanager
def log_to(handler: logging.Handler) -> Iterator[None]:
    """Send what the library logs, from INFO on, to a handler too; closes it in the end."""
    logger = logging.getLogger("ssl_diffusion")
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
