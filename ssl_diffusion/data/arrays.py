"""Arrays as users have them, made into what a :class:`~ssl_diffusion.data.Pool` holds.

Images come in many layouts and value ranges; a pool has uint8, (n, C, H, W). The channel axis of an image is the one with
1 to 4 entries. Labels come as numbers or strings with -1 for none; a pool has positions in the list of classes.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["encode_labels", "find_image_shape", "find_value_range", "to_images"]


def find_image_shape(X: NDArray[Any], given: tuple[int, ...] | str | None) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Shape of one image as stored in a row or in X, and its (c, h, w).

    Args:
        X: images, or flat rows (n, values).
        given: (c, h, w), (h, w, c), (h, w), "row" for rows without height, or None to take the shape of X.

    Raises:
        ValueError: if the shape is not that of an image, does not fit the rows, or leaves open which axis is the channels.
        TypeError: if `given` is none of the above.

    Example:
        >>> find_image_shape(np.zeros((10, 28, 28)), None)
        ((28, 28), (1, 28, 28))
    """
    if isinstance(given, str):
        if given != "row":
            raise ValueError(f"image_shape must be a tuple, 'row' or None, not {given!r}")
        if X.ndim != 2:
            raise ValueError(f"image_shape='row' takes flat rows, (n, values), not an array of shape {X.shape}")
        return (1, 1, X.shape[1]), (1, 1, X.shape[1])
    if given is None:
        shape = X.shape[1:]
        if len(shape) == 1:
            raise ValueError(
                f"X has flat rows of {shape[0]} values: give image_shape=(c, h, w), or image_shape='row' for signals"
            )
    else:
        try:
            shape = tuple(int(side) for side in given)
        except (TypeError, ValueError):
            raise TypeError(f"image_shape must be a tuple, 'row' or None, not {given!r}") from None
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"image_shape must be (c, h, w), (h, w, c) or (h, w), not {given!r}")
        if X.ndim == 2 and X.shape[1] != math.prod(shape):
            raise ValueError(f"X has rows of {X.shape[1]} values, but image_shape={shape} has {math.prod(shape)}")
    if len(shape) == 2:
        return shape, (1, shape[0], shape[1])
    if len(shape) != 3:
        raise ValueError(f"images must be (n, h, w), (n, c, h, w), (n, h, w, c) or flat rows, not an array of shape {X.shape}")
    first, last = shape[0] <= 4, shape[2] <= 4
    if first and last and given is None:
        raise ValueError(f"either end of images of shape {shape} could be the channels: give image_shape=(c, h, w)")
    if not first and not last:
        raise ValueError(f"images of shape {shape} have no channel axis: neither the first nor the last has 1 to 4 entries")
    return shape, (shape[0], shape[1], shape[2]) if first else (shape[2], shape[0], shape[1])


def find_value_range(X: NDArray[Any], given: tuple[float, float] | str) -> tuple[float, float]:
    """The values that become 0 and 255; a constant X becomes 0.

    Example:
        >>> find_value_range(np.array([0.0, 0.2, 1.0]), "auto")
        (0.0, 1.0)
    """
    if isinstance(given, str):
        if given != "auto":
            raise ValueError(f"value_range must be 'auto' or (lo, hi), not {given!r}")
        if X.dtype == np.uint8:
            return 0.0, 255.0
        lo, hi = float(X.min()), float(X.max())
        return lo, hi if hi > lo else lo + max(1.0, abs(lo))
    try:
        lo, hi = map(float, given)
    except (TypeError, ValueError):
        raise TypeError(f"value_range must be 'auto' or (lo, hi), not {given!r}") from None
    if not -math.inf < lo < hi < math.inf:
        raise ValueError(f"value_range=(lo, hi) must be finite with lo < hi, not {given!r}")
    return lo, hi


def to_images(
    X: NDArray[Any], row_shape: tuple[int, ...], image_shape: tuple[int, int, int], value_range: tuple[float, float]
) -> NDArray[np.uint8]:
    """Images of any layout and dtype as uint8, (n, c, h, w); not copied if they are that already.

    Args:
        X: images, or flat rows (n, values).
        row_shape: Shape of one image in a flat row.
        image_shape: (c, h, w).
        value_range: the values that become 0 and 255.

    Raises:
        ValueError: if the images have another shape.

    Example:
        >>> to_images(np.array([[[0.0, 1.0]]]), (1, 2), (1, 1, 2), (0.0, 1.0)).tolist()
        [[[[0, 255]]]]
    """
    images = X.reshape(len(X), *row_shape) if X.ndim == 2 else X
    return np.require(_to_bytes(_channels_first(images, image_shape), *value_range), requirements=("C", "W"))


def encode_labels(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes, sorted, and y as positions among them with -1 where there is no label.

    Example:
        >>> classes, positions = encode_labels(np.array(["dog", "cat", "dog"]))
        >>> positions.tolist()
        [1, 0, 1]
    """
    from sklearn.utils.multiclass import check_classification_targets

    as_text = np.array([isinstance(value, str) for value in y])
    if any(value == "-1" for value in y[as_text]):
        raise ValueError("y has the text '-1': mark samples without label by the number -1, in an array of dtype object")
    unlabeled = np.zeros(len(y), dtype=bool)
    unlabeled[~as_text] = y[~as_text] == -1
    labels = y[~unlabeled]
    if not len(labels):
        raise ValueError("y has no labels, every entry is -1: label samples of at least two classes")
    if labels.dtype == object and as_text.any() and not as_text[~unlabeled].all():
        raise ValueError("y mixes strings with other labels; -1 marks a sample without label")
    if labels.dtype == object and not as_text.any():
        labels = np.array(labels.tolist())
    check_classification_targets(labels)
    classes, inverse = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs samples of at least 2 classes, but y has only one class: {classes[0]}")
    codes = np.full(len(y), -1, dtype=np.int64)
    codes[~unlabeled] = inverse
    return classes, codes


def _channels_first(images: NDArray[Any], image_shape: tuple[int, int, int]) -> NDArray[Any]:
    """Images of any layout as (n, c, h, w)."""
    c, h, w = image_shape
    shape = images.shape[1:]
    if shape == image_shape:
        return images
    if shape == (h, w, c):
        return np.moveaxis(images, 3, 1)
    if shape == (h, w) and c == 1:
        return images[:, None]
    raise ValueError(f"X has images of shape {shape}, but the estimator's have (c, h, w) = {image_shape}")


def _to_bytes(values: NDArray[Any], lo: float, hi: float) -> NDArray[np.uint8]:
    """Map [lo, hi] to 0..255, rounding to the nearest and clipping; part by part, to need little memory."""
    if values.dtype == np.uint8 and (lo, hi) == (0.0, 255.0):
        return values
    result = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), 4096):
        part = np.clip(values[start : start + 4096].astype(np.float64), lo, hi)
        result[start : start + 4096] = np.rint((part - lo) / (hi - lo) * 255)
    return result
