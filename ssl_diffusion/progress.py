"""How long-running work reports its progress: it calls back; who shows it is up to the caller."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ProgressCallback", "ProgressUpdate"]


@dataclass(frozen=True)
class ProgressUpdate:
    """One report: `done` of `total` units of `task`, with a short text about the state of things."""

    task: str
    done: int
    total: int
    unit: str = "images"
    info: str = ""


ProgressCallback = Callable[[ProgressUpdate], None]
