"""Shards as an image source: images by id or shard by shard, memory bounded by a batch."""

import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import Aspect, Header, read_header
from ssl_diffusion.data.images import decode_images, listing
from ssl_diffusion.data.shapes import chosen_aspect, common_shape
from ssl_diffusion.data.shards.base import Columns, Content, Damaged, Shard, ShardReader
from ssl_diffusion.data.shards.ids import check_distinct, hash_ids
from ssl_diffusion.data.shards.marks import ShardMark
from ssl_diffusion.data.shards.parquet import ParquetShard
from ssl_diffusion.data.shards.places import Place, find_shards
from ssl_diffusion.data.shards.tar import TarShard
from ssl_diffusion.data.source import check_batch_size
from ssl_diffusion.errors import DataError
from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["ShardBatch", "ShardSource"]

_log = logging.getLogger(__name__)

_OPEN = 8  # shards that stay open for images by id
_ASKED, _LOOKED_AT = 8, 32  # shards, and images of each, that say which shape all have


class ShardBatch(NamedTuple):
    """Images of one shard.

    Attributes:
        rows: Numbers of the rows, from 0, int64 (n,).
        ids: Sample ids, (n,).
        images: Images, uint8 (n, C, H, W).
        skipped: Images that were left out, as (place, reason).
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.str_]
    images: NDArray[np.uint8]
    skipped: list[tuple[str, str]]


class ShardSource:
    """Images in Parquet or tar shards, which are read when they are asked for; see :class:`~ssl_diffusion.data.ImageSource`.

    Args:
        shards: Folder, pattern or URL, or several, as :func:`ssl_diffusion.data.shards.places.find_shards` takes them.
        image_shape: (C, H, W) that every image is converted to; packed images must have it. None finds it: that of packed
            images, else by `size`, `largest` and `channels` from some images of the first shards.
        columns: Names of columns, where they are not the usual ones.
        aspect: Treatment of images with another aspect ratio; "auto" is settled from some images of the first shards.
        size: Side in pixels of the squares that image files are converted to; None keeps the most common size.
        largest: Side of the squares that take the place of a most common size which is higher or wider.
        channels: Channels, 1 or 3; None takes 1 if the images looked at are gray, else 3.
        skip_bad: Whether shards and images that cannot be read are left out; otherwise they are errors.

    Attributes:
        shards: Shards in the order of their paths.
        image_shape: (C, H, W) of every image.
        aspect: Treatment of images with another aspect ratio.
        skip_bad: Whether what cannot be read is left out.
        columns: Names of columns that the user gave.
        skipped: Shards that were left out, as (place, reason).

    Raises:
        DataError: If no shard is found, one cannot be read and `skip_bad` is off, two do not go together, or packed images have
            another shape.

    Example:
        >>> source = ShardSource("shards/*.parquet")  # doctest: +SKIP
        >>> len(source), source.image_shape  # doctest: +SKIP
        (2000000, (3, 32, 32))
    """

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        image_shape: tuple[int, int, int] | None = None,
        *,
        columns: Columns | None = None,
        aspect: Aspect | Literal["auto"] = "squeeze",
        size: int | None = None,
        largest: int | None = None,
        channels: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.skip_bad, self.columns = skip_bad, columns or Columns()
        self.skipped: list[tuple[str, str]] = []
        self.shards: list[Shard] = []
        for place in find_shards(shards):
            try:
                self.shards.append(_opened(place, self.columns))
            except DataError as error:
                if not skip_bad:
                    raise
                self.skipped.append((place.name, str(error)))
        if not self.shards:
            raise DataError(f"none of the {len(self.skipped)} shards can be read: {self.skipped[0][1]}, for one")
        self._check_schemas()
        self._starts = np.cumsum([0, *map(len, self.shards)])
        if not len(self):
            raise DataError(
                f"there are no images in {self.shards[0].place.name}" + (" and others" if len(self.shards) > 1 else "")
            )
        packed = self.shards[0].packed
        if packed is None:
            headers = [] if image_shape and aspect != "auto" else self._some_headers()
            self.image_shape = image_shape or common_shape(headers, size, largest, channels)
            self.aspect: Aspect = chosen_aspect(headers, self.image_shape) if aspect == "auto" else aspect
        else:
            self.image_shape, self.aspect = packed, "squeeze" if aspect == "auto" else aspect
            wanted = image_shape or (channels or packed[0], *((size, size) if size else packed[1:]))
            if wanted != packed:
                raise DataError(
                    f"{self.shards[0].place.name} holds packed images of {_shape(packed)}, not of {_shape(wanted)}: pack the "
                    "images again with that --size and --color"
                )
        self._lock, self._open = threading.Lock(), OrderedDict[int, tuple[ShardReader, ExitStack]]()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        held = {"_lock", "_open", "_last", "_hashed", "ids"}  # what is open, or can be read again, stays here
        return {name: value for name, value in self.__dict__.items() if name not in held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._open = threading.Lock(), OrderedDict()

    @property
    def starts(self) -> NDArray[np.int64]:
        """Position of the first image of each shard among all, and their number at the end, int64 (shards + 1,)."""
        return self._starts.copy()

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Distinct sample ids, (N,), shard by shard; read from their columns when they are first asked for.

        Raises:
            DataError: If an id occurs twice; names both places.
        """
        ids = [shard.ids() for shard in self.shards]
        check_distinct(self.shards, ids.__getitem__)
        return np.concatenate(ids)

    def check_distinct(self) -> None:
        """Raise :class:`DataError` if an id occurs twice, naming both places; holds eight bytes an image, and no id."""
        if "ids" not in self.__dict__:
            check_distinct(self.shards, lambda i: self.shards[i].ids())

    @property
    def marks(self) -> tuple[ShardMark, ...]:
        """What is remembered of each shard, to know it again."""
        return tuple(ShardMark(shard.place.name, shard.digest, len(shard)) for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """Digest of the content of all shards, hex, by their digests: no image is read."""
        return hashlib.sha256("\n".join(sorted(shard.digest for shard in self.shards)).encode()).hexdigest()

    def texts(self, what: Literal["label", "split"]) -> list[str | None]:
        """Labels or splits of all images, in the order of the ids; None where nothing is known."""
        return [text for shard in self.shards for text in shard.texts(what)]

    def positions(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Positions of samples among :attr:`ids`, int64 (n,); raises :class:`DataError` naming the first that is unknown."""
        asked = np.array([str(sample) for sample in ids], dtype=np.str_)
        hashes, order = self._hashed
        keys = hash_ids(asked)
        at = np.searchsorted(hashes, keys)
        found = np.full(len(asked), -1)
        for i, (start, key) in enumerate(zip(at.tolist(), keys, strict=True)):
            while start < len(hashes) and hashes[start] == key:  # more than one round for hashes that collide
                if self.ids[order[start]] == asked[i]:
                    found[i] = order[start]
                start += 1
        if len(found) and found.min() < 0:
            unknown = str(asked[int(found.argmin())])
            raise DataError(f"no sample {unknown!r} among {len(self):,} images of {len(self.shards)} shards")
        return found

    def take(self, ids: Iterable[str]) -> NDArray[np.uint8]:
        """See :meth:`ImageSource.take`; beyond 256 MiB the images are memory-mapped from a temporary file."""
        return self.at(self.positions(ids))

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images by position among the ids, uint8 (n, C, H, W), in the order asked for.

        Args:
            positions: Positions, int64 (n,).

        Raises:
            DataError: If an image cannot be read, whatever `skip_bad` says, or a shard has changed.
        """
        images = allocate((len(positions), *self.image_shape), max_memory=IN_MEMORY)
        shard = np.searchsorted(self._starts, positions, side="right") - 1
        for i in np.unique(shard).tolist():
            mine = np.flatnonzero(shard == i)
            rows = positions[mine] - self._starts[i]
            with self._lock:
                content = self._reader(i).read(rows)
            found, bad = self._decoded(content)
            if bad:
                at = next(iter(bad))
                raise DataError(f"{self.where(i, int(rows[at]))}: {bad[at]}")
            images[mine] = found
        return images

    def content(self, position: int) -> bytes | NDArray[np.uint8]:
        """One image as it lies in its shard: bytes of an image file, or packed pixels, uint8 (C, H, W).

        Args:
            position: Position among the ids.

        Raises:
            DataError: If it cannot be read, or the shard has changed.
        """
        i, row = self.locate(position)
        self.shards[i].place.check()  # one that is kept open would go on giving what was there
        with self._lock:
            return self._reader(i).read(np.array([row]))[0]

    def locate(self, position: int) -> tuple[int, int]:
        """Number of the shard of an image, and of the row in it.

        Args:
            position: Position among the ids.
        """
        i = int(np.searchsorted(self._starts, position, side="right")) - 1
        return i, position - int(self._starts[i])

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint8]]]:
        """See :meth:`ImageSource.batches`; a batch does not reach over the end of a shard, and what `skip_bad` leaves out is
        missing."""
        check_batch_size(size)
        parts = (batch for i in range(len(self.shards)) for batch in self.shard_batches(i, size))
        return ((batch.ids, batch.images) for batch in parts if len(batch.ids))

    def shard_batches(self, i: int, size: int, start: int = 0, stop: int | None = None) -> Iterator[ShardBatch]:
        """The images of one shard in their order, in memory for one batch only.

        Args:
            i: Number of the shard.
            size: Images of a batch, at most.
            start: Number of the first row.
            stop: Number of the row after the last; None reads to the end.

        Raises:
            DataError: If an image cannot be read and `skip_bad` is off; names shard, row and id. Or if the shard has changed.
        """
        shard, ids = self.shards[i], self._shard_ids(i)
        with shard.open() as reader:
            for first, content in reader.stretches(size, start, stop):
                if isinstance(content, Damaged):
                    place = f"{shard.place.name}, rows {content.start} to {content.stop - 1}"
                    if not self.skip_bad:
                        raise DataError(f"{place}: {content.reason}; make the shard again, or leave them out with --skip-bad")
                    yield ShardBatch(np.arange(0), ids[:0], self._nothing(), [(place, content.reason)])
                    continue
                images, bad = self._decoded(content)
                rows = np.arange(first, first + len(images))
                skipped = [(self.where(i, first + at, str(ids[first + at])), reason) for at, reason in sorted(bad.items())]
                if skipped and not self.skip_bad:
                    lines = listing([f"{place}: {reason}" for place, reason in skipped])
                    raise DataError(f"images cannot be read; repair them, or leave them out with --skip-bad:{lines}")
                if bad:
                    kept = np.setdiff1d(np.arange(len(images)), list(bad))
                    images, rows = images[kept], rows[kept]
                yield ShardBatch(rows, ids[rows], images, skipped)
        shard.place.check()

    def where(self, i: int, row: int, sample: str | None = None) -> str:
        """Where an image lies, in words: shard, row from 0, and id."""
        sample = str(self._shard_ids(i)[row]) if sample is None else sample
        return f"{self.shards[i].place.name}, row {row} ({sample!r})"

    def at_shape(self, image_shape: tuple[int, int, int]) -> "ShardSource":
        """The same shards with images of another shape; for shards of image files only.

        Args:
            image_shape: (C, H, W) that every image is converted to.
        """
        other = copy(self)
        other.image_shape = image_shape
        other._lock, other._open = threading.Lock(), OrderedDict()
        return other

    def close(self) -> None:
        """Close the shards that are kept open for images by id; they are opened again when they are needed."""
        with self._lock:
            while self._open:
                self._open.popitem()[1][1].close()

    @cached_property
    def _hashed(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        hashes = hash_ids(self.ids)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def _shard_ids(self, i: int) -> NDArray[np.str_]:
        """Ids of a shard; of the last one asked for they are at hand."""
        if "ids" in self.__dict__:
            return self.ids[self._starts[i] : self._starts[i + 1]]
        last: tuple[int, NDArray[np.str_]] | None = self.__dict__.get("_last")
        if last is None or last[0] != i:
            last = self.__dict__["_last"] = (i, self.shards[i].ids())
        return last[1]

    def _reader(self, i: int) -> ShardReader:
        if i not in self._open:
            stack = ExitStack()
            self._open[i] = stack.enter_context(self.shards[i].open()), stack
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1][1].close()
        self._open.move_to_end(i)
        return self._open[i][0]

    def _decoded(self, content: Content) -> tuple[NDArray[np.uint8], dict[int, str]]:
        return (content, {}) if isinstance(content, np.ndarray) else decode_images(content, self.image_shape, self.aspect)

    def _nothing(self) -> NDArray[np.uint8]:
        return np.empty((0, *self.image_shape), dtype=np.uint8)

    def _check_schemas(self) -> None:
        first = self.shards[0]
        other = next((shard for shard in self.shards if shard.schema != first.schema), None)
        if other is not None:
            raise DataError(
                f"shards have different schemas: {first.place.name} has {first.schema}; {other.place.name} has {other.schema}: "
                "name those that belong together"
            )

    def _some_headers(self) -> list[Header]:
        headers: list[Header] = []
        reason = ""
        for shard in self.shards[:: -(-len(self.shards) // _ASKED)]:
            if not len(shard):
                continue
            with shard.open() as reader:
                for _, content in reader.stretches(_LOOKED_AT, 0, min(_LOOKED_AT, len(shard))):
                    if isinstance(content, Damaged):
                        reason = content.reason
                        continue
                    assert not isinstance(content, np.ndarray)
                    for found in map(read_header, content):
                        if isinstance(found, str):
                            reason = f"{shard.place.name}: {found}"
                        else:
                            headers.append(found)
        if not headers:
            raise DataError(f"no image of {self.shards[0].place.name} can be read: {reason}; see --image-column")
        return headers


def _opened(place: Place, columns: Columns) -> Shard:
    return TarShard(place, columns) if place.is_tar else ParquetShard(place, columns)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
