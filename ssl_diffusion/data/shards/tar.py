"""Tar shards in the layout of WebDataset: files of one sample share the path up to the first dot of the name, its key.

`cats/0001.jpg` with `cats/0001.cls` is an image with a label; the id is the key, `cats/0001`. Headers are read once, and
nothing but headers: every image is then read from its place. Python's own `tarfile` does that. The package `webdataset` reads
shards from front to back only, which neither finds an image by id nor goes on in the middle; `litdata` converts tar files.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.image_files import ENDINGS
from ssl_diffusion.data.shards.base import Columns, Content, Damaged
from ssl_diffusion.data.shards.digests import sampled_digest
from ssl_diffusion.data.shards.places import Place, reading
from ssl_diffusion.errors import DataError, first_line

__all__ = ["TarShard"]

_LONGEST_TEXT = 1024  # bytes of a label
_TOGETHER = 256  # files of a part


class TarShard:
    """One tar file; see :class:`~ssl_diffusion.data.shards.base.Shard`.

    Args:
        place: File.
        columns: Names of columns; those of images and labels are endings here, such as "jpg" and "cls".

    Raises:
        DataError: If it is no tar file, is damaged, or holds no image.
    """

    packed: tuple[int, int, int] | None = None

    def __init__(self, place: Place, columns: Columns) -> None:
        self.place = place
        images = (f".{columns.images.lower().lstrip('.')}",) if columns.images else ENDINGS
        labels = (columns.labels.lower().lstrip("."),) if columns.labels else ("cls", "label")
        keys: list[str] = []
        spans: list[tuple[int, int]] = []
        seen: set[str] = set()
        self._texts: dict[str, dict[str, tuple[int, int]]] = {"label": {}, "split": {}}
        digest = hashlib.sha256(str(place.size).encode())
        with place.open() as raw, _damage(place), tarfile.open(fileobj=raw, mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if not member.isfile() or name.startswith("."):
                    continue
                stem, _, ending = name.partition(".")
                key = f"{folder.removeprefix('./')}/{stem}".lstrip("/") if folder not in ("", ".") else stem
                digest.update(f"{member.name}\0{member.offset_data}\0{member.size}\0{member.mtime}\0".encode(errors="replace"))
                if f".{ending.lower()}".endswith(images):
                    if key in seen:
                        raise DataError(
                            f"{place.name}: the sample {key!r} has two images: name the ending to take with --image-column"
                        )
                    seen.add(key)
                    keys.append(key)
                    spans.append((member.offset_data, member.size))
                elif ending.lower() in labels:
                    self._texts["label"][key] = member.offset_data, member.size
                elif ending.lower() == "split":
                    self._texts["split"][key] = member.offset_data, member.size
                archive.members = []  # type: ignore[attr-defined]  # which tarfile would collect
        if not keys:
            raise DataError(f"{place.name} holds no images: their names must end in {', '.join(images)}")
        self._keys = np.array(keys, dtype=np.str_)
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self._headers = digest.hexdigest()
        self.schema = "samples of files that share a key"

    @cached_property
    def digest(self) -> str:
        """See :attr:`Shard.digest <ssl_diffusion.data.shards.base.Shard.digest>`."""
        return sampled_digest(self.place, self._headers)

    @property
    def parts(self) -> NDArray[np.int64]:
        """See :attr:`Shard.parts <ssl_diffusion.data.shards.base.Shard.parts>`: some files that follow each other."""
        return np.arange(0, len(self), _TOGETHER)

    def __len__(self) -> int:
        return len(self._keys)

    def ids(self) -> NDArray[np.str_]:
        """See :meth:`Shard.ids <ssl_diffusion.data.shards.base.Shard.ids>`."""
        return self._keys.copy()

    def texts(self, what: str) -> list[str | None]:
        """See :meth:`Shard.texts <ssl_diffusion.data.shards.base.Shard.texts>`."""
        spans = self._texts[what]
        if not spans:
            return [None] * len(self)
        found: list[str | None] = []
        with self.place.open() as raw, _damage(self.place):
            for key in self._keys.tolist():
                start, size = spans.get(key, (0, 0))
                if size > _LONGEST_TEXT:
                    raise DataError(f"{self.place.name}: the {what} of {key!r} has {size:,} bytes, which is no name")
                found.append(_bytes(raw, start, size).decode(errors="replace").strip() or None if size else None)
        return found

    @contextmanager
    def open(self) -> Iterator["_TarReader"]:
        """See :meth:`Shard.open <ssl_diffusion.data.shards.base.Shard.open>`."""
        with self.place.open() as raw:
            yield _TarReader(self, raw)


class _TarReader:
    """See :class:`~ssl_diffusion.data.shards.base.ShardReader`."""

    def __init__(self, shard: TarShard, raw: Any) -> None:
        self._shard, self._raw = shard, raw

    def read(self, rows: NDArray[np.int64]) -> Content:
        with _damage(self._shard.place):
            return [_bytes(self._raw, start, size) for start, size in self._shard._spans[rows].tolist()]

    def stretches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Content | Damaged]]:
        stop = len(self._shard) if stop is None else stop
        for first in range(start, stop, size):
            rows = np.arange(first, min(first + size, stop))
            try:
                yield first, self.read(rows)
            except DataError as error:
                yield first, Damaged(first, int(rows[-1]) + 1, str(error))


def _bytes(raw: Any, start: int, size: int) -> bytes:
    """The bytes of one file; fewer, where the tar file is cut off."""
    raw.seek(start)
    found: bytes = raw.read(size)
    return found


@contextmanager
def _damage(place: Place) -> Iterator[None]:
    """Turn what tarfile raises for a damaged file into a sentence."""
    try:
        with reading(place.name):
            yield
    except DataError as error:
        if isinstance(error.__cause__, tarfile.TarError):
            raise DataError(f"{place.name} is no tar file, or is damaged: {first_line(error.__cause__)}") from error.__cause__
        raise
