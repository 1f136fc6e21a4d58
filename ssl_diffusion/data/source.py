"""Where images come from: what a pool in memory, files on a disk and shards have in common.

An image source gives uint8 images (n, C, H, W) by sample id, or all of them in batches, wherever they lie.
:class:`~ssl_diffusion.data.pool.Pool` is the source in memory, :class:`FileSource` decodes files when they are asked for.
An implementation of your own inherits the tests of :class:`ssl_diffusion.testing.ImageSourceContract`.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.images import iter_image_batches
from ssl_diffusion.errors import DataError
from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["FileSource", "ImageSource", "check_batch_size"]

_AT_ONCE = 256  # files that are decoded together


@runtime_checkable
class ImageSource(Protocol):
    """Images by sample id, wherever they lie.

    What comes out belongs to the caller: writing to it changes nothing in the source.
    """

    @property
    def ids(self) -> NDArray[np.str_]:
        """Distinct sample ids, (N,), always in the same order."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int:
        """Number of images, N."""

    def take(self, ids: Iterable[str]) -> NDArray[np.uint8]:
        """Images of some samples, uint8 (n, C, H, W), in the order asked for; an id that is asked for twice comes twice.

        Raises:
            DataError: If an id is unknown, or an image cannot be read.
        """

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint8]]]:
        """All images in the order of :attr:`ids`, as (ids, images) of at most `size` samples, none of them empty.

        Raises:
            DataError: If `size` is below 1, or an image cannot be read.
        """


class FileSource:
    """Image files that are decoded when they are asked for; memory does not grow with their number.

    Args:
        paths: Image files, N of them.
        ids: Distinct sample ids of the files, N of them.
        image_shape: (C, H, W) that every image is converted to; C is 1 (gray) or 3 (RGB).
        aspect: Treatment of images with another aspect ratio.

    Attributes:
        paths: Image files, in the order of the ids.
        aspect: Treatment of images with another aspect ratio.

    Raises:
        DataError: If there are not as many ids as files, an id occurs twice, or the shape is impossible.

    Example:
        >>> source = FileSource([Path("photos/cat.jpg")], ["cat"], (3, 64, 64))
        >>> len(source), source.image_shape
        (1, (3, 64, 64))
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        ids: Sequence[str],
        image_shape: tuple[int, int, int],
        aspect: Aspect = "squeeze",
    ) -> None:
        if len(paths) != len(ids):
            raise DataError(f"{len(ids)} ids for {len(paths)} files: give every file an id")
        self._index: dict[str, int] = {}
        for i, sample in enumerate(ids):
            if self._index.setdefault(str(sample), i) != i:
                raise DataError(f"sample ids must be distinct; {str(sample)!r} occurs twice")
        iter_image_batches([], image_shape, 1)  # refuses a shape that no image can have
        self.paths = list(paths)
        self.aspect: Aspect = aspect
        self.ids: NDArray[np.str_] = np.array([str(sample) for sample in ids], dtype=np.str_)
        self.image_shape = image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, ids: Iterable[str]) -> NDArray[np.uint8]:
        """See :meth:`ImageSource.take`; beyond 256 MiB the images are memory-mapped from a temporary file."""
        names = [str(sample) for sample in ids]
        unknown = next((name for name in names if name not in self._index), None)
        if unknown is not None:
            raise DataError(f"no sample {unknown!r} among {len(self)} image files")
        paths = [self.paths[self._index[name]] for name in names]
        images = allocate((len(names), *self.image_shape), max_memory=IN_MEMORY)
        start = 0
        for batch in iter_image_batches(paths, self.image_shape, _AT_ONCE, ids=names, aspect=self.aspect):
            images[start : start + len(batch.ids)] = batch.images
            start += len(batch.ids)
        return images

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint8]]]:
        """See :meth:`ImageSource.batches`; the next batch is decoded while the caller uses this one."""
        check_batch_size(size)
        decoded = iter_image_batches(self.paths, self.image_shape, size, ids=self.ids.tolist(), aspect=self.aspect)
        return ((np.array(batch.ids, dtype=np.str_), batch.images) for batch in decoded)


def check_batch_size(size: int) -> None:
    """Raise :class:`DataError` if a batch of this size would be empty."""
    if size < 1:
        raise DataError(f"the batch size must be 1 or more, not {size}")
