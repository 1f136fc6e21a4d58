"""Images that are copies of each other: the same file, or one that was cropped, compressed, scaled, brightened or mirrored.

Candidates are pairs that are near by a perceptual signature, of the image or its mirror image, or by the representation of a
network, which finds crops. Whether they show the same, their pixels decide (:mod:`ssl_diffusion.curation.registration`). Among
many images candidates are searched through an index (:mod:`ssl_diffusion.inference.neighbors`).
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssl_diffusion.curation.held_out import condensed
from ssl_diffusion.curation.perceptual_hash import signatures
from ssl_diffusion.curation.registration import agreement
from ssl_diffusion.inference.neighbors import LARGE, Neighbors, has_index

__all__ = ["Duplicates", "find_duplicates"]

_log = logging.getLogger(__name__)

_SAME = 0.86  # agreement of copies; of other pairs of photos that were looked at, one in some thousands has more
_RELATIVE = 0.4  # disagreement of copies, in that of ordinary neighbors
_NEAR = 0.9  # product of signatures
_EACH = 1.5  # candidates a sample by the signature, at most, on average
_NEAREST = 2  # candidates of a sample by the representation: a crop has its original there, however many images are like it
_LEAST = 0.3  # product of their representations
_SEARCHED = 64  # components of the representation
_SAMPLED = 400


@dataclass(frozen=True)
class Duplicates:
    """Pairs of copies among N images, and the groups that they make.

    Attributes:
        first: Number of the first image of each pair, int64 (m,).
        second: Number of the second one, int64 (m,).
        agreement: Agreement of their pixels, float32 (m,), at most 1; 1 for pairs with the same content.
        exact: Whether they have the same content, bool (m,).
        group: Number of the group of every image, int64 (N,): that of its first member.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    agreement: NDArray[np.float32]
    exact: NDArray[np.bool_]
    group: NDArray[np.int64]

    @property
    def groups(self) -> list[NDArray[np.int64]]:
        """Members of each group of two or more, ascending; the largest groups first."""
        order = np.argsort(self.group, kind="stable")
        starts = np.flatnonzero(np.diff(self.group[order], prepend=-1))
        parts = [part for part in np.split(order, starts[1:]) if len(part) > 1]
        return sorted(parts, key=lambda part: (-len(part), int(part[0])))

    @property
    def surplus(self) -> NDArray[np.bool_]:
        """Images that are copies of an earlier one, bool (N,)."""
        return np.asarray(self.group != np.arange(len(self.group)))


def find_duplicates(
    small: NDArray[np.uint8],
    digests: NDArray[np.bytes_],
    z: NDArray[np.float32] | None = None,
    *,
    approximate: bool | None = None,
) -> Duplicates:
    """Find copies.

    Args:
        small: Images at 32 pixels, uint8 (N, C, 32, 32).
        digests: Digests of their content, (N,); equal ones are copies.
        z: Representations, float32 (N, F), by which crops are found; None leaves most of these out.
        approximate: Whether candidates are searched through an index of faiss instead of comparing all images with each other;
            None does so from 100,000 images on, where faiss is installed. Copies with the same content are found anyway.

    Returns:
        Pairs and groups.

    Raises:
        DataError: If a representation is not finite.
        SSLDError: If an index is asked for, and faiss is not installed.

    Example:
        >>> found = find_duplicates(small, digests)  # doctest: +SKIP
        >>> [len(group) for group in found.groups]  # doctest: +SKIP
        [3, 2]
    """
    n = len(small)
    _, original = np.unique(digests, return_index=True)
    first_of = np.empty(n, dtype=np.int64)
    first_of[:] = original[np.unique(digests, return_inverse=True)[1]]
    copies = np.flatnonzero(first_of != np.arange(n))
    distinct = np.sort(original)
    a, b = _candidates(small[distinct], None if z is None else z[distinct], approximate)
    a, b = distinct[a], distinct[b]
    score = agreement(small, a, b)
    near = score >= _threshold(small[distinct], distinct, small)
    first = np.concatenate([first_of[copies], a[near]])
    second = np.concatenate([copies, b[near]])
    value = np.concatenate([np.ones(len(copies), np.float32), np.minimum(score[near], 1)])
    exact = np.arange(len(first)) < len(copies)
    number = connected_components(coo_array((np.ones(len(first)), (first, second)), shape=(n, n)), directed=False)[1]
    group = np.unique(number, return_index=True)[1][number]
    return Duplicates(first, second, value, exact, group)


def _candidates(
    small: NDArray[np.uint8], z: NDArray[np.float32] | None, approximate: bool | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of images (a < b) that are near in one of the ways."""
    if approximate is None and len(small) >= LARGE and not has_index():
        _log.info(
            "looking for copies among %s images by comparing all with each other; an index is faster: pip install "
            "'ssld[neighbors]'",
            f"{len(small):,}",
        )
    found = [np.empty((0, 2), dtype=np.int64)]
    if len(small) > 1:
        plain = signatures(small)
        index = Neighbors(plain, approximate=approximate)
        for queries in (plain, signatures(small, flipped=True)):
            found.extend(index.pairs_above(queries, _bound(plain, queries)))
    if z is not None and len(z) > 2:
        x = condensed(z)[:, :_SEARCHED]
        x = x - x.mean(axis=0)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        k, every = min(_NEAREST, len(x) - 1), np.arange(len(x))
        products, near = Neighbors(x, approximate=approximate).nearest(x, k, own=every)
        pairs = np.stack([np.repeat(every, k), near.ravel()], axis=1)
        found.append(np.sort(pairs[products.ravel() > _LEAST], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _bound(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """The product of signatures above which there are a few pairs a sample."""
    some = np.random.default_rng(0).permutation(len(x))[:_SAMPLED]
    products = x[some] @ y.T
    products[np.arange(len(some)), some] = -1
    kept = min(products.size - 1, int(_EACH * 2 * len(some)))
    each, place = products.ravel(), products.size - 1 - kept
    each.partition(place)
    return max(_NEAR, float(each[place]))


def _threshold(pictures: NDArray[np.uint8], rows: NDArray[np.int64], small: NDArray[np.uint8]) -> float:
    """Agreement from which on a pair counts as copies: where all images are alike, as digits are, a high one."""
    if len(rows) < 2:
        return _SAME
    some = np.random.default_rng(1).permutation(len(rows))[: _SAMPLED // 4]
    s = signatures(pictures)
    products = s[some] @ s.T
    products[np.arange(len(some)), some] = -1
    ordinary = agreement(small, rows[some], rows[products.argmax(axis=1)], look_at_all=True)
    return max(_SAME, 1 - _RELATIVE * (1 - float(np.median(ordinary))))
