"""Image files looked at one by one: what they measure, how bright and sharp they are, and what is odd about them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

from ssl_diffusion.curation.perceptual_hash import SIDE
from ssl_diffusion.data.decoding import DAMAGE, open_image, reason_of
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import DataError
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["Survey", "image_faults", "survey"]

_LOOKED_AT = 256  # pixels; larger images are made smaller
_DARK, _BRIGHT, _FLAT = 60, 195, 6.0  # of 255
_BLUR = 4.5  # robust deviations
_RATIO, _SCALE = 2.0, 3.0  # times the usual aspect ratio, and the usual side
_LEAST = 1e-6


@dataclass(frozen=True)
class Survey:
    """Measures of N images.

    Attributes:
        small: Images at 32 pixels, uint8 (N, C, 32, 32).
        digests: MD5 of the files or, where there are none, of the pixels, (N,).
        size: Height and width in pixels, int64 (N, 2).
        low: First percentile of the brightness, float64 (N,), from 0 to 255.
        high: 99th percentile of the brightness, likewise.
        spread: Standard deviation of the brightness, likewise.
        sharpness: Energy of the edges in that of the image, float64 (N,), non-negative.
    """

    small: NDArray[np.uint8]
    digests: NDArray[np.bytes_]
    size: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    spread: NDArray[np.float64]
    sharpness: NDArray[np.float64]


def survey(
    images: NDArray[np.uint8], files: Sequence[Path] | None = None, *, progress: ProgressCallback | None = None
) -> Survey:
    """Look at images, at their files where there are some.

    Args:
        images: Images, uint8 (N, C, H, W).
        files: Files that they come from; None looks at the images.
        progress: Callback for the number of images looked at.

    Raises:
        DataError: If a file cannot be read any more.

    Example:
        >>> survey(pool.images[:3]).small.shape
        (3, 1, 32, 32)
    """
    n, c = len(images), 1 if images.shape[1] == 1 else 3
    small, digests = np.empty((n, c, SIDE, SIDE), dtype=np.uint8), np.empty(n, dtype="S16")
    size, measures = np.empty((n, 2), dtype=np.int64), np.empty((n, 4))
    mode = "L" if c == 1 else "RGB"
    for i in range(n):
        if files is None:
            digests[i] = hashlib.md5(np.ascontiguousarray(images[i]).tobytes(), usedforsecurity=False).digest()
            image = to_pil(images[i][:3] if images.shape[1] > 2 else images[i][:1])
            size[i] = images.shape[2:]
        else:
            image, digests[i], size[i] = _read(files[i])
        image = image.convert(mode)
        small[i] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).reshape(SIDE, SIDE, c).transpose(2, 0, 1)
        measures[i] = _measures(image)
        if progress is not None and (i % 256 == 255 or i == n - 1):
            progress(ProgressUpdate("looking at images", i + 1, n))
    return Survey(small, digests, size, *measures.T)


def image_faults(seen: Survey) -> list[tuple[str, int, float, str]]:
    """What is odd about images.

    Args:
        seen: Result of :func:`survey`.

    Returns:
        Fault ("dark", "bright", "low information", "blurred", "odd size", "odd aspect"), number of the image, score (the
        larger, the odder) and a phrase, the oddest of each fault first.
    """
    found: list[tuple[str, int, float, str]] = []

    def add(name: str, odd: NDArray[np.bool_], score: NDArray[np.float64], text: str, value: NDArray[np.floating]) -> None:
        rows = np.flatnonzero(odd)
        for i in rows[np.argsort(-score[rows], kind="stable")].tolist():
            found.append((name, i, float(score[i]), text.format(float(value[i]))))

    flat = seen.spread < _FLAT
    add("low information", flat, _FLAT - seen.spread, "its brightness varies by {:.1f} of 255 only", seen.spread)
    dark, bright = (seen.high < _DARK) & ~flat, (seen.low > _BRIGHT) & ~flat
    add("dark", dark, _DARK - seen.high, "nothing in it is brighter than {:.0f} of 255", seen.high)
    add("bright", bright, seen.low - _BRIGHT, "nothing in it is darker than {:.0f} of 255", seen.low)
    log = np.log(seen.sharpness + _LEAST)
    deviation = (np.median(log) - log) / max(1.4826 * float(np.median(np.abs(log - np.median(log)))), 0.1)
    blurred = (deviation > _BLUR) & ~flat
    add("blurred", blurred, deviation, "its edges are weaker than usual by {:.1f} robust deviations", deviation)
    side, aspect = np.sqrt(seen.size.prod(axis=1)), seen.size[:, 1] / seen.size[:, 0]
    scale, ratio = side / np.median(side), aspect / np.median(aspect)
    add(
        "odd size",
        np.abs(np.log(scale)) > np.log(_SCALE),
        np.abs(np.log(scale)),
        "its side is {:.2g} times the usual one",
        scale,
    )
    add("odd aspect", np.abs(np.log(ratio)) > np.log(_RATIO), np.abs(np.log(ratio)), "its width by height is {:.2g}", aspect)
    return found


def _read(path: Path) -> tuple[Image.Image, bytes, tuple[int, int]]:
    """The image, made smaller if it is large, the digest of the file, and height and width."""
    try:
        content = path.read_bytes()
        with open_image(path) as image:
            width, height = image.size
            image.draft("RGB", (2 * _LOOKED_AT, 2 * _LOOKED_AT))
            flat = image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
    except DAMAGE as error:
        raise DataError(f"{path} cannot be read: {reason_of(path, error)}") from None
    if max(flat.size) > _LOOKED_AT:
        flat.thumbnail((_LOOKED_AT, _LOOKED_AT))
    return flat, hashlib.md5(content, usedforsecurity=False).digest(), (height, width)


def _measures(image: Image.Image) -> tuple[float, float, float, float]:
    gray = np.asarray(image.convert("L"), dtype=np.float32)
    low, high = np.percentile(gray, (1, 99))
    spread = float(gray.std())
    edges = float(np.square(laplace(gray)).mean())
    return float(low), float(high), spread, edges / max(spread**2, _LEAST)
