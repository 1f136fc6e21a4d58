"""The images of shards by row number, as if they were one array, and as files that other programs can show."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import DAMAGE, open_image, reason_of
from ssl_diffusion.data.images import Progress
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.data.thumbnails import png_of
from ssl_diffusion.errors import DataError
from ssl_diffusion.storage import allocate

__all__ = ["ImageInShard", "ShardImages", "as_array", "ending_of"]

_AT_ONCE = 1024
_ENDINGS = {"BMP": ".bmp", "GIF": ".gif", "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}


class ShardImages:
    """Images of shards as an array of which only what is asked for is read.

    Rows are asked for by number, slice, mask, or array of numbers. Each time their shards are read: consecutive rows are cheap,
    and rows from everywhere cost a row group each.

    Args:
        source: Shards, M images.
        rows: Positions among the ids of the source, int64 (N,); None takes all.

    Attributes:
        source: Shards.
        dtype: Type of the pixels, uint8.
        ndim: Number of axes, 4.

    Example:
        >>> images = ShardImages(ShardSource("shards/*.parquet"))  # doctest: +SKIP
        >>> images[[3, 1]].shape  # doctest: +SKIP
        (2, 3, 32, 32)
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, source: ShardSource, rows: NDArray[np.int64] | None = None) -> None:
        self.source = source
        self.rows = np.arange(len(source)) if rows is None else rows
        self._kept: tuple[NDArray[np.int64], NDArray[np.uint8]] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return len(self.rows), *self.source.image_shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        at = self.rows[key]
        found = self.source.at(np.atleast_1d(at))
        return found[0] if np.ndim(at) == 0 else found

    def kept(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some of the images, uint8 (n, C, H, W), which stay in memory: the same ones are not read again.

        Args:
            rows: Row numbers, int64 (n,).

        Raises:
            DataError: If an image cannot be read, or a shard has changed.
        """
        if self._kept is None or not np.array_equal(self._kept[0], rows):
            self._kept = rows.copy(), self[rows]
        return self._kept[1]

    def read(self, *, max_memory: int | None = None, progress: Progress | None = None) -> NDArray[np.uint8]:
        """All images, uint8 (N, C, H, W), each shard read once from its beginning.

        Args:
            max_memory: Bytes beyond which they are memory-mapped; None keeps them in memory.
            progress: Callback for (images done, images in all).

        Raises:
            DataError: If an image cannot be read, or a shard has changed.
        """
        images = allocate(self.shape, max_memory=max_memory)
        place = np.full(len(self.source), -1)
        place[self.rows] = np.arange(len(self.rows))
        done = 0
        for i, start in enumerate(self.source.starts[:-1].tolist()):
            for batch in self.source.shard_batches(i, _AT_ONCE):
                to = place[start + batch.rows]
                images[to[to >= 0]] = batch.images[to >= 0]
                done += int((to >= 0).sum())
                if progress is not None:
                    progress(done, len(self.rows))
        if done < len(self.rows):
            raise DataError(f"{len(self.rows) - done:,} of {len(self.rows):,} images can no longer be read from the shards")
        return images


def as_array(images: ShardImages) -> NDArray[np.uint8]:
    """The same images, where the type of an array is wanted: they are asked for by row, and have its shape and type.

    Args:
        images: Images of shards.
    """
    return cast(NDArray[np.uint8], images)


@dataclass(frozen=True)
class ImageInShard:
    """One image of a shard as the content of a file: as it lies there or, of packed pixels, as PNG.

    Attributes:
        source: Shards.
        position: Position among the ids of the source.
    """

    source: ShardSource
    position: int

    def __str__(self) -> str:
        return self.source.where(*self.source.locate(self.position))

    @property
    def suffix(self) -> str:
        """Ending of a file with this content, such as ".png".

        Raises:
            DataError: If it cannot be read, or is no image.
        """
        return ".png" if self.source.shards[0].packed is not None else self.load()[1]

    def load(self) -> tuple[bytes, str]:
        """Content and ending of the file, read once.

        Raises:
            DataError: As :attr:`suffix` and :meth:`read_bytes`.
        """
        content = self.read_bytes()
        return content, ending_of(content, str(self))

    def read_bytes(self) -> bytes:
        """Content of the file.

        Raises:
            DataError: If it cannot be read, or the shard has changed.
        """
        content = self.source.content(self.position)
        if isinstance(content, bytes):
            return content
        return png_of(content)


def ending_of(content: bytes, name: str) -> str:
    """Ending of an image file by its content, such as ".png".

    Args:
        content: Content of the file.
        name: Name for messages.

    Raises:
        DataError: If it is no image.

    Example:
        >>> ending_of(Path("cat.png").read_bytes(), "cat")  # doctest: +SKIP
        '.png'
    """
    try:
        with open_image(content) as image:
            return _ENDINGS[image.format or ""]
    except DAMAGE as error:
        raise DataError(f"{name} cannot be shown: {reason_of(content, error)}") from None
