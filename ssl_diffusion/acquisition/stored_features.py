"""Representations that `ssld embed` wrote of a pool in shards: read part by part, and then only the rows that are wanted."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.shards.base import Columns
from ssl_diffusion.data.shards.parquet import need_pyarrow
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, RunError, first_line
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.shard_parts import part_name
from ssl_diffusion.inference.shard_passes import read_index

__all__ = ["FetchedImages", "Portion", "StoredFeatures"]


class Portion(NamedTuple):
    """Some consecutive rows of a part, without samples that are no candidates.

    Attributes:
        part: Number of the part.
        rows: Numbers of the rows, int64 (n,).
        ids: Sample ids, as an array of pyarrow.
        probabilities: Class probabilities, float32 (n, K); None where they were not asked for, or there are none.
        representation: Representations, float32 (n, F); None where they were not asked for.
    """

    part: int
    rows: NDArray[np.int64]
    ids: Any
    probabilities: NDArray[np.float32] | None
    representation: NDArray[np.float32] | None


class StoredFeatures:
    """A folder of features by sample id.

    Args:
        folder: Folder that `ssld embed` wrote.
        run: Run whose model made them.

    Attributes:
        classified: Whether there are class probabilities.

    Raises:
        RunError: If the folder is not complete, or another model made it.
        DataError: If pyarrow is missing.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self._run = folder, run
        self._index = read_index(folder, "embed")
        if self._index.model != f"{run.digest()} {run.precision}":
            raise RunError(f"{folder} holds representations by another model than that of {run.path}, or of another precision")
        self._paths = [folder / name for name in self._index.parts]
        self.classified = bool(run.classes) and not run.multilabel

    def __len__(self) -> int:
        return self._index.images

    def source(self) -> ShardSource:
        """The shards that the features were made of.

        Raises:
            DataError: If they cannot be read, or one is not what the features were made of.
        """
        columns = Columns(*self._index.columns)
        source = ShardSource(self._index.shards, self._run.image_shape, columns=columns, aspect=self._run.aspect)
        for shard in source.shards:
            if part_name(shard.place.stem, shard.digest) not in self._index.parts:
                raise DataError(f"{shard.place.name} has changed since ssld embed read it, or is new: run ssld embed again")
        return source

    def portions(self, without: Iterable[str], *, probabilities: bool, representation: bool) -> Iterator[Portion]:
        """All candidates, some thousands at once.

        Args:
            without: Ids that are no candidates. Neither are samples of a test split.
            probabilities: Whether class probabilities are wanted.
            representation: Whether representations are wanted.

        Raises:
            RunError: If a part is missing or damaged.
        """
        pyarrow = need_pyarrow("reading features")
        compute = pyarrow.compute
        left_out = pyarrow.array(list(without), pyarrow.string())
        columns = ["id", "split"] + ["probabilities"] * (probabilities and self.classified) + ["embedding"] * representation
        for part in range(len(self._paths)):
            for start, batch in self._batches(part, columns):
                is_out = compute.is_in(batch["id"], value_set=left_out)
                is_test = compute.fill_null(compute.equal(batch["split"], "test"), False)
                kept = np.flatnonzero(~compute.or_(is_out, is_test).to_numpy(zero_copy_only=False))
                ids = batch["id"].take(pyarrow.array(kept))
                values = [_matrix(batch[name])[kept] if name in columns else None for name in ("probabilities", "embedding")]
                yield Portion(part, start + kept, ids, *values)

    def find(self, ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Part and row of those of some samples that there are, by id."""
        pyarrow = need_pyarrow("reading features")
        wanted = pyarrow.array(list(ids), pyarrow.string())
        found: dict[str, tuple[int, int]] = {}
        if not len(wanted):
            return found
        for part in range(len(self._paths)):
            for start, batch in self._batches(part, ["id"]):
                hit = np.flatnonzero(pyarrow.compute.is_in(batch["id"], value_set=wanted).to_numpy(zero_copy_only=False))
                found |= {batch["id"][int(i)].as_py(): (part, start + int(i)) for i in hit}
        return found

    def rows(
        self, part: NDArray[np.int64], row: NDArray[np.int64], *, representation: bool = True
    ) -> tuple[NDArray[np.str_], NDArray[np.float32], NDArray[np.float32] | None]:
        """Ids, representations and class probabilities of some rows: (n,), float32 (n, F) and (n, K).

        Args:
            part: Numbers of the parts, int64 (n,).
            row: Numbers of the rows in their parts, int64 (n,).
            representation: Whether representations are wanted; without, F is 0.
        """
        pyarrow = need_pyarrow("reading features")
        names = ["id"] + ["probabilities"] * self.classified + ["embedding"] * representation
        ids = np.empty(len(row), dtype=object)
        found: dict[str, NDArray[np.float32]] = {}
        for k in np.unique(part).tolist():
            mine = np.flatnonzero(part == k)
            order = mine[np.argsort(row[mine], kind="stable")]
            wanted = row[order]
            for start, batch in self._batches(k, names, wanted):
                low, high = np.searchsorted(wanted, [start, start + len(batch)])
                at = pyarrow.array(wanted[low:high] - start)
                ids[order[low:high]] = batch["id"].take(at).to_pylist()
                for name in names[1:]:
                    values = _matrix(batch[name].take(at))
                    if name not in found:
                        found[name] = np.empty((len(row), values.shape[1]), dtype=np.float32)
                    found[name][order[low:high]] = values
        z = found.get("embedding", np.zeros((len(row), 0), dtype=np.float32))
        return ids.astype(np.str_), z, found.get("probabilities")

    def _batches(self, part: int, columns: list[str], wanted: NDArray[np.int64] | None = None) -> Iterator[tuple[int, Any]]:
        """Row groups of a part with their first rows; `wanted`, ascending, leaves out those without any of these rows."""
        pyarrow = need_pyarrow("reading features")
        path = self._paths[part]
        try:
            with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                start = 0
                for group in range(file.num_row_groups):
                    n = file.metadata.row_group(group).num_rows
                    if wanted is None or np.searchsorted(wanted, start) < np.searchsorted(wanted, start + n):
                        table = file.read_row_group(group, columns=columns, use_threads=False).combine_chunks()
                        if len(table):
                            yield start, table.to_batches()[0]
                    start += n
        except (OSError, pyarrow.ArrowException) as error:
            raise RunError(f"{path} cannot be read ({first_line(error)}): run ssld embed again") from error


class FetchedImages:
    """Images of samples in shards by row number, read when they are asked for.

    Args:
        features: Features whose shards hold the images.
        ids: Sample ids, (N,).
    """

    def __init__(self, features: StoredFeatures, ids: NDArray[np.str_]) -> None:
        self._features, self._ids = features, ids
        self._source: ShardSource | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, key: NDArray[np.int64], /) -> NDArray[np.uint8]:
        if self._source is None:
            try:
                self._source = self._features.source()
            except DataError as error:
                raise DataError(f"this strategy looks at images, and the shards cannot be read: {error}") from error
        return self._source.take(self._ids[key])


def _matrix(column: Any) -> NDArray[np.float32]:
    """A column of lists of one length as an array, (n, F)."""
    values = column.flatten().to_numpy(zero_copy_only=False)
    found: NDArray[np.float32] = values.reshape(len(column), column.type.list_size)
    return found
