"""How many wrong inputs a test run has tried, and how many of them failed; pytest prints both at its end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["summary", "tried"]

_TRIED: Counter[str] = Counter()
_FAILED: Counter[str] = Counter()


@contextmanager
def tried(kind: str) -> Iterator[None]:
    """Count one wrong input, and its failure if an error leaves the block.

    Args:
        kind: Kind of input, in the plural: "command lines".
    """
    _TRIED[kind] += 1
    try:
        yield
    except BaseException:
        _FAILED[kind] += 1
        raise


def summary() -> list[str]:
    """A line for each kind of input that was tried in this process, and one for all."""
    lines = [f"{kind}: {n:,} tried, {_FAILED[kind]:,} failed" for kind, n in sorted(_TRIED.items())]
    if len(lines) > 1:
        lines.append(f"all: {_TRIED.total():,} tried, {_FAILED.total():,} failed")
    return lines
