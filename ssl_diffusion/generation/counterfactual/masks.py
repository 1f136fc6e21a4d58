"""Where images may change: masks of a region, and the denoiser that sees images as they were around it."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.sampling import Denoiser

__all__ = ["region_masks", "within_region"]


def region_masks(region: NDArray[np.float32] | None, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """The region of each image.

    Args:
        region: Mask of what may change, float32 (H, W), or (n, H, W), in [0, 1]; None is everywhere.
        images: Images, uint8 (n, C, H, W).

    Returns:
        Masks, float32 (n, 1, H, W); None is everywhere.

    Raises:
        DataError: If the region does not suit the images.
    """
    if region is None:
        return None
    shape = (len(images), *images.shape[2:])
    if region.shape not in (shape, shape[1:]):
        raise DataError(f"a region has the shape {shape[1:]} of the images, or {shape} with one for each, not {region.shape}")
    if not (np.isfinite(region).all() and region.min(initial=0) >= 0 and region.max(initial=0) <= 1):
        raise DataError("a region has values from 0 (nothing changes) to 1")
    return np.ascontiguousarray(np.broadcast_to(region, shape)[:, None], dtype=np.float32)


def within_region(denoise: Denoiser, mask: Tensor, way: dict[float, Tensor]) -> Denoiser:
    """A denoiser that sees images as they were outside of a region.

    Args:
        denoise: Denoiser.
        mask: Region of each image, (B, 1, H, W), in [0, 1].
        way: Noised images as they were, (B, C, H, W), by noise level.
    """
    return lambda x, sigma: denoise(mask * x + (1 - mask) * way[sigma], sigma)
