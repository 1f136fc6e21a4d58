"""Image files -> uint8 arrays of shape (n, C, H, W).

Every image is turned upright (EXIF), put on white where it is transparent, converted to gray (C = 1) or RGB (C = 3) and,
where its size differs, resized by Pillow's antialiased bicubic filter. Where its aspect ratio differs, too, its middle is taken
("crop"), all of it is put on its mean color ("pad"), or all of it is distorted ("squeeze"). Of several frames or pages the
first is read; 16-bit pixels are scaled to 8 bits.

Files that cannot be read are never dropped in silence: they are all named in one :class:`DataError`, or, with
`skip_bad`, returned with the reason.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import Aspect, Decoded, Header, decode, read_header
from ssl_diffusion.data.shapes import as_gray, aspect_note, chosen_aspect, chosen_note, common_shape, common_size
from ssl_diffusion.errors import DataError
from ssl_diffusion.storage import allocate

__all__ = [
    "ImageArray",
    "ImageBatch",
    "Progress",
    "decode_images",
    "iter_image_batches",
    "listing",
    "read_images",
]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called from the reading thread with (files done, files in all)."""

Shape = tuple[int, int, int]
S = TypeVar("S")
T = TypeVar("T")

_FILES_PER_TASK = 8
_THREADS_PAY = 4e-4  # seconds a file


@dataclass(frozen=True)
class ImageArray:
    """What :func:`read_images` read.

    Attributes:
        images: uint8, (m, C, H, W); a memory map if larger than asked for.
        kept: int64, (m,), ascending; positions in the given paths.
        notes: sentences about conversions.
        skipped: (id, reason) of the files left out, in the order of the given paths.
        file_size: most common (height, width) of the files themselves.
        aspect: treatment of images with another aspect ratio.
    """

    images: NDArray[np.uint8]
    kept: NDArray[np.int64]
    notes: list[str]
    skipped: list[tuple[str, str]]
    file_size: tuple[int, int]
    aspect: Aspect = "squeeze"


class ImageBatch(NamedTuple):
    """One batch of :func:`iter_image_batches`: m ids, uint8 images (m, C, H, W), and (id, reason) of skipped files.

    m is smaller than the batch size where files were skipped, and 0 where all were.
    """

    ids: list[str]
    images: NDArray[np.uint8]
    skipped: list[tuple[str, str]]


