"""Between images of 8 bits and the floats in [-1, 1] that the model reads."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["rounded", "to_bytes", "to_floats"]


def to_floats(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Images of 8 bits as floats in [-1, 1]."""
    values = np.ascontiguousarray(images)
    if not values.flags.writeable:  # of a memory-mapped file
        values = values.copy()
    return torch.from_numpy(values).to(device).float() / 127.5 - 1


def to_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Images in [-1, 1] as 8 bits; clipped and rounded."""
    values: NDArray[np.uint8] = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return values


def rounded(x: Tensor) -> Tensor:
    """Images in [-1, 1] as they come back from 8 bits; clipped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
