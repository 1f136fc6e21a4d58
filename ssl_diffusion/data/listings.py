"""Image files that were found in a folder or a CSV file, with what is known of them; none is opened."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_diffusion.data.image_files import ENDINGS, list_images
from ssl_diffusion.data.images import listing
from ssl_diffusion.data.label_columns import Labels, cell_labels, listed_names, split_cells
from ssl_diffusion.data.tables import Table, read_table
from ssl_diffusion.errors import DataError
from ssl_diffusion.outputs import path_fault, shown_path
from ssl_diffusion.settings import shown

__all__ = [
    "LABEL_COLUMNS",
    "UNLABELED",
    "Listing",
    "Sample",
    "check_folder",
    "check_test_classes",
    "image_column_of",
    "image_paths",
    "list_csv",
    "list_folder",
    "top_splits",
]

UNLABELED = ("unlabeled", "unlabelled")
LABEL_COLUMNS = ("label", "class", "target")
_IMAGE_COLUMNS = ("path", "image", "file", "filename", "filepath")


class Sample(NamedTuple):
    """What is known of one image beside its pixels."""

    labels: Labels
    is_test: bool


class Listing(NamedTuple):
    """Image files that were found, but not read yet.

    Attributes:
        ids: Sample ids, n of them.
        paths: Image files, in the same order.
        samples: Labels and split of each.
    """

    ids: list[str]
    paths: list[Path]
    samples: list[Sample]


def check_folder(root: Path) -> None:
    """Raise :class:`DataError` if a folder of images is missing, or is no folder.

    Args:
        root: Folder of images.
    """
    if (fault := path_fault(root)) is not None:
        raise DataError(f"{fault}: give a folder of images, or a CSV file that lists them")
    if not root.exists():
        raise DataError(f"the folder {root} does not exist: give a folder of images, or a CSV file that lists them")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: give a folder of images")


def list_folder(root: Path) -> Listing:
    """Image files of a folder with their labels, by the layout that the module docstring describes; none is opened.

    Args:
        root: Folder of images.

    Raises:
        DataError: As :func:`load_folder`, but for unreadable images.

    Example:
        >>> list_folder(Path("photos")).ids[:1]  # doctest: +SKIP
        ['cat/1.jpg']
    """
    check_folder(root)
    paths = list_images(root)
    if not paths:
        raise DataError(f"there are no images under {root}: files must end in {', '.join(ENDINGS)}")
    ids = [path.relative_to(root).as_posix() for path in paths]
    splits = top_splits(root)
    _check_top(root, ids, splits)
    samples = [_placed(sample_id, splits) for sample_id in ids]
    check_test_classes(root, samples)
    return Listing(ids, paths, samples)


def list_csv(
    path: Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    root: Path | None = None,
    skip_bad: bool = False,
) -> Listing:
    """Image files that a CSV file lists, with at most one label each; none is opened.

    Args:
        path: CSV file.
        image_column: Column of image paths; None finds it by its usual names.
        label_column: Column of class names; None likewise.
        root: Folder that the paths are relative to; None for the folder of the CSV file.
        skip_bad: Whether missing files are left to whoever reads them.

    Raises:
        DataError: As :func:`load_csv`, but for unreadable images.

    Example:
        >>> list_csv(Path("labels.csv")).ids[:1]  # doctest: +SKIP
        ['photos/1.jpg']
    """
    table = read_table(path)
    ids, paths = image_paths(table, image_column_of(table, image_column), root or path.parent, skip_bad)
    split_column = next(iter(table.any_case("split")), None)
    splits = split_cells(table, split_column) if split_column is not None else ["train"] * len(ids)
    labels = cell_labels(table, label_column or next(iter(table.any_case(*LABEL_COLUMNS)), None), None)
    samples = [
        Sample(None if split == "unlabeled" else label, split == "test") for label, split in zip(labels, splits, strict=True)
    ]
    return Listing(ids, paths, samples)


def top_splits(root: Path) -> dict[str, str]:
    """The folders at the top that are splits, and which."""
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    return {name: name.lower() for name in folders if name.lower() in ("train", "test")}


def _check_top(root: Path, ids: Sequence[str], splits: dict[str, str]) -> None:
    """Beside `train/` there may be no class folders: it would be unclear to which split they belong."""
    tops = {sample_id.split("/")[0] for sample_id in ids if "/" in sample_id}
    others = sorted(top for top in tops - splits.keys() if top.lower() not in UNLABELED)
    if "train" in splits.values() and others:
        raise DataError(
            f"{root} has the folder {others[0]!r} beside its training split: move its images into train/ or test/ (a part for "
            "validation is set aside later), or, if 'train' is a class here, move all class folders into a new folder train"
        )


def _placed(sample_id: str, splits: dict[str, str]) -> Sample:
    """Label and split of a path relative to the root."""
    top, _, rest = sample_id.partition("/")
    is_test = False
    if rest and top in splits:
        is_test = splits[top] == "test"
        top, _, rest = rest.partition("/")
    return Sample(frozenset({top}) if rest and top.lower() not in UNLABELED else None, is_test)


def image_column_of(table: Table, name: str | None) -> str:
    """The column of image paths: the one that is given, or the only one with a usual name; else a :class:`DataError`."""
    if name is not None:
        return name
    found = table.any_case(*_IMAGE_COLUMNS)
    if len(found) == 1:
        return found[0]
    what = "several columns that could hold image paths" if found else f"no column called {', '.join(_IMAGE_COLUMNS)}"
    raise DataError(f"{table.path} has {what}: choose image_column among {listed_names(table.header)}")


def image_paths(table: Table, column: str, root: Path, skip_bad: bool) -> tuple[list[str], list[Path]]:
    """Sample ids and files of all rows; raises :class:`DataError` for empty, repeated and missing ones."""
    if path_fault(root, "folder") is not None:
        raise DataError(
            f"the folder {shown_path(root)}, which the images of {table.path} are relative to, does not exist: correct root"
        )
    ids = table.column(column)
    seen: dict[str, int] = {}
    for number, text in zip(table.numbers, ids, strict=True):
        if not text.strip():
            raise DataError(
                f"{table.path}: row {number} has no image path in column {shown(column)}: fill it in or remove the row"
            )
        first = seen.setdefault(os.path.normpath(text), number)
        if first != number:
            raise DataError(
                f"{table.path}: row {number} names the image of row {first} again, {shown(text)}: remove one of them"
            )
    paths = [root / text for text in ids]
    for i, text in enumerate(ids):
        if "\\" in text and path_fault(paths[i], "file") is not None:  # written on Windows
            paths[i] = root / text.replace("\\", "/")
    faults = [path_fault(path, "file") for path in paths]
    missing = [f"row {n}: {shown_path(text)}" for n, text, f in zip(table.numbers, ids, faults, strict=True) if f is not None]
    if missing and (not skip_bad or len(missing) == len(ids)):
        advice = "correct the paths or the folder they are relative to, or leave them out with --skip-bad"
        raise DataError(
            f"{table.path}: {len(missing)} of {len(ids)} images are not found under {root}; {advice}:{listing(missing)}"
        )
    return ids, paths


def check_test_classes(source: Path, samples: Sequence[Sample]) -> None:
    """Raise :class:`DataError` if a class of the test split does not occur in training."""
    train = set().union(*(sample.labels or () for sample in samples if not sample.is_test))
    unknown = sorted({label for sample in samples if sample.is_test for label in sample.labels or ()} - train)
    if unknown:
        raise DataError(
            f"the test split of {source} has images of {listed_names(unknown)} but the training split has none: "
            "add some, or remove these"
        )
