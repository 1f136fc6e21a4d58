"""Changes at the size of the files that images were made from: a change is enlarged and added to the file's own pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.data.decoding import Aspect, decode, read_header
from ssl_diffusion.data.source import FileSource
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import FileReader
from ssl_diffusion.models.pixels import to_bytes, to_floats

__all__ = ["is_larger", "read_pixels", "shown_part", "with_change", "write_changed"]

_CORRECTIONS = 4
_STRENGTHS = (1.0, 1.1, 1.25, 1.5, 2.0)  # factors of a change that is added to a file


def is_larger(file: Path, shape: tuple[int, ...]) -> bool:
    """Whether an image file has more rows or columns than an image (C, H, W).

    Args:
        file: Image file.
        shape: Shape of the image, (C, H, W).
    """
    header = read_header(file)
    return not isinstance(header, str) and (header.height > shape[1] or header.width > shape[2])


def read_pixels(file: Path, channels: int) -> NDArray[np.uint8]:
    """The pixels of an image file, upright, at its own size.

    Args:
        file: Image file.
        channels: Channels, 1 (gray) or 3 (RGB).

    Returns:
        Pixels, uint8 (C, H, W).

    Raises:
        DataError: If the file cannot be read.

    Example:
        >>> read_pixels(Path("photo.jpg"), 3).shape  # doctest: +SKIP
        (3, 300, 400)
    """
    header = read_header(file)
    if isinstance(header, str):
        raise DataError(f"{file} cannot be read: {header}")
    pixels = np.empty((channels, header.height, header.width), dtype=np.uint8)
    if isinstance(fault := decode(file, pixels), str):
        raise DataError(f"{file} cannot be read: {fault}")
    return pixels


def write_changed(
    run: Run,
    result: CounterfactualResult,
    sources: list[Path],
    places: list[Path],
    confidence: float = 0.0,
    masks: list[NDArray[np.bool_]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
    """Write the changed files at their own size, as little changed as is predicted as the target.

    The search ends where the probability just suffices, and there rounding at another size decides: the change that is saved
    may be a little larger than the one that was found.

    Args:
        run: Fitted model.
        result: Counterfactuals at the size of the denoiser, m of them.
        sources: Files that they come from, m of them.
        places: Files to write, m of them.
        confidence: Least probability of the target, in [0, 1).
        masks: Masks of what may change in each file, bool (H', W'), m of them; None is all of them.

    Returns:
        Class probabilities of the written files, float32 (m, K), the factors of their changes, float64 (m,), and whether they
        are predicted as the target with that probability, bool (m,).
    """
    strength, p = np.ones(len(places)), np.zeros((len(places), len(run.classes)), dtype=np.float32)
    verified = np.zeros(len(places), dtype=bool)
    todo = np.arange(len(places))
    for factor in _STRENGTHS:
        for i in todo:
            mask = None if masks is None else masks[i]
            made = with_change(sources[i], result.original[i], result.images()[i], factor, run.aspect, mask)
            to_pil(made).save(places[i])
        strength[todo] = factor
        p[todo] = _predicted(run, [places[i] for i in todo])
        wanted = result.target[todo]
        verified[todo] = (p[todo].argmax(axis=1) == wanted) & (p[todo, wanted] >= confidence)
        todo = todo[result.success[todo] & ~verified[todo]]
        if not len(todo):
            break
    return p, strength, verified


def with_change(
    file: Path,
    image: NDArray[np.uint8],
    changed: NDArray[np.uint8],
    factor: float = 1.0,
    aspect: Aspect = "squeeze",
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """A file at its own size, with the change of the small image that was made from it.

    Args:
        file: Image file.
        image: Image that was made from it, uint8 (C, H, W).
        changed: Image after the change, uint8 (C, H, W).
        factor: Factor of the change.
        aspect: Treatment of other aspect ratios when the image was made: it says which part of the file the image shows.
        mask: Mask of what may change in the file, bool (H', W'); None is all of them.

    Returns:
        Pixels of the file with the enlarged change added, uint8 (C, H', W').

    Example:
        >>> with_change(Path("photo.jpg"), image, counterfactual).shape  # doctest: +SKIP
        (3, 300, 300)
    """
    device = torch.device("cpu")
    whole = to_floats(read_pixels(file, len(image))[None], device)
    change = factor * (to_floats(changed, device) - to_floats(image, device))[None]
    part, inside = shown_part((whole.shape[2], whole.shape[3]), (change.shape[2], change.shape[3]), aspect)
    rows, columns = part
    size = rows.stop - rows.start, columns.stop - columns.start
    larger = _enlarged(change[:, :, *inside], size)
    whole[:, :, rows, columns] += larger if mask is None else larger * torch.from_numpy(mask[rows, columns])
    made: NDArray[np.uint8] = to_bytes(whole)[0]
    return made


def _enlarged(change: Tensor, size: tuple[int, int]) -> Tensor:
    """A change at a larger size, which is about the same again when that is reduced (iterative back-projection)."""
    small = (change.shape[2], change.shape[3])
    larger = functional.interpolate(change, size, mode="bilinear")
    for _ in range(_CORRECTIONS):
        lost = change - functional.interpolate(larger, small, mode="bicubic", antialias=True)
        larger = larger + functional.interpolate(lost, size, mode="bilinear")
    return larger


Box = tuple[slice, slice]
"""Rows and columns."""


def shown_part(file: tuple[int, int], image: tuple[int, int], aspect: Aspect) -> tuple[Box, Box]:
    """Which part of a file an image of it shows, and which part of the image shows the file.

    Args:
        file: Height and width of the file.
        image: Height and width of the image.
        aspect: Treatment of other aspect ratios when the image was made.

    Returns:
        Rows and columns of the file, and those of the image.

    Example:
        >>> shown_part((100, 200), (50, 50), "crop")
        ((slice(0, 100, None), slice(50, 150, None)), (slice(0, 50, None), slice(0, 50, None)))
    """
    (height, width), (h, w) = file, image
    top, left, inside = 0, 0, (slice(0, h), slice(0, w))
    if aspect == "crop":
        scale = min(height / h, width / w)
        top, left = round((height - scale * h) / 2), round((width - scale * w) / 2)
    elif aspect == "pad":
        scale = max(height / h, width / w)
        rows, columns = max(1, min(h, round(height / scale))), max(1, min(w, round(width / scale)))
        above, before = (h - rows) // 2, (w - columns) // 2
        inside = slice(above, above + rows), slice(before, before + columns)
    return (slice(top, height - top), slice(left, width - left)), inside


def _predicted(run: Run, paths: list[Path]) -> NDArray[np.float32]:
    """Class probabilities of image files, float32 (n, K), as predictions of files have them."""
    names = [path.name for path in paths]
    small = FileSource(paths, names, run.image_shape, run.aspect).take(names)
    return run.predict_proba(FileReader(replace(run, cache_dir=None), paths, names).rows(names, small))
