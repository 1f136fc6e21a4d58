"""Nearest neighbors among many vectors, by the inner product: all compared, or found through an index of faiss.

Comparing all takes time that grows with the square of their number. An index sorts them into cells around the centers of
k-means and compares a vector with those in the nearest cells only (IVF-Flat; Jégou et al. 2011, doi:10.1109/TPAMI.2010.57).
What it finds has its true product; what it misses lies in a cell that was not looked into.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError, SSLDError

__all__ = ["LARGE", "Neighbors", "has_index"]

LARGE = 100_000
"""Number of vectors from which on an index is made, where faiss is installed."""

_BLOCK = 1024  # queries at a time
_TILE = 512  # vectors at a time, beside twice as many queries
_FEW = 4  # neighbors up to which looking for the largest one again and again is faster than a partition
_PROBES = 32  # cells that are looked into
_ROUNDS, _PER_CELL = 10, 64  # of k-means: rounds, and vectors for each cell, which are enough to place it


def has_index() -> bool:
    """Whether faiss is installed, which makes the index."""
    return importlib.util.find_spec("faiss") is not None


class Neighbors:
    """Vectors among which the nearest ones are searched.

    The nearness of two vectors is their inner product, so vectors should be as long as each other, or 0. The same vectors give
    the same index, on the same machine with as many threads.

    Args:
        x: Vectors, float32 (N, F), at least one. They are not copied, unless there is an index.
        approximate: Whether an index of faiss is made, which may miss some neighbors; None makes one of 100,000 vectors or
            more, where faiss is installed.

    Attributes:
        approximate: Whether there is an index.

    Raises:
        DataError: If there is no vector, or one is not finite.
        SSLDError: If an index is asked for, and faiss is not installed.

    Example:
        >>> Neighbors(np.eye(3, dtype=np.float32)).nearest(np.array([[0, 2, 1]], dtype=np.float32), 2)[1].tolist()
        [[1, 2]]
    """

    def __init__(self, x: NDArray[np.float32], *, approximate: bool | None = None) -> None:
        if x.ndim != 2 or not x.size:
            raise DataError(f"neighbors are searched among vectors of at least one number, and these have shape {x.shape}")
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise DataError(f"vector {int(finite.argmin())} is not finite: it has no neighbors")
        if approximate and not has_index():
            raise SSLDError("an index of neighbors is made by faiss, which is not installed: pip install 'ssld[neighbors]'")
        self.approximate = has_index() and len(x) >= LARGE if approximate is None else approximate
        self._x = x
        self._index = _cells(x) if self.approximate else None

    def __len__(self) -> int:
        return len(self._x)

    def nearest(
        self, queries: NDArray[np.float32], k: int, *, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest vectors of each query, the nearest first.

        Args:
            queries: Queries, float32 (m, F).
            k: Number of neighbors, at least 1.
            own: Number of the vector that each query is, int64 (m,), which is no neighbor of it; None: they are other vectors.

        Returns:
            Products, float32 (m, k), and numbers of the vectors, int64 (m, k). Where fewer are found the rest is -inf and -1.

        Raises:
            DataError: If k is below 1, or the queries have another length than the vectors.
        """
        self._check(queries)
        if k < 1:
            raise DataError(f"a vector has 1 neighbor or more, not {k}")
        parts = [
            self._of_block(queries[i : i + _BLOCK], k, None if own is None else own[i : i + _BLOCK])
            for i in range(0, len(queries), _BLOCK)
        ]
        products = [np.empty((0, k), np.float32), *(part[0] for part in parts)]
        return np.concatenate(products), np.concatenate([np.empty((0, k), np.int64), *(part[1] for part in parts)])

    def pairs_above(self, queries: NDArray[np.float32], least: float) -> Iterator[NDArray[np.int64]]:
        """Pairs (a, b), a < b, of query a and vector b whose product is larger than a bound, in portions.

        With an index a pair may come twice.

        Args:
            queries: Queries, float32 (N, F), as many as the vectors; the product of query i and vector j is that of j and i.
            least: Bound.

        Raises:
            DataError: If there are not as many queries as vectors, or they have another length.
        """
        self._check(queries)
        if len(queries) != len(self):
            raise DataError(f"pairs want a query for each of {len(self):,} vectors, not {len(queries):,}")
        for start in range(0, len(queries), _BLOCK):
            block = queries[start : start + _BLOCK]
            if self._index is None:
                for other in range(start, len(self), _TILE):  # products that stay in the cache of the processor
                    pairs = np.argwhere(block @ self._x[other : other + _TILE].T > least) + np.array([start, other])
                    yield pairs[pairs[:, 1] > pairs[:, 0]]
                continue
            limits, _, numbers = self._index.range_search(np.ascontiguousarray(block), least)
            rows = start + np.repeat(np.arange(len(block)), np.diff(limits.astype(np.int64)))
            pairs = np.sort(np.stack([rows, numbers.astype(np.int64)], axis=1), axis=1)
            yield pairs[pairs[:, 0] < pairs[:, 1]]

    def _check(self, queries: NDArray[np.float32]) -> None:
        if queries.ndim != 2 or queries.shape[1] != self._x.shape[1]:
            raise DataError(f"queries have shape {queries.shape}, and the vectors {self._x.shape[1]} numbers each")

    def _of_block(
        self, block: NDArray[np.float32], k: int, own: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self._index is not None:
            more = k if own is None else k + 1
            products, numbers = self._index.search(np.ascontiguousarray(block), more)
            products[numbers < 0] = -np.inf
            if own is not None:
                products[numbers == own[:, None]] = -np.inf
                numbers[numbers == own[:, None]] = -1
                order = np.argsort(-products, axis=1, kind="stable")[:, :k]
                products, numbers = np.take_along_axis(products, order, 1), np.take_along_axis(numbers, order, 1)
            return products, numbers.astype(np.int64)
        products = block @ self._x.T
        rows = np.arange(len(block))
        if own is not None:
            products[rows, own] = -np.inf
        found = np.full((len(block), k), -np.inf, dtype=np.float32)
        numbers = np.full((len(block), k), -1, dtype=np.int64)
        kept = min(k, len(self) - (own is not None))
        if kept <= _FEW:
            for j in range(kept):
                near = products.argmax(axis=1)
                found[:, j], numbers[:, j] = products[rows, near], near
                products[rows, near] = -np.inf
        else:
            at = np.sort(np.argpartition(-products, kept - 1, axis=1)[:, :kept], axis=1)
            values = np.take_along_axis(products, at, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            found[:, :kept] = np.take_along_axis(values, order, axis=1)
            numbers[:, :kept] = np.take_along_axis(at, order, axis=1)
        return found, numbers


def _cells(x: NDArray[np.float32]) -> Any:
    """An index of vectors in about 2 sqrt(N) cells."""
    import faiss

    n, f = x.shape
    n_cells = max(1, min(int(2 * np.sqrt(n)), n // _PER_CELL))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(f), f, n_cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.spherical, index.cp.seed = _ROUNDS, _PER_CELL, True, 0
    # A sample of our own: that of faiss would be drawn from all of them, in one piece.
    some = np.sort(np.random.default_rng(0).permutation(n)[: n_cells * _PER_CELL])
    index.train(np.ascontiguousarray(x[some]))
    for start in range(0, n, 16 * _BLOCK):
        index.add(np.ascontiguousarray(x[start : start + 16 * _BLOCK]))
    index.nprobe = min(_PROBES, n_cells)
    return index
