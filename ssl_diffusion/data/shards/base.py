"""What Parquet and tar files have in common once they are open: rows with an id, an image, and perhaps a label and a split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ssl_diffusion.data.shards.places import Place

__all__ = ["Columns", "Content", "Damaged", "Shard", "ShardMark", "ShardReader", "changed_shards"]

_SHOWN = 3  # names in a message

Content = NDArray[np.uint8] | list[bytes]
"""Images of some rows: packed, uint8 (n, C, H, W), or the bytes of n image files; those of none are empty."""


@dataclass(frozen=True)
class Columns:
    """Names of columns that the user gives; "" finds each by its usual names.

    Attributes:
        ids: Column of sample ids.
        images: Column of images.
        labels: Column of labels.
    """

    ids: str = ""
    images: str = ""
    labels: str = ""


@dataclass(frozen=True)
class Damaged:
    """Rows that cannot be read, one after the other.

    Attributes:
        start: Number of the first row, from 0.
        stop: Number of the row after the last.
        reason: Why they cannot be read.
    """

    start: int
    stop: int
    reason: str


class ShardMark(NamedTuple):
    """What is remembered of a shard that was read, to know it again.

    Attributes:
        name: Path or URL for messages.
        digest: Digest of its content, hex.
        images: Number of images.
    """

    name: str
    digest: str
    images: int

    @property
    def file(self) -> str:
        """Name of the file without its folder."""
        return self.name.rpartition("/")[2]


def changed_shards(before: Sequence[ShardMark], now: Sequence[ShardMark]) -> list[str]:
    """Differences between shards as they were and as they are, a phrase each; empty if there are none.

    Shards with the same digest are the same wherever they lie. Those without a match are compared by the names of their files.

    Args:
        before: Marks of the shards as they were.
        now: Marks of the shards as they are.

    Example:
        >>> changed_shards([ShardMark("s/0.tar", "a", 9)], [ShardMark("t/0.tar", "b", 9)])
        ['1 of 1 shards has another content: t/0.tar']
    """
    if [mark.digest for mark in before] == [mark.digest for mark in now]:
        return []
    lost = {mark.file: mark for mark in _without(before, now)}
    new = {mark.file: mark for mark in _without(now, before)}
    phrases = []
    for names, one, many in (
        ([new[file].name for file in lost if file in new], "has another content", "have another content"),
        ([mark.name for file, mark in lost.items() if file not in new], "is gone", "are gone"),
        ([mark.name for file, mark in new.items() if file not in lost], "is new", "are new"),
    ):
        if names:
            shown = ", ".join(names[:_SHOWN]) + (" ..." if names[_SHOWN:] else "")
            phrases.append(f"{len(names)} of {len(before)} shards {one if len(names) == 1 else many}: {shown}")
    return phrases or ["the shards have another order"]


def _without(some: Sequence[ShardMark], others: Sequence[ShardMark]) -> list[ShardMark]:
    """Shards whose content the others do not have, or not as often."""
    left, found = Counter(mark.digest for mark in others), []
    there = {(mark.file, mark.digest) for mark in others}
    for mark in sorted(some, key=lambda mark: (mark.file, mark.digest) not in there):  # of copies, those that stayed come first
        if not left[mark.digest]:
            found.append(mark)
        left[mark.digest] -= bool(left[mark.digest])
    return found


class ShardReader(Protocol):
    """An open shard; for one reader at a time."""

    def read(self, rows: NDArray[np.int64]) -> Content:
        """Images of some rows, in the order asked for.

        Raises:
            DataError: If the shard is damaged there.
        """
        ...

    def stretches(self, size: int, start: int = 0, stop: int | None = None) -> "Iterator[tuple[int, Content | Damaged]]":
        """All images from one row to another, as (number of the first row, at most `size` images), in memory for one part only.

        What is damaged comes as :class:`Damaged`, and reading goes on behind it.
        """
        ...


class Shard(Protocol):
    """A shard whose footer, or headers, have been read, but no image.

    Attributes:
        place: File of the shard.
        packed: (C, H, W) of packed images; None where they are image files.
        schema: Description of its columns, equal for shards that can be read together.
    """

    place: "Place"
    packed: tuple[int, int, int] | None
    schema: str

    @property
    def digest(self) -> str:
        """Digest of its content, hex: equal ones hold the same images under the same ids; see :mod:`~.digests`."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def ids(self) -> NDArray[np.str_]:
        """Sample ids, (n,), read without reading images.

        Raises:
            DataError: If one is missing.
        """
        ...

    def texts(self, what: str) -> list[str | None]:
        """Cells of the column "label" or "split", n of them, None where nothing is known."""
        ...

    def open(self) -> AbstractContextManager[ShardReader]:
        """Open the shard to read images.

        Raises:
            DataError: If it cannot be read, or has changed since it was found.
        """
        ...
