"""The samples of a job known by the content of their images, wherever these lie.

An image file, in a folder or a shard, is known by its bytes. Packed shards hold pixels, so that there a file is what it is
decoded to: what `ssld loop export` made of a packed image is found again, and so is the file that it was packed from.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.data.decoding import Decoded, decode
from ssl_diffusion.errors import DataError

__all__ = ["Contents"]


class Contents:
    """Finds the samples of a job by the content of an image file.

    Args:
        job: Job that has the images.

    Example:
        >>> Contents(job).find(Path("photo.png").read_bytes())  # doctest: +SKIP
        ['cat/1.png']
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def find(self, content: bytes) -> list[str]:
        """Ids of all samples with this content; at the first call every image of the job is read.

        Args:
            content: Content of an image file.
        """
        key, _ = self._key(content)
        return self._samples.get(key, []) if key is not None else []

    def may_be(self, id_: str, content: bytes) -> bool:
        """Whether a sample may have this content: it has, or nothing can be compared.

        That is so where the file of the sample is gone, and where it was packed at another size.

        Args:
            id_: Sample id.
            content: Content of an image file.
        """
        key, comparable = self._key(content)
        try:
            image = self._job.image_content(self._positions[id_])
            known = image.read_bytes() if isinstance(image, Path) else image.source.content(image.position)
        except DataError:
            return True
        return not comparable or key == _digest(known)

    def _key(self, content: bytes) -> tuple[str | None, bool]:
        """Digest of what a file is in this job, None if it is no image; and whether it was not made another size for that."""
        shards = self._job.shards
        if shards is None or not shards.packed:
            return _digest(content), True
        source = shards.images.source
        pixels = np.empty(source.image_shape, dtype=np.uint8)
        found = decode(content, pixels, source.aspect)
        return (_digest(pixels), not found.resized) if isinstance(found, Decoded) else (None, True)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {id_: position for position, id_ in enumerate(self._job.store.ids.tolist())}

    @cached_property
    def _samples(self) -> dict[str, list[str]]:
        """Ids by digest."""
        found, ids = defaultdict[str, list[str]](list), self._job.store.ids
        for position, content in self._contents():
            found[_digest(content)].append(str(ids[position]))
        return dict(found)

    def _contents(self) -> Iterator[tuple[int, bytes | NDArray[np.uint8]]]:
        if self._job.shards is not None:
            yield from self._job.shards.contents()
            return
        for id_, position in self._positions.items():
            file = self._job.image_root / id_
            if file.is_file():
                yield position, file.read_bytes()


def _digest(content: bytes | NDArray[np.uint8]) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()).hexdigest()
