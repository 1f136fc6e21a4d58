"""Arrays and image sources by row number: what a model reads batch by batch, wherever it lies."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.source import ImageSource

__all__ = ["FusedRows", "Rows", "RowsSource", "SelectedRows", "SourceRows", "features_at", "rows_of"]


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

    def features(self, key: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Features of some rows by a backbone, float32 (n, F); None where the rows have none."""
        return features_at(self._base, self._positions[key])


class FusedRows:
    """Images with what a backbone has made of them, or of the files that they come from.

    Args:
        images: Images as the denoiser reads them, N of them.
        features: Features by the backbone, float32 (N, F), in the same order.
    """

    def __init__(self, images: Rows, features: Rows) -> None:
        if len(images) != len(features):
            raise ValueError(f"{len(features)} rows of features for {len(images)} images")
        self._images, self._features = images, features

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: NDArray[np.int64], /) -> NDArray[Any]:
        return self._images[key]

    def features(self, key: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of some rows, float32 (n, F), in the order asked for."""
        return np.asarray(self._features[key])


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


class RowsSource:
    """Images by row number as an image source.

    Args:
        images: Images, uint8 (N, C, H, W).
        ids: Distinct sample ids, (N,).
        image_shape: (C, H, W) of every image.
    """

    def __init__(self, images: Rows, ids: NDArray[np.str_], image_shape: tuple[int, int, int]) -> None:
        self._images, self.ids, self.image_shape = images, ids, image_shape

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: Iterable[str]) -> NDArray[np.uint8]:
        """See :meth:`ImageSource.take`."""
        index = {sample: i for i, sample in enumerate(self.ids.tolist())}
        return np.array(self._images[np.array([index[str(sample)] for sample in ids], dtype=np.int64)])

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint8]]]:
        """See :meth:`ImageSource.batches`."""
        parts = (np.arange(i, min(i + size, len(self))) for i in range(0, len(self), size))
        return ((self.ids[part], np.array(self._images[part])) for part in parts)


def features_at(rows: Rows, key: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Features of some rows by a backbone, float32 (n, F); None where the rows have none.

    Example:
        >>> features_at(np.zeros((3, 1, 8, 8), np.uint8), np.array([0])) is None
        True
    """
    return rows.features(key) if isinstance(rows, FusedRows | SelectedRows) else None


def rows_of(source: Rows | ImageSource) -> Rows:
    """Images by row number: those of an image source in the order of its ids; rows are returned as they are."""
    return SourceRows(source) if isinstance(source, ImageSource) else source
