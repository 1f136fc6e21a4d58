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
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.outputs import shown_path
from ssl_diffusion.settings import shown
from ssl_diffusion.storage import allocate

__all__ = ["load_shards"]

_AT_ONCE = 1024
_SPLITS = ("train", "test", "unlabeled")


def load_shards(data: DataSettings, *, max_memory: int | None = None, progress: Progress | None = None) -> Pool:
    """Read Parquet or tar shards into a pool.

    Args:
        data: Section [data] of a recipe, whose path names shards.
        max_memory: Bytes of images beyond which the pool is memory-mapped; None keeps it in memory.
        progress: Callback for (images done, images in all).

    Raises:
        DataError: If shards, or the labels, cannot be used.

    Example:
        >>> pool = load_shards(DataSettings(path="shards/*.parquet", labels="labels.csv"))  # doctest: +SKIP
    """
    size = data.size if data.size > 0 else None
    source = ShardSource(
        data.path,
        columns=Columns(data.id_column, data.image_column, "" if data.labels else data.label_column),
        aspect=data.aspect,
        size=size,
        largest=LARGEST_SIDE if data.size < 0 else None,
        channels={"gray": 1, "rgb": 3}.get(data.color),
        skip_bad=data.skip_bad,
    )
    samples = _from_table(Path(data.labels), data.label_column, source.ids) if data.labels else _from_shards(source)
    check_test_classes(Path(data.labels or data.path), samples)
    images = allocate((len(source), *source.image_shape), max_memory=max_memory)
    kept: list[NDArray[np.int64]] = []
    skipped = list(source.skipped)
    n = 0
    for i, start in enumerate(source.starts[:-1].tolist()):
        for batch in source.shard_batches(i, _AT_ONCE):
            images[n : n + len(batch.rows)] = batch.images
            n += len(batch.rows)
            kept.append(start + batch.rows)
            skipped += batch.skipped
            if progress is not None:
                progress(n, len(source))
    if not n:
        raise DataError(f"none of the {len(source):,} images can be read: {skipped[0][0]}: {skipped[0][1]}, for one")
    rows = np.concatenate(kept)
    samples = [samples[row] for row in rows.tolist()]
    classes = tuple(sorted(set().union(*(sample.labels or () for sample in samples))))
    index = {name: k for k, name in enumerate(classes)}
    labels = np.array([index[next(iter(sample.labels))] if sample.labels else -1 for sample in samples], dtype=np.int64)
    return Pool(
        name=_name(data.path),
        images=images[:n],
        ids=source.ids[rows],
        labels=labels,
        classes=classes,
        is_test=np.array([sample.is_test for sample in samples], dtype=np.bool_),
        augmentation="photo",
        notes=[f"{n:,} images of {len(source.shards)} shards"],
        skipped=skipped,
        aspect=source.aspect,
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
        near = nearest_names(unknown[0], ids[:1000].tolist())
        raise DataError(
            f"{shown_path(path)} has labels for {len(unknown)} samples that no shard has, {shown(unknown[0])} for one; {near}"
        )
    nothing = Sample(None, False)
    return [found.get(sample, nothing) for sample in ids.tolist()]


def _name(path: str) -> str:
    """A name for runs: that of the last folder without patterns."""
    parts: Sequence[str] = [part for part in re.split(r"[/\\]", path) if part and not re.search(r"[*?\[{:]", part)]
    return (parts[-1] if parts else "shards").removesuffix(".parquet").removesuffix(".tar")
