"""Morphometry of digits after Morpho-MNIST (Castro et al., arXiv 1809.10780), with scikit-image.

An image is made four times larger (Gaussian pyramid, cubic) and cut at half its range of brightness. Of the strokes that
remain:

area       pixels of the original size that they cover
length     of their medial axis in pixels: 1 for neighbors above or beside each other, the square root of 2 for diagonal ones
thickness  twice the mean distance of the medial axis to the background, in pixels

and of the larger image with all its brightness, by moments:

slant      angle of the horizontal shear in radians, positive to the right
width      of the parallelogram of that slant and of its height, both in pixels, in which 98 % of the brightness lies,
height     1 % left out at each side
"""

from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["MEASURES", "Shape", "measure", "measure_all", "outlines"]

_SCALE = 4
_LEFT_OUT = 0.01


@dataclass(frozen=True)
class Shape:
    """Measures of an image; see the module."""

    area: float
    length: float
    thickness: float
    slant: float
    width: float
    height: float


MEASURES = tuple(Shape.__dataclass_fields__)


def measure(image: NDArray[np.uint8]) -> Shape:
    """Measures of an image, uint8 (H, W); NaN where nothing is drawn."""
    from skimage.morphology import medial_axis

    if image.max() == image.min():
        return Shape(*[float("nan")] * len(MEASURES))
    large = _enlarged(image)
    strokes = large >= (large.min() + large.max()) / 2
    axis, distance = medial_axis(strokes, return_distance=True, rng=0)  # ties are broken at random
    return Shape(
        area=float(strokes.sum()) / _SCALE**2,
        length=_length(axis) / _SCALE,
        thickness=2 * float(distance[axis].mean()) / _SCALE,
        **_parallelogram(large),
    )


def measure_all(images: NDArray[np.uint8]) -> pd.DataFrame:
    """Measures of images, uint8 (n, 1, H, W): one row for each."""
    return pd.DataFrame([astuple(measure(image[0])) for image in images], columns=list(MEASURES))


def outlines(images: NDArray[np.uint8], least: float) -> pd.DataFrame:
    """Slant, width and height of images, uint8 (n, 1, H, W), in which all that is darker than a fraction of 255 is black."""
    seen = np.where(images < 255 * least, 0, images).astype(np.uint8)
    return pd.DataFrame([_parallelogram(_enlarged(image[0])) for image in seen])


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    from skimage.transform import pyramid_expand

    return np.asarray(np.floor(255 * np.clip(pyramid_expand(image, upscale=_SCALE, order=3), 0, 1)))


def _length(axis: NDArray[np.bool_]) -> float:
    beside = (axis[:, 1:] & axis[:, :-1]).sum() + (axis[1:] & axis[:-1]).sum()
    diagonal = (axis[1:, 1:] & axis[:-1, :-1]).sum() + (axis[1:, :-1] & axis[:-1, 1:]).sum()
    return float(beside + np.sqrt(2) * diagonal)


def _parallelogram(image: NDArray[np.float64]) -> dict[str, float]:
    mass = image / image.sum()
    y, x = (coordinate.astype(float) for coordinate in np.indices(image.shape))
    middle_x, middle_y = (mass * x).sum(), (mass * y).sum()
    shear = (mass * (x - middle_x) * (y - middle_y)).sum() / (mass * (y - middle_y) ** 2).sum()
    upright = x + 0.5 - shear * (y - middle_y)
    return {
        "slant": float(np.arctan(-shear)),
        "width": _extent(upright, mass) / _SCALE,
        "height": _extent(y, mass) / _SCALE,
    }


def _extent(position: NDArray[np.float64], mass: NDArray[np.float64]) -> float:
    """Distance between the quantiles of the mass along a coordinate, interpolated between whole positions of the image."""
    size = len(mass)
    before = np.array([mass[position < edge].sum() for edge in range(size)])
    low, high = np.interp([_LEFT_OUT, 1 - _LEFT_OUT], before, np.arange(size))
    return float(high - low)
