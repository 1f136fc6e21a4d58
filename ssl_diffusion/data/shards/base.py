"""What Parquet and tar files have in common once they are open: rows with an id, an image, and perhaps a label and a split."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.shards.places import Place

__all__ = ["Columns", "Content", "Damaged", "Shard", "ShardReader"]

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

    place: Place
    packed: tuple[int, int, int] | None
    schema: str

    @property
    def digest(self) -> str:
        """Digest of its content, hex: equal ones hold the same images under the same ids; see :mod:`~.digests`."""
        ...

    @property
    def parts(self) -> NDArray[np.int64]:
        """Number of the first row of each part that can be read without what is before it, ascending from 0."""
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
