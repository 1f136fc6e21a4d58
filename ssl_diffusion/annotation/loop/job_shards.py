"""Images of a job that lie in shards: nothing is copied, each is read out of its shard by position when it is wanted.

`shards.json` takes the place of `images.npy` and `images.json`. It holds the digests of the shards that the job was made of, so
that others are refused by name: models and labels belong to these pixels.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shards.base import Damaged
from ssl_diffusion.data.shards.loading import shard_source
from ssl_diffusion.data.shards.marks import ShardMark, changed_shards
from ssl_diffusion.data.shards.rows import ImageInShard, ShardImages
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.storage import atomic_write_text

__all__ = ["JobShards", "save_shards"]

_FILE = "shards.json"
_AT_ONCE = 256  # images
_IN_MEMORY = 4 * 2**30  # bytes of images beyond which a fit maps them from a temporary file


class _Facts(State):
    """Content of `shards.json`."""

    shards: tuple[ShardMark, ...]
    image_shape: tuple[int, int, int]


def save_shards(folder: Path, pool: Pool) -> None:
    """Write `shards.json`.

    Args:
        folder: Job folder.
        pool: Images of shards.
    """
    facts = _Facts(shards=pool.shards, image_shape=pool.image_shape)
    atomic_write_text(folder / _FILE, facts.model_dump_json() + "\n")


class JobShards:
    """The shards of a job.

    Args:
        folder: Job folder.
        data: Place of the shards, and how they are read.
        ids: Sample ids of the job by position, (N,).

    Attributes:
        images: Images by position, uint8 (N, C, H, W), which are read when they are asked for.

    Raises:
        DataError: If the shards cannot be read, or are not those that the job was made of; names some that differ.
    """

    def __init__(self, folder: Path, data: DataSettings, ids: NDArray[np.str_]) -> None:
        facts = read_state(folder / _FILE, _Facts, remedy="it says which shards belong to the job")
        moved = f"if they were moved, say where they are: ssld loop move {folder} --data SHARDS"
        try:
            source = shard_source(data)
        except DataError as error:
            raise DataError(f"{error}; {moved}") from error
        changes = changed_shards(facts.shards, source.marks)
        if changes or source.image_shape != facts.image_shape:
            what = "; ".join(changes) or f"images have shape {source.image_shape}"
            raise DataError(f"these are not the shards that {folder} was made of ({what}): put them back, or {moved}")
        self.images = ShardImages(source, None if len(source) == len(ids) else source.positions(ids))

    @staticmethod
    def known(folder: Path) -> bool:
        """Whether the images of a job lie in shards."""
        return os.path.lexists(folder / _FILE)

    @property
    def folders(self) -> Sequence[Path]:
        """Local folders in which shards lie."""
        places = [shard.place for shard in self.images.source.shards]
        return sorted({Path(place.path).parent for place in places if place.is_local})

    def image(self, position: int) -> ImageInShard:
        """The image of a sample as the content of a file."""
        return ImageInShard(self.images.source, int(self.images.rows[position]))

    @property
    def packed(self) -> bool:
        """Whether the shards hold pixels, and not image files."""
        return self.images.source.shards[0].packed is not None

    def contents(self) -> Iterator[tuple[int, bytes | NDArray[np.uint8]]]:
        """Every image as it lies in its shard, with its position in the job: bytes of an image file, or packed pixels.

        Shards are read one after the other from their beginning. What is damaged is left out.

        Raises:
            DataError: If a shard has changed since it was found.
        """
        source, place = self.images.source, np.full(len(self.images.source), -1)
        place[self.images.rows] = np.arange(len(self.images))
        for start, shard in zip(source.starts[:-1].tolist(), source.shards, strict=True):
            with shard.open() as reader:
                for first, content in reader.stretches(_AT_ONCE):
                    if isinstance(content, Damaged):
                        continue
                    for i, image in enumerate(content, start + first):
                        if place[i] >= 0:
                            yield int(place[i]), image
            shard.place.check()

    def state(self, position: int) -> tuple[int | str, ...]:
        """What tells one version of the shard of a sample from another.

        Raises:
            DataError: If the shard has changed since it was found.
        """
        source = self.images.source
        place = source.shards[source.locate(int(self.images.rows[position]))[0]].place
        place.check()
        return place.path, place.size, place.stamp

    def read(self) -> NDArray[np.uint8]:
        """All images, uint8 (N, C, H, W), as a fit needs them; beyond 4 GiB memory-mapped from a temporary file."""
        return self.images.read(max_memory=_IN_MEMORY)

    def pool(self, name: str, images: NDArray[np.uint8], ids: NDArray[np.str_]) -> Pool:
        """The images of a job without labels, as a pool that is known by its shards.

        Args:
            name: Name of the pool.
            images: Images by position, uint8 (N, C, H, W).
            ids: Sample ids by position, (N,).
        """
        source, n = self.images.source, len(ids)
        nothing = np.full(n, -1)
        return Pool(name, images, ids, nothing, (), np.zeros(n, dtype=np.bool_), aspect=source.aspect, shards=source.marks)
