"""Parquet shards: counts, shapes and digests come from the footer, ids from their column alone.

Images are bytes of image files, also as the structs {bytes, path} of Hugging Face, or packed pixels: uint8 (C, H, W), binaries
of a fixed size whose shape the footer tells, see :mod:`ssl_diffusion.data.shards.pack`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.shards.base import Columns, Content, Damaged
from ssl_diffusion.data.shards.digests import sampled_digest
from ssl_diffusion.data.shards.places import Place, reading
from ssl_diffusion.errors import DataError, first_line, nearest_names
from ssl_diffusion.settings import shown
from ssl_diffusion.storage import atomic_file

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FACTS", "ParquetShard", "need_pyarrow", "parquet_writer"]

FACTS = b"ssld"
"""Key of the footer under which :mod:`ssl_diffusion.data.shards.pack` keeps its facts, as JSON."""

_IDS = ("id", "sample_id", "image_id", "key", "__key__", "file_name", "filename", "filepath", "path")
_IMAGES = ("image", "img", "images", "image_bytes", "bytes", "content", "jpg", "jpeg", "png", "webp")
_LABELS = ("label", "class", "target")
_MOST_ROWS = 1024  # that are converted at once


def need_pyarrow(what: str) -> Any:
    """The module `pyarrow`, or a :class:`DataError` that says what needs it.

    Args:
        what: Beginning of the sentence, such as "reading Parquet shards".
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{what} needs pyarrow: pip install 'ssld[parquet]'") from error
    return pyarrow


@contextmanager
def parquet_writer(path: Path, schema: "pyarrow.Schema", statistics: Sequence[str]) -> Iterator[Any]:
    """Writer of a Parquet file that is there whole, with checksums of its pages, or not at all.

    Args:
        path: File.
        schema: Columns; `label` and `split` are written as dictionaries.
        statistics: Columns whose smallest and largest value the footer has; those of images say nothing, and take place twice.
    """
    pyarrow = need_pyarrow("writing Parquet")
    with (
        atomic_file(path) as temporary,
        temporary.open("wb") as file,
        pyarrow.parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=["label", "split"],
            write_statistics=list(statistics),
            write_page_checksum=True,
        ) as writer,
    ):
        yield writer


