"""Random projection of long representations, on which strategies measure distances."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["BLOCK", "DIMENSIONS", "ProjectedRows", "project", "projection_matrix"]

DIMENSIONS = 512
BLOCK = 2048  # rows that are projected at once


def project(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Representations as strategies measure them, (n, F) to (n, 512), or as they are if they are no longer than that.

    Example:
        >>> project(np.ones((2, 2048), np.float32)).shape
        (2, 512)
    """
    matrix = projection_matrix(z.shape[1])
    return z if matrix is None else z @ matrix


@lru_cache(maxsize=2)
def projection_matrix(n_features: int) -> NDArray[np.float32] | None:
    """Random projection of representations of F features, float32 (F, 512); None if they are no longer than 512."""
    if n_features <= DIMENSIONS:
        return None
    drawn = np.random.default_rng(n_features).standard_normal((n_features, DIMENSIONS), dtype=np.float32)
    return drawn / np.float32(np.sqrt(DIMENSIONS))


class ProjectedRows:
    """Rows of a large array, projected when they are asked for; `np.asarray` projects all of them.

    Args:
        base: Representations, float32 (N, F); may be memory-mapped.
        at: Numbers of the rows, int64 (n,).
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

    def take(self, rows: NDArray[np.int64]) -> "ProjectedRows":
        """Some of the rows, still to be projected.

        Args:
            rows: Row numbers, int64 (m,).
        """
        return ProjectedRows(self._base, self._at[rows])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.float32]:
        values = allocate(self.shape, np.float32, IN_MEMORY)
        for start in range(0, len(self), BLOCK):
            values[start : start + BLOCK] = self[start : start + BLOCK]
        return values