def read_images(
    paths: Sequence[str | Path],
    *,
    ids: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    largest: int | None = None,
    channels: int | None = None,
    aspect: Aspect | Literal["auto"] = "squeeze",
    find_gray: bool = False,
    skip_bad: bool = False,
    max_memory: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageArray:
    """Read image files into one array.

    Args:
        paths: Image files.
        ids: Names for messages and for `skipped`, one per file; None takes the paths.
        size: Side in pixels of the square that every image is resized to, or height and width; None keeps the most common size.
        largest: Height and width in pixels up to which `size` None keeps the most common size; every image is resized to the
            square of this side if that is higher or wider. None sets no limit.
        channels: Channels, 1 (gray) or 3 (RGB); None takes 1 if all images are gray (by their file's color mode), else 3.
        aspect: Treatment of images with another aspect ratio; "auto" takes their middle, unless that would leave out more than
            a third of them on average, and all of them on their mean color then.
        find_gray: Whether images are read as gray, too, if all are although their files' color mode says otherwise; without
            `channels` only.
        skip_bad: Whether unreadable files are left out; the result is then as if they were not there.
        max_memory: Bytes beyond which the array is a temporary file (:mod:`ssl_diffusion.storage`); None for no limit.
        workers: Number of threads; None for the number of usable cores, at most 8.
        progress: Callback for (files done, files in all), called every few files.

    Raises:
        DataError: if there is no file, a file cannot be read (all are named; see `skip_bad`), none can be read, or the
            temporary file cannot be created.
    """
    if not paths:
        raise DataError("there are no images to read")
    for side in (*(size if isinstance(size, tuple) else (size,)), largest):
        if side is not None and side < 1:
            raise DataError(f"the image size must be 1 pixel or more, not {side}")
    if channels not in (None, 1, 3):
        raise DataError(f"images can be read with 1 channel (gray) or 3 (RGB), not {channels}")
    names = [str(path) for path in paths] if ids is None else list(ids)
    headers: dict[int, Header] = {}
    bad: dict[int, str] = {}
    with _threads(workers) as executor:
        for i, header in enumerate(_each(executor, read_header, paths)):
            if isinstance(header, str):
                bad[i] = header
            else:
                headers[i] = header
        # Files that turn out damaged only when decoded have a say in the shape no more: decode again if they decided it.
        while headers:
            shape = common_shape(headers.values(), size, largest, channels)
            how = chosen_aspect(headers.values(), shape) if aspect == "auto" else aspect
            good = list(headers)
            images = allocate((len(good), *shape), max_memory=max_memory)
            outcomes = _decode_all(executor, [paths[i] for i in good], images, how, progress)
            late = {i: outcome for i, outcome in zip(good, outcomes, strict=True) if isinstance(outcome, str)}
            bad |= late
            headers = {i: header for i, header in headers.items() if i not in late}
            if not late or (headers and common_shape(headers.values(), size, largest, channels) == shape):
                break
            if not skip_bad:
                break
    skipped = [(names[i], bad[i]) for i in sorted(bad)]
    if skipped and (not skip_bad or not headers):
        raise _unreadable(skipped, len(paths))
    kept = np.flatnonzero([not isinstance(outcome, str) for outcome in outcomes])
    done = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    n_sizes = len({(header.height, header.width) for header in headers.values()})
    notes = [chosen_note(headers.values(), shape)] if size is None and max(common_size(headers.values())) > max(shape) else []
    notes += _notes(done, shape, n_sizes, how)
    images = _compact(images, kept)
    if find_gray and channels is None and shape[0] == 3 and (gray := as_gray(images, max_memory)) is not None:
        images = gray
        notes = [note for note in notes if "converted to RGB" not in note]
        notes.append(
            "all images are gray, although files have three channels, and are read with one (--set data.color=rgb: three)"
        )
    logger.info("read %d images of shape %s, skipped %d", len(kept), images.shape[1:], len(skipped))
    return ImageArray(images, np.array(good, dtype=np.int64)[kept], notes, skipped, common_size(headers.values()), how)


def iter_image_batches(
    paths: Sequence[str | Path],
    image_shape: Shape,
    batch_size: int,
    skip_bad: bool = False,
    *,
    ids: Sequence[str] | None = None,
    aspect: Aspect = "squeeze",
    workers: int | None = None,
) -> Iterator[ImageBatch]:
    """Read image files batch by batch in constant memory, the next batch while the caller uses this one.

    Args:
        paths: Image files, in the order in which they are returned.
        image_shape: Shape (C, H, W) that every image is converted to; C is 1 or 3.
        batch_size: Files per batch.
        skip_bad: Whether unreadable files are left out and named in their batch's `skipped`.
        ids: Names of the files; None takes the paths.
        aspect: Treatment of images with another aspect ratio.
        workers: Number of threads; None for the number of usable cores, at most 8.

    Raises:
        DataError: at once for an impossible shape or batch size; without `skip_bad`, at the first batch with an
            unreadable file, naming all unreadable files from there on.
    """
    if image_shape[0] not in (1, 3) or min(image_shape) < 1:
        raise DataError(f"images can be read as (1, H, W) or (3, H, W), not as {tuple(image_shape)}")
    if batch_size < 1:
        raise DataError(f"the batch size must be 1 or more, not {batch_size}")
    names = [str(p) for p in paths] if ids is None else list(ids)
    return _batches(paths, image_shape, batch_size, skip_bad, names, aspect, workers)


def decode_images(
    files: Sequence[str | Path | bytes], image_shape: Shape, aspect: Aspect = "squeeze", *, workers: int | None = None
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Decode image files, or the bytes of such files, that are few enough to be held at once.

    Args:
        files: Image files, or their bytes, n of them.
        image_shape: Shape (C, H, W) that every image is converted to; C is 1 or 3.
        aspect: Treatment of images with another aspect ratio.
        workers: Number of threads; None for the number of usable cores, at most 8.

    Returns:
        Images, uint8 (n, C, H, W), and why those of some positions cannot be read; their rows are undefined.

    Example:
        >>> images, bad = decode_images([Path("cat.jpg").read_bytes()], (3, 64, 64))  # doctest: +SKIP
    """
    images = np.empty((len(files), *image_shape), dtype=np.uint8)
    with _threads(workers) as executor:
        outcomes = _decode_all(executor, files, images, aspect)
    return images, {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, str)}


def listing(lines: Sequence[str], limit: int = 20) -> str:
    """Indented lines for error messages, one per entry; after `limit` entries only the number of those left out."""
    more = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  {line}" for line in [*lines[:limit], *more])


def _unreadable(bad: Sequence[tuple[str, str]], total: int) -> DataError:
    """The error that names all unreadable files."""
    lines = listing([f"{name}: {reason}" for name, reason in bad])
    if len(bad) == total:
        return DataError(f"none of the {total} images can be read; look at the files:{lines}")
    advice = "repair or remove them, or leave them out with --skip-bad"
    return DataError(f"{len(bad)} of {total} images cannot be read; {advice}:{lines}")


def _notes(done: Sequence[Decoded], shape: Shape, n_sizes: int, aspect: Aspect) -> list[str]:
    """Sentences about the conversions that took place."""
    n = {name: sum(getattr(one, name) for one in done) for name in Decoded._fields}
    of = f"of {len(done)} images"
    notes = []
    if n["resized"]:
        why = f"; the images come in {n_sizes} sizes" if n_sizes > 1 else ""
        notes.append(f"{n['resized']} {of} were resized to {shape[1]} x {shape[2]} pixels (height x width, bicubic){why}")
    if n["stretched"]:
        notes.append(f"{n['stretched']} {of} have another aspect ratio than {shape[1]} x {shape[2]} {aspect_note(aspect)}")
    if n["colored"] and n["colored"] < len(done):
        notes.append(f"{n['colored']} {of} are gray and were converted to RGB, as the others are in color")
    if n["transparent"]:
        notes.append(f"{n['transparent']} {of} are transparent and were put on white")
    if n["deep"]:
        notes.append(f"{n['deep']} {of} have 16 bits a channel and were scaled to 8")
    return notes


def _compact(images: NDArray[np.uint8], kept: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Move the kept rows to the front, in place, and return them as a view."""
    if len(kept) < len(images):
        for to, row in enumerate(kept):
            images[to] = images[row]
    return images[: len(kept)]


@contextmanager
def _threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that an exception, Ctrl-C included, leaves without finishing what is queued."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    executor = ThreadPoolExecutor(workers or min(8, usable))
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _decode_all(
    executor: ThreadPoolExecutor,
    paths: Sequence[str | Path | bytes],
    images: NDArray[np.uint8],
    aspect: Aspect,
    progress: Progress | None = None,
) -> list[Decoded | str]:
    """Decode every file into its row of `images`; what was done, or why a file cannot be read."""
    return _each(executor, lambda item: decode(item[0], item[1], aspect), list(zip(paths, images, strict=True)), progress)


def _each(
    executor: ThreadPoolExecutor, function: Callable[[S], T], items: Sequence[S], progress: Progress | None = None
) -> list[T]:
    """function(item) of every item, in order; in threads only if that pays."""

    def work(part: slice) -> list[T]:
        return [function(item) for item in items[part]]

    # The first part is small, as it runs alone: it shows how long a file takes.
    parts = [slice(0, 4), *(slice(start, start + _FILES_PER_TASK) for start in range(4, len(items), _FILES_PER_TASK))]
    begin = time.perf_counter()
    results = work(parts[0])
    # Threads that decode tiny files mostly wait for Python's lock, and take 1.5 times as long as one.
    threads_pay = time.perf_counter() - begin > _THREADS_PAY * len(results)
    for more in executor.map(work, parts[1:]) if threads_pay else map(work, parts[1:]):
        results += more
        if progress:
            progress(len(results), len(items))
    return results


def _batches(
    paths: Sequence[str | Path],
    shape: Shape,
    size: int,
    skip_bad: bool,
    names: list[str],
    aspect: Aspect,
    workers: int | None,
) -> Iterator[ImageBatch]:
    """The generator behind :func:`iter_image_batches`."""

    def read(start: int) -> tuple[NDArray[np.uint8], list[Decoded | str]]:
        chunk = paths[start : start + size]
        images = np.empty((len(chunk), *shape), dtype=np.uint8)
        return images, _decode_all(decoders, chunk, images, aspect)

    starts = range(0, len(paths), size)
    # A pool of its own for reading ahead: a task that waits for tasks of the same pool could wait for ever.
    with _threads(workers) as decoders, _threads(1) as reader:
        ahead: Future[tuple[NDArray[np.uint8], list[Decoded | str]]] | None = None
        for start in starts:
            images, outcomes = ahead.result() if ahead else read(start)
            bad = [(names[start + i], outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, str)]
            if bad and not skip_bad:
                for later in starts[start // size + 1 :]:
                    bad += [(names[later + i], outcome) for i, outcome in enumerate(read(later)[1]) if isinstance(outcome, str)]
                raise _unreadable(bad, len(paths))
            ahead = reader.submit(read, start + size) if start + size < len(paths) else None
            kept = np.flatnonzero([not isinstance(outcome, str) for outcome in outcomes])
            yield ImageBatch([names[start + i] for i in kept], _compact(images, kept), bad)