class ParquetShard:
    """One Parquet file; see :class:`~ssl_diffusion.data.shards.base.Shard`.

    Args:
        place: File.
        columns: Names of the columns, where the user gives them.

    Attributes:
        facts: Facts that `ssld pack` wrote into the footer; empty for other files.

    Raises:
        DataError: If it is no Parquet file, is damaged, or has no column of ids or of images.
    """

    def __init__(self, place: Place, columns: Columns) -> None:
        self.place = place
        with self._file() as file, _damage(place):
            footer, schema = file.metadata, file.schema_arrow
            self._n: int = footer.num_rows
            self._groups = np.cumsum([0, *(footer.row_group(i).num_rows for i in range(footer.num_row_groups))])
            self.facts = _facts(footer.metadata or {}, place)
            self._footer = "" if self.facts.get("digest") else _footer_digest(footer, schema)
        names = schema.names
        self._id = _column(place, names, columns.ids, _IDS, "sample ids", "--id-column")
        self._image = _column(place, names, columns.images, _IMAGES, "images", "--image-column")
        label = columns.labels or next((name for name in _LABELS if name in names), "")
        if columns.labels and label not in names:
            raise DataError(f"{place.name} has no column {shown(label)}; {nearest_names(label, names)}")
        self._texts = {"label": label, "split": "split" if "split" in names else ""}
        kind = schema.field(self._image).type
        self.packed = _packed(place, self._image, kind, self.facts)
        self._path, self._structs = self._image, _is_struct(kind)
        if self._structs:
            self._path = f"{self._image}.bytes"
        shape = f" of shape {self.packed}" if self.packed else ""
        self.schema = f"ids in {self._id!r}, images in {self._image!r} as {kind}{shape}" + (
            f", labels in {label!r}" if label else ""
        )

    @cached_property
    def digest(self) -> str:
        """See :attr:`Shard.digest <ssl_diffusion.data.shards.base.Shard.digest>`."""
        return str(self.facts.get("digest") or sampled_digest(self.place, self._footer))

    @property
    def parts(self) -> NDArray[np.int64]:
        """See :attr:`Shard.parts <ssl_diffusion.data.shards.base.Shard.parts>`: the row groups."""
        return np.asarray(self._groups[:-1], dtype=np.int64)

    def __len__(self) -> int:
        return self._n

    def ids(self) -> NDArray[np.str_]:
        """See :meth:`Shard.ids <ssl_diffusion.data.shards.base.Shard.ids>`."""
        found = self._cells(self._id)
        bad = next((i for i, text in enumerate(found) if not text), None)
        if bad is not None:
            raise DataError(f"{self.place.name}, row {bad}: the column {self._id!r} has no id there: fill it in")
        return np.array(found, dtype=np.str_)

    def texts(self, what: str) -> list[str | None]:
        """See :meth:`Shard.texts <ssl_diffusion.data.shards.base.Shard.texts>`."""
        name = self._texts[what]
        return [text.strip() or None if text else None for text in self._cells(name)] if name else [None] * self._n

    @contextmanager
    def open(self) -> Iterator["_ParquetReader"]:
        """See :meth:`Shard.open <ssl_diffusion.data.shards.base.Shard.open>`."""
        with self._file() as file:
            yield _ParquetReader(self, file)

    def _cells(self, name: str) -> list[str | None]:
        pyarrow = need_pyarrow("reading Parquet shards")
        with self._file() as file, _damage(self.place):
            column = file.read(columns=[name]).column(0)
            if pyarrow.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if pyarrow.types.is_floating(column.type) or pyarrow.types.is_nested(column.type):
                raise DataError(
                    f"{self.place.name}: the column {name!r} holds {column.type}, which is no text and no whole number"
                )
            found: list[str | None] = column.cast(pyarrow.string()).to_pylist()
        return found

    @contextmanager
    def _file(self) -> Iterator[Any]:
        pyarrow = need_pyarrow("reading Parquet shards")
        with self.place.open() as raw:
            with _damage(self.place):
                file = pyarrow.parquet.ParquetFile(raw, page_checksum_verification=True, pre_buffer=False)
            yield file


class _ParquetReader:
    """See :class:`~ssl_diffusion.data.shards.base.ShardReader`."""

    def __init__(self, shard: ParquetShard, file: Any) -> None:
        self._shard, self._file = shard, file

    def read(self, rows: NDArray[np.int64]) -> Content:
        groups = self._shard._groups
        at = np.searchsorted(groups, rows, side="right") - 1
        found: dict[int, Any] = {}
        for group in np.unique(at).tolist():
            wanted = set(rows[at == group].tolist())
            for start, part in self._group(group, int(min(wanted)), int(max(wanted)) + 1, _MOST_ROWS):
                found |= {start + i: part[i] for i in range(len(part)) if start + i in wanted}
        parts = [found[row] for row in rows.tolist()]
        if self._shard.packed is None:
            return parts
        return np.array(parts, dtype=np.uint8).reshape(len(parts), *self._shard.packed)

    def stretches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Content | Damaged]]:
        groups, stop = self._shard._groups, len(self._shard) if stop is None else stop
        for group in range(len(groups) - 1):
            first, last = max(start, int(groups[group])), min(stop, int(groups[group + 1]))
            at = first
            try:
                if first < last:
                    for at, part in self._group(group, first, last, size):
                        yield at, part
                        at += len(part)
            except DataError as error:
                yield at, Damaged(at, last, str(error))

    def _group(self, group: int, first: int, last: int, size: int) -> Iterator[tuple[int, Content]]:
        """Images of a row group from one row of the shard to another."""
        at = int(self._shard._groups[group])
        with _damage(self._shard.place):
            for batch in self._file.iter_batches(size, row_groups=[group], columns=[self._shard._path], use_threads=False):
                low, high = max(first - at, 0), min(last - at, len(batch))
                if low < high:
                    yield at + low, self._content(batch.column(0).slice(low, high - low), at + low)
                at += len(batch)
                if at >= last:
                    break

    def _content(self, column: "pyarrow.Array", row: int) -> Content:
        if self._shard._structs:
            column = column.field("bytes")
        if self._shard.packed is None:
            return [value or b"" for value in column.to_pylist()]
        if column.null_count:
            bad = row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(f"{self._shard.place.name}, row {bad}: there is no image")
        n_bytes = int(np.prod(self._shard.packed))
        buffer = np.frombuffer(column.buffers()[1], dtype=np.uint8)
        found = buffer[column.offset * n_bytes : (column.offset + len(column)) * n_bytes]
        return found.reshape(len(column), *self._shard.packed).copy()


