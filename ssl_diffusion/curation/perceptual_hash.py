"""Small pictures of images, and signatures by which copies that were compressed, scaled or brightened are found.

A perceptual hash keeps the signs of the low frequencies of a small gray picture. The frequencies themselves, which the
signature keeps, tell far more, and the mirrored picture has the same ones, every other with the opposite sign.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

__all__ = ["SIDE", "hash_bits", "signatures"]

SIDE = 32
"""Height and width of the small pictures, in pixels."""

_LOW = 8  # frequencies in each direction
_LEAST = 1e-6
_BLOCK = 16_384  # pictures at a time


def signatures(small: NDArray[np.uint8], *, flipped: bool = False) -> NDArray[np.float32]:
    """Low frequencies of pictures, without the mean and as long as each other, so that their product is a correlation.

    Args:
        small: Small pictures, uint8 (n, C, 32, 32).
        flipped: Whether the signatures of the mirrored pictures are wanted.

    Returns:
        Signatures, float32 (n, 63); zeros for pictures of one color.

    Example:
        >>> signatures(np.zeros((2, 1, 32, 32), np.uint8)).shape
        (2, 63)
    """
    parts = [_signatures(small[i : i + _BLOCK], flipped=flipped) for i in range(0, len(small), _BLOCK)]
    return np.concatenate([np.empty((0, _LOW**2 - 1), dtype=np.float32), *parts])


def _signatures(small: NDArray[np.uint8], *, flipped: bool) -> NDArray[np.float32]:
    gray = small.mean(axis=1, dtype=np.float32)
    low = dctn(gray, axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW]
    if flipped:
        low = low * np.where(np.arange(_LOW) % 2, -1, 1).astype(np.float32)
    flat = low.reshape(len(low), -1)[:, 1:]
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > _LEAST * SIDE * 255, flat / np.maximum(length, _LEAST), 0).astype(np.float32)


def hash_bits(signature: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Perceptual hashes of 64 bits: the frequencies above their median.

    Args:
        signature: Result of :func:`signatures`, float32 (n, 63).

    Returns:
        Hashes, uint64 (n,).
    """
    bits = signature > np.median(signature, axis=1, keepdims=True)
    packed = np.packbits(np.pad(bits, ((0, 0), (1, 0))), axis=1)
    return packed.view(">u8").ravel().astype(np.uint64)
