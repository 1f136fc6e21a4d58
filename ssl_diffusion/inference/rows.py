"""Arrays and image sources by row number: what a model reads batch by batch, wherever it lies."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.source import ImageSource

__all__ = ["Rows", "SelectedRows", "SourceRows", "rows_of"]


class Rows(Protocol):
    """N rows that can be asked for by number; NumPy arrays, in memory or memory-mapped, are such rows."""

    def __len__(self) -> int:
        """Number of rows, N."""
        ...

    def __getitem__(self, key: NDArray[np.int64], /) -> NDArray[Any]:
        """Some rows, (n, ...), in the order asked for."""
        ...


class SelectedRows:
    """Some rows of others, which are read when they are asked for.

    Args:
        base: Rows to select from, N of them.
        positions: Row numbers of the selected images, int64 (n,).
    """

    def __init__(self, base: Rows, positions: NDArray[np.int64]) -> None:
        self._base, self._positions = base, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, key: NDArray[np.int64], /) -> NDArray[Any]:
        return self._base[self._positions[key]]


class SourceRows:
    """Images of a source by their place among its ids.

    Args:
        source: Images by sample id, N of them.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source, self._ids = source, source.ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, key: NDArray[np.int64], /) -> NDArray[np.uint8]:
        return self._source.take(self._ids[key])


def rows_of(source: Rows | ImageSource) -> Rows:
    """Images by row number: those of an image source in the order of its ids; rows are returned as they are."""
    return SourceRows(source) if isinstance(source, ImageSource) else source
