"""Conversion between 8-bit images and the floats in [-1, 1] that models read."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["rounded", "to_bytes", "to_floats"]


def to_floats(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Convert 8-bit images to floats.

    Args:
        images: Images, uint8, of any shape.
        device: Device of the result.

    Returns:
        Images, float32, of the same shape, in [-1, 1].

    Example:
        >>> to_floats(np.array([0, 255], dtype=np.uint8), torch.device("cpu"))
        tensor([-1.,  1.])
    """
    values = np.ascontiguousarray(images)
    if not values.flags.writeable:  # of a memory-mapped file
        values = values.copy()
    return torch.from_numpy(values).to(device).float() / 127.5 - 1


def to_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Convert floats to 8-bit images, clipped and rounded.

    Args:
        x: Images in [-1, 1], of any shape.

    Returns:
        Images, uint8, of the same shape.

    Example:
        >>> to_bytes(torch.tensor([-1.0, 2.0]))
        array([  0, 255], dtype=uint8)
    """
    values: NDArray[np.uint8] = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return values


def rounded(x: Tensor) -> Tensor:
    """Images in [-1, 1] after conversion to 8 bits and back."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
