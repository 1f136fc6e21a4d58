"""Random projection of long representations, on which strategies measure distances."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["DIMENSIONS", "ProjectedRows", "project"]


def project(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Representations as strategies measure them, (n, F) to (n, 512), or as they are if they are no longer than that."""
    projection = _projection(z.shape[1])
    return z if projection is None else z @ projection


@lru_cache(maxsize=2)
def _projection(n_features: int) -> NDArray[np.float32] | None:
    if n_features <= DIMENSIONS:
        return None
    drawn = np.random.default_rng(n_features).standard_normal((n_features, DIMENSIONS), dtype=np.float32)
    return drawn / np.float32(np.sqrt(DIMENSIONS))


DIMENSIONS = 512


class ProjectedRows:
    """ProjectedRows of a large array, projected when they are asked for; `np.asarray` makes all of them.

    Args:
        base: (N, F), may be memory-mapped.
        at: which rows, (n,).
    """

    def __init__(self, base: NDArray[np.float32], at: NDArray[np.int64]) -> None:
        self._base, self._at = base, at
        self.shape = (len(at), project(np.asarray(base[:1])).shape[1])

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        at = self._at[key]
        rows = project(np.asarray(self._base[np.atleast_1d(at)]))
        return rows if np.ndim(at) else rows[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.float32]:
        values = allocate(self.shape, np.float32, IN_MEMORY)
        for start in range(0, len(self), _BLOCK):
            values[start : start + _BLOCK] = self[start : start + _BLOCK]
        return values


_BLOCK = 2048