@contextmanager
def _damage(place: Place) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into a sentence."""
    pyarrow = need_pyarrow("reading Parquet shards")
    try:
        with reading(place.name):
            yield
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, pyarrow.ArrowException | OSError) and not isinstance(cause, FileNotFoundError | PermissionError):
            raise DataError(f"{place.name} is no Parquet file, or is damaged: {first_line(cause)}") from cause
        raise


def _column(place: Place, names: Sequence[str], given: str, usual: Sequence[str], what: str, option: str) -> str:
    """The column that is given, or has one of the usual names."""
    if given:
        if given not in names:
            raise DataError(f"{place.name} has no column {shown(given)}; {nearest_names(given, names)}")
        return given
    if (found := next((name for name in usual if name in names), None)) is None:
        listed = ", ".join(map(shown, names[:20]))
        raise DataError(f"{place.name} has no column of {what}, such as {usual[0]!r}: name it with {option}, among {listed}")
    return found


def _is_struct(kind: Any) -> bool:
    pyarrow = need_pyarrow("reading Parquet shards")
    return bool(pyarrow.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _packed(place: Place, name: str, kind: Any, facts: dict[str, Any]) -> tuple[int, int, int] | None:
    """Shape of packed images; None for image files.

    Raises:
        DataError: If the column holds no images.
    """
    types = need_pyarrow("reading Parquet shards").types
    if types.is_fixed_size_binary(kind):
        shape = facts.get("shape")
        if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(side, int) and side > 0 for side in shape)):
            raise DataError(
                f"{place.name}: the column {name!r} holds {kind} and the footer tells no shape: pack images with ssld pack"
            )
        c, h, w = shape
        if c * h * w != kind.byte_width:
            raise DataError(
                f"{place.name}: the footer says that images are {c} x {h} x {w}, but the column {name!r} holds {kind}"
            )
        return c, h, w
    inner = kind.field("bytes").type if _is_struct(kind) else kind
    if not (types.is_binary(inner) or types.is_large_binary(inner)):
        raise DataError(
            f"{place.name}: the column {name!r} holds {kind} and no images: bytes of image files are wanted, or what ssld pack "
            "makes; name the column with --image-column"
        )
    return None


def _facts(metadata: dict[bytes, bytes], place: Place) -> dict[str, Any]:
    if FACTS not in metadata:
        return {}
    try:
        facts = json.loads(metadata[FACTS])
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise DataError(f"{place.name} is damaged: what its footer says of images cannot be read; pack it again")
    return facts


def _footer_digest(footer: Any, schema: Any) -> str:
    """Digest of what a footer says: sizes, places and statistics of all columns."""
    said = json.dumps(footer.to_dict(), default=str, sort_keys=True)
    return hashlib.sha256(f"{said}\n{schema}".encode()).hexdigest()
