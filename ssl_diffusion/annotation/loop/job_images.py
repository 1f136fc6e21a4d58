"""The images of a job in one array, `images.npy`, and how it is made again from the image files.

`images.json` holds the shape and the SHA-256 of the array, so that one that is made again is the same or refused: models and
labels belong to these pixels. The file is checked before it is mapped: reading past the end of one that was cut would kill the
process.
"""

import hashlib
import logging
import math
import os
import stat
import tokenize
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.errors import DataError, SSLDError, StateError
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.storage import atomic_file, atomic_write_text

__all__ = ["file_size_of", "open_array", "open_images", "save_images", "without_classes"]

_log = logging.getLogger(__name__)
_BLOCK = 4096  # images hashed at a time
_SHOWN = 3


class _Facts(State):
    """What `images.json` says about `images.npy`."""

    shape: tuple[int, int, int, int]
    sha256: str
    file_size: tuple[int, int] | None = None
    """Most common (height, width) of the image files; jobs of earlier versions do not know it."""


def save_images(folder: Path, images: NDArray[np.uint8], file_size: tuple[int, int] | None) -> None:
    """Write `images.npy` and `images.json`.

    Args:
        folder: Job folder.
        images: Images by position, uint8 (N, C, H, W).
        file_size: Most common (height, width) of the files that they come from.
    """
    n, c, h, w = images.shape
    with atomic_file(folder / "images.npy") as temporary:
        np.save(temporary, images)
    facts = _Facts(shape=(n, c, h, w), sha256=_digest(images), file_size=file_size)
    atomic_write_text(folder / "images.json", facts.model_dump_json() + "\n")


def file_size_of(folder: Path) -> tuple[int, int] | None:
    """Most common (height, width) of the files that the images of a job come from; None where the job does not know it.

    Args:
        folder: Job folder.

    Raises:
        StateError: If `images.json` is missing or damaged.
    """
    return _facts(folder).file_size


def open_images(
    folder: Path, data: DataSettings, ids: Sequence[str], mode: Literal["r", "c"] = "r", *, store: str = "the store"
) -> NDArray[np.uint8]:
    """Map `images.npy`; if it is missing or damaged, it is first made again from the image files, with a warning.

    Args:
        folder: Job folder.
        data: Place of the image files, and how they are read.
        ids: Ids of the samples, by position, (N,).
        mode: Mode of the map: "r" for reading, "c" for a copy on write.
        store: Name of the store, for messages.

    Returns:
        Images by position, uint8 (N, C, H, W).

    Raises:
        DataError: If the array cannot be made again, since files are missing or have changed; or has another number of images
            than the store.
    """
    path = folder / "images.npy"
    images = open_array(path, np.dtype(np.uint8), 4, mode)
    if images is not None and len(images) != len(ids):
        raise DataError(
            f"{path} has {len(images)} images, but {store} has {len(ids)} samples, so one of them belongs to another job: "
            "put back a copy of the right one"
        )
    if images is not None:
        return images
    _log.warning("%s is missing or damaged and is made again from the image files", path)
    try:
        again, file_size = _images_of_files(folder, data, ids)
    except SSLDError as error:
        raise DataError(f"{path} is missing or damaged, and cannot be made again: {error}; put back a copy of it") from None
    if path.is_dir() and not path.is_symlink():
        raise DataError(f"{path} is a folder: remove it; the array of images is then made again from the image files")
    save_images(folder, again, file_size)
    images = open_array(path, np.dtype(np.uint8), 4, mode)
    assert images is not None
    return images


def open_array(
    path: Path, dtype: np.dtype[np.uint8], n_dimensions: int, mode: Literal["r", "c"] = "r"
) -> NDArray[np.uint8] | None:
    """Map a `.npy` file after checking its header and its length; None if it is missing or damaged."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, kind = read(file)
            length = file.tell() + math.prod(shape) * kind.itemsize
        if fortran or kind != dtype or len(shape) != n_dimensions or min(shape) < 1 or os.stat(path).st_size != length:
            return None
        found: NDArray[np.uint8] = np.load(path, mmap_mode=mode, allow_pickle=False)
        return found
    except (OSError, ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError, tokenize.TokenError):
        return None


def _facts(folder: Path) -> _Facts:
    return read_state(folder / "images.json", _Facts, remedy="it says which images belong to the job")


def _images_of_files(folder: Path, data: DataSettings, ids: Sequence[str]) -> tuple[NDArray[np.uint8], tuple[int, int] | None]:
    facts = _facts(folder)
    pool = load_pool(data)
    rows = {str(id_): i for i, id_ in enumerate(pool.ids)}
    if missing := [str(id_) for id_ in ids if str(id_) not in rows]:
        some = ", ".join(missing[:_SHOWN]) + (" ..." if missing[_SHOWN:] else "")
        raise DataError(f"{len(missing)} of {len(ids)} image files are missing in {data.image_root or data.path}: {some}")
    images: NDArray[np.uint8] = pool.images[np.array([rows[str(id_)] for id_ in ids], dtype=np.int64)]
    if images.shape != facts.shape or _digest(images) != facts.sha256:
        raise StateError(f"the image files in {data.image_root or data.path} are no longer those that the job was made of")
    return images, pool.file_size


def without_classes(pool: Pool, place: str) -> Pool:
    """A pool of a folder whose sub-folders are not taken for classes; says so where there are some.

    Args:
        pool: Images, with the sub-folders as their classes.
        place: Folder of the images, for the message.

    Example:
        >>> without_classes(load_folder("photos"), "photos").classes  # doctest: +SKIP
        ()
    """
    if not pool.classes:
        return pool
    _log.warning(
        "%d sub-folders of %s (such as %s) are not taken for classes: if they are, make the job with --folders classes",
        len(pool.classes),
        place,
        pool.classes[0],
    )
    notes = [note for note in pool.notes if "class" not in note]
    return replace(pool, labels=np.full(len(pool), -1), classes=(), notes=notes)


def _digest(images: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(images), _BLOCK):
        digest.update(np.ascontiguousarray(images[start : start + _BLOCK]).tobytes())
    return digest.hexdigest()
