"""Unlabeled images of a folder of their own, added to a labeled pool; they may be of another domain.

All images under the folder join the training without a label, whatever folders they lie in. If it has a folder `test/` with
class folders, that is the test split, as what is asked then is how well the labels of one domain serve the other; a test split
of the labeled images would mix both figures and is left out.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.image_files import ENDINGS, list_images
from ssl_diffusion.data.images import Progress, read_images
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shapes import color_options
from ssl_diffusion.errors import DataError
from ssl_diffusion.outputs import path_fault
from ssl_diffusion.storage import allocate

__all__ = ["PREFIX", "with_unlabeled"]

PREFIX = "unlabeled:"
"""Beginning of the sample ids of these images; their path below the folder follows."""

_UNLABELED = ("unlabeled", "unlabelled")
_AT_ONCE = 1024  # images
_COLORS = {1: "gray", 3: "in color"}


def with_unlabeled(
    pool: Pool, data: DataSettings, folder: Path | None, *, max_memory: int | None = None, progress: Progress | None = None
) -> Pool:
    """Add the images of the folder `data.unlabeled` to a pool, at its size and with its aspect; see the module docstring.

    Args:
        pool: Labeled pool.
        data: Section [data] of a recipe, of which the pool was made.
        folder: Folder that the ids of the pool are paths relative to; None for a pool that was not read from files.
        max_memory: Bytes beyond which the images are memory-mapped from a temporary file; None for no limit.
        progress: Callback for (files done, files in all).

    Returns:
        A new pool; the ids of the added images begin with :data:`PREFIX`.

    Raises:
        DataError: If the folder is missing or empty, has files of the pool, images with other channels, or a test split with
            other classes.

    Example:
        >>> data = DataSettings(path="photos", unlabeled="sketches")
        >>> pool = with_unlabeled(load_folder("photos"), data, Path("photos"))  # doctest: +SKIP
    """
    root = Path(data.unlabeled)
    paths = _files(root, pool, folder)
    names = [path.relative_to(root).as_posix() for path in paths]
    classes = [_test_class(name) for name in names]
    _check_test(root, pool, data, {name for name in classes if name is not None})
    c, h, w = pool.image_shape
    read = read_images(
        paths,
        ids=names,
        size=(h, w),
        **color_options(data.color),
        aspect=pool.aspect,
        skip_bad=data.skip_bad,
        max_memory=max_memory,
        progress=progress,
    )
    if read.images.shape[1] != c:
        raise DataError(
            f"the images under {root} are {_COLORS[read.images.shape[1]]}, those of {pool.name!r} {_COLORS[c]}: "
            "--set data.color=rgb reads all with three channels, --set data.color=gray with one"
        )
    found = [classes[i] for i in read.kept]
    tested = np.array([name is not None for name in found], dtype=np.bool_)
    if tested.all():
        raise DataError(f"all images under {root} are in its test split: it has none to train on")
    labels = np.full((len(found), *pool.labels.shape[1:]), -1, dtype=np.int64)
    index = {name: k for k, name in enumerate(pool.classes)}
    labels[tested] = [index[name] for name in found if name is not None]
    kept = np.flatnonzero(~pool.is_test) if tested.any() else np.arange(len(pool))
    notes = [f"{(~tested).sum()} images under {root} join the training without labels"]
    if tested.any():
        notes[0] += f", and its {tested.sum()} images under test/ are the test split"
        if left := len(pool) - len(kept):
            notes[0] += f" instead of the {left} of {pool.name!r}"
    files = None
    if pool.files is not None:
        files = [pool.files[int(i)] for i in kept] + [Path(os.path.abspath(paths[i])) for i in read.kept]
    return replace(
        pool,
        files=files,
        images=_joined(pool.images, kept, read.images, max_memory),
        ids=np.concatenate([pool.ids[kept], np.array([PREFIX + names[i] for i in read.kept], dtype=np.str_)]),
        labels=np.concatenate([pool.labels[kept], labels]),
        is_test=np.concatenate([pool.is_test[kept], tested]),
        notes=[*pool.notes, *read.notes, *notes],
        skipped=[*pool.skipped, *((PREFIX + sample, reason) for sample, reason in read.skipped)],
    )


def _files(root: Path, pool: Pool, folder: Path | None) -> list[Path]:
    """The images under a folder, none of which may be one of the pool's."""
    if (fault := path_fault(root, "folder")) is not None:
        raise DataError(f"{fault}: give a folder of unlabeled images with --unlabeled")
    paths = list_images(root)
    if not paths:
        raise DataError(f"there are no images under {root}: files must end in {', '.join(ENDINGS)}")
    own = {os.path.realpath(folder / sample) for sample in pool.ids} if folder is not None else set()
    if both := [path for path in paths if os.path.realpath(path) in own]:
        raise DataError(
            f"{len(both)} of the {len(paths)} images under {root} are among those of --data ({both[0].name} for one): give "
            "another folder with --unlabeled, or leave it out"
        )
    return paths


def _test_class(name: str) -> str | None:
    """The class of an image in the test split, by its path below the folder; None for one that is trained on."""
    parts = name.split("/")
    in_class = len(parts) > 2 and parts[0].lower() == "test" and parts[1].lower() not in _UNLABELED
    return parts[1] if in_class else None


def _check_test(root: Path, pool: Pool, data: DataSettings, classes: set[str]) -> None:
    """A test split of the folder needs labels of the pool's kind."""
    if not classes:
        return
    if pool.multilabel:
        raise DataError(f"{root} has a test split of class folders, but the images of {pool.name!r} have several labels each")
    if data.test_fraction:
        raise DataError(f"{root} has a test split of its own, in {root / 'test'}: leave out --test-fraction")
    if unknown := sorted(classes - set(pool.classes)):
        raise DataError(
            f"the test split of {root} has images of {', '.join(unknown)}, but {pool.name!r} has no such labels: rename or "
            "remove the folder"
        )


def _joined(
    first: NDArray[np.uint8], rows: NDArray[np.int64], second: NDArray[np.uint8], max_memory: int | None
) -> NDArray[np.uint8]:
    """Some images of one array and all of another."""
    images = allocate((len(rows) + len(second), *first.shape[1:]), max_memory=max_memory)
    for source, chosen, start in ((first, rows, 0), (second, np.arange(len(second)), len(rows))):
        for part in _parts(len(chosen)):
            images[start + part.start : start + part.stop] = source[chosen[part]]
    return images


def _parts(n: int) -> Sequence[slice]:
    return [slice(start, min(n, start + _AT_ONCE)) for start in range(0, n, _AT_ONCE)]
