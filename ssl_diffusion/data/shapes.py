"""One shape for many image files: size, color, and what becomes of other aspect ratios."""

from collections import Counter
from collections.abc import Collection
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import Aspect, Header
from ssl_diffusion.storage import allocate

__all__ = ["as_gray", "aspect_note", "chosen_aspect", "chosen_note", "color_options", "common_shape", "common_size"]

_MOST_CUT = 0.34  # of an image, on average: 4:3 and 3:2 in a square are below, 16:9 is above
_AT_ONCE = 1024  # images


class ColorOptions(TypedDict):
    """Arguments of :func:`ssl_diffusion.data.images.read_images` that decide about color."""

    channels: int | None
    find_gray: bool


def color_options(color: str) -> ColorOptions:
    """How images are read: "gray" or "rgb", "files" as their color modes say, "auto" as their pixels do."""
    return {"channels": {"gray": 1, "rgb": 3}.get(color), "find_gray": color == "auto"}


def common_size(headers: Collection[Header]) -> tuple[int, int]:
    """The most common height and width, the larger if equally common.

    Args:
        headers: Headers of the files, at least one.
    """
    counts = Counter((header.height, header.width) for header in headers)
    return max(counts, key=lambda hw: (counts[hw], hw[0] * hw[1], hw))


def common_shape(
    headers: Collection[Header], size: int | tuple[int, int] | None, largest: int | None, channels: int | None
) -> tuple[int, int, int]:
    """The shape (C, H, W) for all images: as asked, else the most common size, or the largest if that is larger; gray if all
    are.

    Args:
        headers: Headers of the files, at least one.
        size: Side of a square in pixels, or height and width; None takes the most common size.
        largest: Side of a square in pixels that takes the place of a most common size which is higher or wider; None sets no
            limit.
        channels: Channels; None takes 1 if all files are gray by their color mode, else 3.
    """
    height, width = common_size(headers)
    if size is None and largest is not None and max(height, width) > largest:
        size = largest
    if size is not None:
        height, width = size if isinstance(size, tuple) else (size, size)
    return channels or (1 if all(header.gray for header in headers) else 3), height, width


def chosen_note(headers: Collection[Header], shape: tuple[int, int, int]) -> str:
    """A sentence about a size that is smaller than the files' own although nobody asked for it.

    Args:
        headers: Headers of the files, at least one.
        shape: Shape (C, H, W) that they are read at.
    """
    (_, h, w), (height, width) = shape, common_size(headers)
    times = height * width / (h * w)
    return (
        f"images are resized to {h} x {w} pixels: most have {height} x {width}, with which training would take about "
        f"{times:,.{0 if times >= 10 else 1}f} times as long; choose the size with --size, where 0 keeps the files' own"
    )


def chosen_aspect(headers: Collection[Header], shape: tuple[int, int, int]) -> Aspect:
    """The treatment of other aspect ratios that leaves most of the images as they are: "crop" if the middle of those that need
    it has two thirds of their pixels on average, else "pad".

    Args:
        headers: Headers of the files.
        shape: Shape (C, H, W) that they are read at.

    Example:
        >>> chosen_aspect([Header(100, 150, False)], (3, 32, 32)), chosen_aspect([Header(90, 160, False)], (3, 32, 32))
        ('crop', 'pad')
    """
    _, h, w = shape
    ratios = np.array([header.width * h / (header.height * w) for header in headers])
    cut = 1 - np.minimum(ratios, 1 / ratios)
    cut = cut[cut > 0]
    return "pad" if len(cut) and cut.mean() > _MOST_CUT else "crop"


def aspect_note(aspect: Aspect) -> str:
    """The end of a sentence about images with another aspect ratio.

    Args:
        aspect: Treatment of these images.
    """
    return {
        "squeeze": "and were stretched to it",
        "crop": "and were cropped to their middle (--aspect pad keeps all of them)",
        "pad": "and were padded with their mean color (--aspect crop takes their middle)",
    }[aspect]


def as_gray(images: NDArray[np.uint8], max_memory: int | None) -> NDArray[np.uint8] | None:
    """Images of three equal channels with one; None if a pixel of theirs is colored.

    Args:
        images: RGB images, uint8 (n, 3, H, W).
        max_memory: Bytes beyond which the result is a temporary file; None for no limit.
    """
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(images), _AT_ONCE)]
    for part in parts:
        some = images[part]
        if (some[:, :1] != some[:, 1:]).any():
            return None
    gray = allocate((len(images), 1, *images.shape[2:]), max_memory=max_memory)
    for part in parts:
        gray[part] = images[part, :1]
    return gray
