"""What tells one content of a shard from another, without reading all of it.

`ssld pack` writes a digest of ids and pixels into the footer, which holds wherever the shard lies. For shards of other programs
size, time of the last change (or ETag) and some blocks of the file stand for the content, beside their footer or headers.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.shards.places import Place, reading

__all__ = ["ContentDigest", "sampled_digest", "splits_digest"]

_BLOCKS, _BLOCK = 8, 4096  # of a file that stand for all of it; bytes


class ContentDigest:
    """Digest of the ids and packed images of a shard, as its footer holds it.

    Args:
        image_shape: (C, H, W) of every image.
    """

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self._digest = hashlib.sha256(repr(tuple(image_shape)).encode())

    def update(self, ids: Sequence[str], images: NDArray[np.uint8]) -> None:
        """Add rows.

        Args:
            ids: Sample ids, n of them.
            images: Packed images, uint8 (n, C, H, W).
        """
        for sample, image in zip(ids, images, strict=True):
            self._digest.update(f"{len(sample)} {sample}".encode())
            self._digest.update(np.ascontiguousarray(image).data)

    def hexdigest(self) -> str:
        """The digest of all rows so far, hex."""
        return self._digest.hexdigest()


def sampled_digest(place: Place, said: str) -> str:
    """Digest of a shard whose content nobody has written a digest of, hex.

    Args:
        place: File of the shard.
        said: Digest of what its footer or headers say.

    Raises:
        DataError: If the file cannot be read.
    """
    step = max(_BLOCK, (place.size - _BLOCK) // (_BLOCKS - 1))
    starts = list(range(0, place.size, step))[:_BLOCKS]
    with reading(place.name):
        blocks = place.system.cat_ranges(
            [place.path] * len(starts), starts, [min(start + _BLOCK, place.size) for start in starts], on_error="raise"
        )
    digest = hashlib.sha256(f"{said}\n{place.size}\n{place.stamp}\n".encode())
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def splits_digest(splits: Sequence[str | None]) -> str:
    """Digest of the splits of a shard, hex; "" where it names none.

    Example:
        >>> splits_digest([None, None])
        ''
    """
    if not any(splits):
        return ""
    return hashlib.sha256("\n".join(split or "" for split in splits).encode()).hexdigest()
