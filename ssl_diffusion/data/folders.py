"""Image folders and CSV manifests -> :class:`~ssl_diffusion.data.Pool`.

Folders: one folder per class, nested folders included; images directly in the root or in `unlabeled/` have no label::

    ROOT/CLASS/....jpg      ROOT/unlabeled/....jpg      ROOT/....jpg

With `train/` or `test/` at the top, these are the splits, laid out as above; sample ids are POSIX paths relative to the root.
Without `train/`, the folders beside `test/` are the training classes.

CSV manifests: one row per image. The path as written in the file is the sample id; an empty label means unlabeled. Rows
are numbered as a spreadsheet shows them: the header is row 1.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.images import ImageArray, Progress, read_images
from ssl_diffusion.data.label_columns import cell_labels, flag_labels, listed_names, split_cells
from ssl_diffusion.data.listings import (
    LABEL_COLUMNS,
    UNLABELED,
    Sample,
    check_test_classes,
    image_column_of,
    image_paths,
    list_folder,
    top_splits,
)
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shapes import color_options
from ssl_diffusion.data.tables import Table, read_table
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["load_csv", "load_folder"]

Color = Literal["files", "gray", "rgb"]


def load_folder(
    root: str | Path,
    *,
    size: int | None = None,
    largest: int | None = None,
    aspect: Aspect | Literal["auto"] = "squeeze",
    color: Color | Literal["auto"] = "files",
    skip_bad: bool = False,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> Pool:
    """Read a folder of images; see the module docstring for its layout.

    Args:
        root: Folder of images.
        size: Side in pixels of the square that every image is resized to; None keeps the most common size.
        largest: Height and width in pixels up to which `size` None keeps the most common size; every image is resized to the
            square of this side if that is higher or wider. None sets no limit.
        aspect: Treatment of images with another aspect ratio, see :func:`ssl_diffusion.data.images.read_images`.
        color: "gray" or "rgb"; "files" as their color modes say, "auto" as their pixels do.
        skip_bad: Whether unreadable images are left out instead of raising.
        max_memory: Bytes beyond which the images are memory-mapped from a temporary file; None for no limit.
        progress: Callback for (files done, files in all).

    Raises:
        DataError: if the folder is missing, has no images or unreadable ones, mixes splits and classes at its top, or a
            class of `test/` does not occur in training.

    Example:
        >>> load_folder("photos", size=32).classes  # doctest: +SKIP
        ('cat', 'dog')
    """
    root = Path(root)
    ids, paths, samples = list_folder(root)
    read = read_images(
        paths,
        ids=ids,
        size=size,
        largest=largest,
        **color_options(color),
        aspect=aspect,
        skip_bad=skip_bad,
        max_memory=max_memory,
        progress=progress,
    )
    pool = _pool(root.resolve().name or "folder", root, ids, paths, samples, read)
    pool.notes.extend(_empty_folder_notes(root, top_splits(root), pool))
    if len(pool.classes) == 1:
        only = pool.classes[0]
        pool.notes.append(f"there is only one class folder, {only!r}: if it is not a class, give that folder instead of {root}")
    return pool


def load_csv(
    path: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    size: int | None = None,
    largest: int | None = None,
    multilabel: bool = False,
    separator: str = "|",
    label_columns: Sequence[str] | None = None,
    aspect: Aspect | Literal["auto"] = "squeeze",
    color: Color | Literal["auto"] = "files",
    skip_bad: bool = False,
    max_memory: int | None = None,
    split_column: str | None = None,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> Pool:
    """Read the images that a CSV file lists (separated by comma, semicolon or tab, with a header row).

    Args:
        path: CSV file.
        image_column: Column of image paths; None takes the only one among path, image, file, filename, filepath.
        label_column: Column of class names; None takes the first of label, class, target, if there is one.
        root: Folder that the paths are relative to; None for the folder of the CSV file.
        size: Side in pixels of the square that every image is resized to; None keeps the most common size.
        largest: Height and width in pixels up to which `size` None keeps the most common size; every image is resized to the
            square of this side if that is higher or wider. None sets no limit.
        multilabel: Whether the label column holds several names, joined by `separator`; `separator` alone means "no class".
        separator: Text between names, see `multilabel`.
        label_columns: Columns with 0 or 1, one per class, instead of a label column (multi-label); a row with an
            empty cell among them is unlabeled.
        aspect: Treatment of images with another aspect ratio, see :func:`ssl_diffusion.data.images.read_images`.
        color: "gray" or "rgb"; "files" as their color modes say, "auto" as their pixels do.
        skip_bad: Whether missing and unreadable images are left out instead of raising.
        max_memory: Bytes beyond which the images are memory-mapped from a temporary file; None for no limit.
        split_column: Column with train, test or unlabeled (no label is read); None takes `split` if there is one.
        encoding: Text encoding; None for UTF-8.
        progress: Callback for (files done, files in all).

    Raises:
        DataError: naming the file and, where there is one, the row and the column at fault.

    Example:
        >>> pool = load_csv("labels.csv", image_column="file", label_column="class", root="photos")  # doctest: +SKIP
    """
    table = read_table(Path(path), encoding)
    image_column = image_column_of(table, image_column)
    if label_columns and label_column is not None:
        raise DataError(f"{path}: give either label_column or label_columns, not both")
    ids, paths = image_paths(table, image_column, Path(root) if root is not None else table.path.parent, skip_bad)
    split_column = split_column or next(iter(table.any_case("split")), None)
    splits = split_cells(table, split_column) if split_column is not None else ["train"] * len(table.rows)
    notes: list[str] = []
    if label_columns:
        labels = flag_labels(table, label_columns, notes)
    else:
        label_column = label_column or next(iter(table.any_case(*LABEL_COLUMNS)), None)
        labels = cell_labels(table, label_column, separator if multilabel else None)
    hidden = [split == "unlabeled" for split in splits]
    n_hidden = sum(hide and label is not None for hide, label in zip(hidden, labels, strict=True))
    if n_hidden:
        notes.append(f"the labels of {n_hidden} rows whose split is 'unlabeled' were left unread")
    samples = [
        Sample(None if hide else label, split == "test") for hide, label, split in zip(hidden, labels, splits, strict=True)
    ]
    if not (multilabel or label_columns):
        _check_single_labels(table, label_column, samples)
        check_test_classes(table.path, samples)
    read = read_images(
        paths,
        ids=ids,
        size=size,
        largest=largest,
        **color_options(color),
        aspect=aspect,
        skip_bad=skip_bad,
        max_memory=max_memory,
        progress=progress,
    )
    multilabel = multilabel or bool(label_columns)
    pool = _pool(table.path.stem, table.path, ids, paths, samples, read, multilabel=multilabel, classes=label_columns)
    pool.notes.extend(notes)
    return pool


def _pool(
    name: str,
    source: Path,
    ids: Sequence[str],
    paths: Sequence[Path],
    samples: Sequence[Sample],
    read: ImageArray,
    *,
    multilabel: bool = False,
    classes: Sequence[str] | None = None,
) -> Pool:
    """The pool of the images that could be read; `classes` None takes the sorted names that occur among them."""
    samples = [samples[i] for i in read.kept]
    if read.skipped and not multilabel:
        check_test_classes(source, samples)
    names = tuple(classes or sorted(set().union(*(sample.labels or () for sample in samples))))
    multilabel = multilabel and len(names) > 0
    index = {label: k for k, label in enumerate(names)}
    labels = np.full((len(samples), len(names)) if multilabel else len(samples), -1, dtype=np.int64)
    for i, sample in enumerate(samples):
        if sample.labels is not None and multilabel:
            labels[i] = 0
            labels[i, [index[label] for label in sample.labels]] = 1
        elif sample.labels:
            labels[i] = index[next(iter(sample.labels))]
    return Pool(
        name=name,
        images=read.images,
        ids=np.array([ids[i] for i in read.kept], dtype=np.str_),
        labels=labels,
        classes=names,
        is_test=np.array([sample.is_test for sample in samples], dtype=np.bool_),
        multilabel=multilabel,
        augmentation="photo",
        notes=[*read.notes, *_label_notes(samples, names)],
        skipped=read.skipped,
        files=[Path(os.path.abspath(paths[i])) for i in read.kept],
        file_size=read.file_size,
        aspect=read.aspect,
    )


def _label_notes(samples: Sequence[Sample], classes: Sequence[str]) -> list[str]:
    """Sentences about labels that are missing or rare."""
    notes = []
    if not any(sample.labels is not None for sample in samples):
        return [f"all {len(samples)} images are unlabeled"]
    counts = Counter(label for sample in samples if not sample.is_test for label in sample.labels or ())
    for n, what in ((0, "no labeled training image"), (1, "a single labeled training image, which cannot be split")):
        names = [repr(name) for name in classes if counts[name] == n]
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            notes.append(f"{'class' if len(names) == 1 else 'classes'} with {what}: {', '.join(names[:10])}{more}")
    n_blind = sum(sample.is_test and sample.labels is None for sample in samples)
    if n_blind:
        notes.append(f"{n_blind} test images have no label and cannot be used to measure accuracy")
    return notes


def _empty_folder_notes(root: Path, splits: dict[str, str], pool: Pool) -> list[str]:
    """Name the class folders from which no image was read."""
    # Beside train/ other folders have no images (checked before) and are no classes.
    bases = [root / name for name in splits] + ([] if "train" in splits.values() else [root])
    folders = {
        entry.relative_to(root).as_posix()
        for base in bases
        for entry in base.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in UNLABELED
    }
    parts = [str(sample_id).split("/") for sample_id in pool.ids]
    filled = {"/".join(part[:depth]) for part in parts for depth in (1, 2)}
    empty = sorted(folders - filled - splits.keys())
    return [f"the folder {name} has no readable images and was ignored" for name in empty]


def _check_single_labels(table: Table, column: str | None, samples: Sequence[Sample]) -> None:
    """A label column in which nothing repeats holds names or numbers of the images rather than classes."""
    labels = [sample.labels for sample in samples if sample.labels]
    # One label a class among unlabeled images is a fair start.
    if 1 < len(labels) == len(samples) == len(set(labels)):
        raise DataError(
            f"{table.path}: every value of column {shown(column)} occurs only once, so it is probably not the label: choose "
            f"label_column among {listed_names(table.header)}"
        )
