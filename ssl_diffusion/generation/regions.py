"""Where an explanation may change an image: a rectangle or a mask, in the pixels of the picture that people see."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.errors import DataError, shown
from ssl_diffusion.generation.original_size import read_pixels, shown_part
from ssl_diffusion.outputs import path_fault

__all__ = ["Region", "region_mask", "region_of", "seen_region"]

Region = tuple[int, int, int, int] | Path
"""A rectangle (x, y, width, height), or an image file that is white where something may change."""


def region_of(text: str) -> Region:
    """What a user names as a region.

    Args:
        text: Four whole numbers "x,y,w,h", or the path of a mask.

    Raises:
        DataError: If it is neither, or the rectangle is empty or begins outside of any image.

    Example:
        >>> region_of("4,0,10,28")
        (4, 0, 10, 28)
    """
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        if (fault := path_fault(Path(text), "file")) is None:
            return Path(text)
        said = f"a region is x,y,w,h in pixels, or an image file that is white where something may change: {fault}"
        raise DataError(said) from None
    if len(numbers) != 4:
        raise DataError(f"a region is four numbers x,y,w,h in pixels, not {shown(text)}")
    x, y, width, height = numbers
    if min(x, y) < 0 or min(width, height) < 1:
        raise DataError(f"a region begins at 0 or later and is at least one pixel wide and high: {shown(text)} is not")
    return x, y, width, height


def region_mask(region: Region, size: tuple[int, int], name: str) -> NDArray[np.bool_]:
    """The pixels of a picture that may change.

    Args:
        region: Rectangle or mask.
        size: Height and width of the picture.
        name: Name of the picture in messages.

    Returns:
        Whether a pixel may change, bool (H, W).

    Raises:
        DataError: If the rectangle reaches beyond the picture, or the mask has another size or is black.
    """
    height, width = size
    mask = np.zeros(size, dtype=bool)
    if isinstance(region, tuple):
        x, y, w, h = region
        if x + w > width or y + h > height:
            raise DataError(f"the region {x},{y},{w},{h} reaches beyond {name}, which is {width} pixels wide and {height} high")
        mask[y : y + h, x : x + w] = True
        return mask
    pixels = read_pixels(region, 1)[0]
    if pixels.shape != size:
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise DataError(f"the mask {region} has {found} pixels and {name} {width} x {height}: make it of that size")
    mask |= pixels >= 128
    if not mask.any():
        raise DataError(f"the mask {region} has no white pixel, so nothing may change")
    return mask


def seen_region(mask: NDArray[np.bool_], shape: tuple[int, int], aspect: Aspect) -> NDArray[np.float32]:
    """The region in the image that a model has of a picture.

    Args:
        mask: Whether a pixel of the picture may change, bool (H', W').
        shape: Height and width of the image.
        aspect: Treatment of other aspect ratios when the image was made.

    Returns:
        Fraction of each pixel that may change, float32 (H, W), in [0, 1].
    """
    if mask.shape == shape:
        return mask.astype(np.float32)
    (rows, columns), inside = shown_part((mask.shape[0], mask.shape[1]), shape, aspect)
    part = torch.from_numpy(mask[rows, columns]).float()[None, None]
    seen = np.zeros(shape, dtype=np.float32)
    seen[inside] = functional.adaptive_avg_pool2d(part, seen[inside].shape)[0, 0].numpy()
    return seen
