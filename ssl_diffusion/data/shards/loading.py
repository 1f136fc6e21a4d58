"""A pool in memory, or memory-mapped, of what shards hold, with labels from the shards or from a CSV file."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.images import Progress
from ssl_diffusion.data.label_columns import split_cells
from ssl_diffusion.data.listings import LABEL_COLUMNS, Sample, check_test_classes
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import LARGEST_SIDE, DataSettings
from ssl_diffusion.data.shards.base import Columns
from ssl_diffusion.data.shards.ids import meant_ids
from ssl_diffusion.data.shards.rows import ShardImages, as_array
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError
from ssl_diffusion.outputs import shown_path
from ssl_diffusion.settings import shown
from ssl_diffusion.storage import allocate

__all__ = ["load_shards", "pool_name", "shard_source"]

_AT_ONCE = 1024
_SPLITS = ("train", "test", "unlabeled")


def load_shards(
    data: DataSettings, *, max_memory: int | None = None, lazy: bool = False, progress: Progress | None = None
) -> Pool:
    """Read Parquet or tar shards into a pool.

    Args:
        data: Section [data] of a recipe, whose path names shards.
        max_memory: Bytes of images beyond which the pool is memory-mapped; None keeps it in memory.
        lazy: Whether images stay in the shards, and are read when they are asked for; with `skip_bad` each is read once, to
            find out which can be.
        progress: Callback for (images done, images in all).

    Raises:
        DataError: If shards, or the labels, cannot be used.

    Example:
        >>> pool = load_shards(DataSettings(path="shards/*.parquet", labels="labels.csv"))  # doctest: +SKIP
    """
    source = shard_source(data)
    samples = _from_table(Path(data.labels), data.label_column, source.ids) if data.labels else _from_shards(source)
    check_test_classes(Path(data.labels or data.path), samples)
    skipped = list(source.skipped)
    images, rows = _read(source, skipped, max_memory, lazy, progress)
    samples = [samples[row] for row in rows.tolist()]
    classes = tuple(sorted(set().union(*(sample.labels or () for sample in samples))))
    index = {name: k for k, name in enumerate(classes)}
    labels = np.array([index[next(iter(sample.labels))] if sample.labels else -1 for sample in samples], dtype=np.int64)
    return Pool(
        name=pool_name(data.path),
        images=images,
        ids=source.ids[rows],
        labels=labels,
        classes=classes,
        is_test=np.array([sample.is_test for sample in samples], dtype=np.bool_),
        augmentation="photo",
        notes=[f"{len(rows):,} images of {len(source.shards)} shards"],
        skipped=skipped,
        aspect=source.aspect,
        shards=source.marks,
    )


def shard_source(data: DataSettings) -> ShardSource:
    """The shards that a recipe names, at the size that it says.

    Args:
        data: Section [data] of a recipe, whose path names shards.

    Raises:
        DataError: As :class:`ShardSource`.

    Example:
        >>> len(shard_source(DataSettings(path="shards/*.parquet")))  # doctest: +SKIP
        2000000
    """
    return ShardSource(
        data.path,
        columns=Columns(data.id_column, data.image_column, "" if data.labels else data.label_column),
        aspect=data.aspect,
        size=data.size if data.size > 0 else None,
        largest=LARGEST_SIDE if data.size < 0 else None,
        channels={"gray": 1, "rgb": 3}.get(data.color),
        skip_bad=data.skip_bad,
    )


def _from_shards(source: ShardSource) -> list[Sample]:
    samples = []
    for label, split in zip(source.texts("label"), source.texts("split"), strict=True):
        which = (split or "train").lower()
        if which not in _SPLITS:
            raise DataError(f"the column split of the shards holds {shown(split)}, and may hold {', '.join(_SPLITS)}")
        samples.append(Sample(frozenset({label}) if label and which != "unlabeled" else None, which == "test"))
    return samples


def _from_table(path: Path, column: str, ids: NDArray[np.str_]) -> list[Sample]:
    """Labels and splits of all samples by a CSV file that names some of them."""
    table = read_table(path)
    names = table.any_case("id", "sample_id")
    if not names:
        raise DataError(f"{shown_path(path)} has no column id: name the samples in it as the shards do")
    label = column or next(iter(table.any_case(*LABEL_COLUMNS)), None)
    if label is None:
        raise DataError(f"{shown_path(path)} has no column of labels, such as label: name it with --label-column")
    split = next(iter(table.any_case("split")), None)
    splits = split_cells(table, split) if split is not None else ["train"] * len(table.rows)
    found: dict[str, Sample] = {}
    for number, sample, cell, which in zip(table.numbers, table.column(names[0]), table.column(label), splits, strict=True):
        if sample in found:
            raise DataError(f"{shown_path(path)}: row {number} names the sample {shown(sample)} again: remove one of the rows")
        text = cell.strip()
        found[sample] = Sample(frozenset({text}) if text and which != "unlabeled" else None, which == "test")
    known = set(ids.tolist())
    if unknown := [sample for sample in found if sample not in known]:
        raise DataError(
            f"{shown_path(path)} has labels for {len(unknown)} samples that no shard has, {shown(unknown[0])} for one; "
            f"{meant_ids(unknown[0], ids.tolist())}"
        )
    nothing = Sample(None, False)
    return [found.get(sample, nothing) for sample in ids.tolist()]


def _read(
    source: ShardSource, skipped: list[tuple[str, str]], max_memory: int | None, lazy: bool, progress: Progress | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images that can be read, and their positions; adds the others to what was skipped."""
    if lazy and not source.skip_bad:
        return as_array(ShardImages(source)), np.arange(len(source))
    images = allocate((0 if lazy else len(source), *source.image_shape), max_memory=max_memory)
    kept: list[NDArray[np.int64]] = []
    n = 0
    for i, start in enumerate(source.starts[:-1].tolist()):
        for batch in source.shard_batches(i, _AT_ONCE):
            if not lazy:
                images[n : n + len(batch.rows)] = batch.images
            n += len(batch.rows)
            kept.append(start + batch.rows)
            skipped += batch.skipped
            if progress is not None:
                progress(n, len(source))
    if not n:
        raise DataError(f"none of the {len(source):,} images can be read: {skipped[0][0]}: {skipped[0][1]}, for one")
    rows = np.concatenate(kept)
    return as_array(ShardImages(source, rows)) if lazy else images[:n], rows


def pool_name(path: str) -> str:
    """A name for pools and runs: that of the last folder without patterns.

    Args:
        path: Folder, pattern or URL of shards.

    Example:
        >>> pool_name("s3://bucket/pool/*.parquet")
        'pool'
    """
    parts: Sequence[str] = [part for part in re.split(r"[/\\]", path) if part and not re.search(r"[*?\[{:]", part)]
    return (parts[-1] if parts else "shards").removesuffix(".parquet").removesuffix(".tar")
