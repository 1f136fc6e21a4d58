"""The pool: all images of one job, their sample ids, the labels that are known, and the labeled budget.

Ids, not positions, identify samples everywhere outside this module. Images are uint8, shape (n, C, H, W), in memory or
memory-mapped. Labels are int64: shape (n,), -1 where none is known; or, for multi-label data, shape (n, K) with 0/1 and
a row of -1 where none is known.

Which labels a run may use is a :class:`LabeledSet`: a list of ids with roles, chosen once (:func:`choose_labeled`),
written to `labeled.csv` and verified on resume. Labels outside it are never looked at during training, known or not.
"""

import hashlib
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.shards.marks import ShardMark
from ssl_diffusion.data.source import check_batch_size
from ssl_diffusion.errors import DataError

__all__ = ["Pool"]

_SAMPLED = 10_000  # images that the scale of the pixels is measured on
_PLACES = 100  # in shards that they are read from


@dataclass
class Pool:
    """All images of one job; as an :class:`~ssl_diffusion.data.source.ImageSource`, the one in memory.

    Attributes:
        name: data set or folder name, used for naming runs.
        images: uint8, (n, C, H, W).
        ids: n distinct sample ids.
        labels: int64, (n,) or (n, K); see the module docstring.
        classes: K class names; labels index into them.
        is_test: bool, (n,); True for the test split, which is read once, at the end of a run.
        multilabel: True if an image may have several classes or none.
        augmentation: name of the augmentation policy (:mod:`ssl_diffusion.training.augment`).
        notes: sentences about what was done while reading (resized, converted), shown to the user.
        skipped: (id, reason) of images left out because they cannot be read.
        files: the files that the images were decoded from, n of them; None if they come from elsewhere.
        file_size: most common (height, width) of these files.
        aspect: treatment of files with another aspect ratio: "crop", "pad" or "squeeze".
        shards: marks of the shards that the images were read from, in their order; empty if they come from elsewhere.
        extra: bool, (n,); True for labeled images that only the head learns: they are no samples, no denoiser sees them, and no
            strategy chooses them. None if there are none.
    """

    name: str
    images: NDArray[np.uint8]
    ids: NDArray[np.str_]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    is_test: NDArray[np.bool_]
    multilabel: bool = False
    augmentation: str = "photo"
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: Sequence[Path] | None = None
    file_size: tuple[int, int] | None = None
    aspect: Aspect = "squeeze"
    shards: tuple[ShardMark, ...] = ()
    extra: NDArray[np.bool_] | None = None
    _sigma: tuple[bytes, float] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"pool images must be uint8 of shape (n, C, H, W), not {self.images.dtype} {self.images.shape}")
        if not 1 <= self.images.shape[1] <= 4:
            raise DataError(f"pool images must have 1 to 4 channels, not {self.images.shape[1]}")
        self.ids = np.asarray(self.ids, dtype=np.str_)
        columns = {"ids": self.ids, "labels": self.labels, "is_test": self.is_test, "files": self.files, "extra": self.extra}
        for what, values in columns.items():
            if values is not None and len(values) != n:
                raise DataError(f"{len(values)} {what} for {n} images")
        if len(np.unique(self.ids)) != n:
            values, counts = np.unique(self.ids, return_counts=True)
            raise DataError(f"sample ids must be distinct; {str(values[counts > 1][0])!r} occurs {counts.max()} times")
        if self.multilabel:
            if self.labels.ndim != 2 or self.labels.shape[1] != len(self.classes):
                raise DataError(f"multi-label labels have shape {self.labels.shape}, not (n, {len(self.classes)})")
        elif self.labels.size and self.labels.max() >= len(self.classes):
            raise DataError(f"label {self.labels.max()} has no name among {len(self.classes)} classes")
        self._index: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    @property
    def train(self) -> NDArray[np.int64]:
        """Positions of the samples that training may see (labels aside)."""
        return np.flatnonzero(~self.is_test if self.extra is None else ~(self.is_test | self.extra))

    @property
    def test(self) -> NDArray[np.int64]:
        """Positions of the test split."""
        return np.flatnonzero(self.is_test)

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """Which samples have a known label, bool, (n,)."""
        return np.asarray((self.labels >= 0).all(axis=1) if self.multilabel else self.labels >= 0)

    def positions(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Positions of samples by id; raises :class:`DataError` naming the first unknown id."""
        if self._index is None:
            self._index = {str(sample): i for i, sample in enumerate(self.ids)}
        try:
            return np.array([self._index[str(sample)] for sample in ids], dtype=np.int64)
        except KeyError as error:
            raise DataError(f"pool {self.name!r} has no sample {error.args[0]!r}") from None

    def take(self, ids: Iterable[str]) -> NDArray[np.uint8]:
        """Copies of the images of some samples, uint8 (n, C, H, W), in the order asked for; errors as :meth:`positions`."""
        return np.array(self.images[self.positions(ids)])

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Pool":
        """The pool of some samples, with their labels, files and split.

        Args:
            rows: Positions of the samples, int64 (m,), in the order of the new pool, or a mask of them, bool (n,).

        Raises:
            DataError: If a sample occurs twice.

        Example:
            >>> len(pool.select(pool.test)) == len(pool.test)
            True
        """
        at = np.arange(len(self))[rows]
        return replace(
            self,
            images=self.images[at],
            ids=self.ids[at],
            labels=self.labels[at],
            is_test=self.is_test[at],
            files=None if self.files is None else [self.files[i] for i in at],
            extra=None if self.extra is None else self.extra[at],
        )

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint8]]]:
        """Copies of all images, the test split too, as (ids, images) of at most `size` samples, in the order of the ids.

        Raises:
            DataError: If `size` is below 1.
        """
        check_batch_size(size)
        parts = (slice(start, start + size) for start in range(0, len(self), size))
        return ((self.ids[part], np.array(self.images[part])) for part in parts)

    def fingerprint(self) -> str:
        """SHA-256 over the training images and their ids (labels left out), hex; equal pools share cached denoisers.

        For images of shards the digests of the shards stand for the pixels, so that none is read.
        """
        digest = hashlib.sha256()
        train = self.train
        digest.update(repr((self.images.shape[1:], len(train))).encode())
        digest.update("\n".join(self.ids[train]).encode())
        if self.shards:
            digest.update(f"\0{self.aspect}\n{' '.join(shard.digest for shard in self.shards)}".encode())
            return digest.hexdigest()
        for start in range(0, len(train), 4096):
            digest.update(np.ascontiguousarray(self.images[train[start : start + 4096]]).tobytes())
        return digest.hexdigest()

    def sigma_data(self) -> float:
        """Root mean square of the training pixels scaled to [-1, 1], from at most 10,000 evenly spaced images.

        Of images that lie in shards, from at most 10,000 in 100 evenly spaced places, and only once: each other image of shards
        costs a row group.
        """
        train = self.train
        if isinstance(self.images, np.ndarray):
            with _without_neighbors(self.images):
                return _root_mean_square(self.images[train[:: max(1, len(train) // _SAMPLED)]])
        key = train.tobytes()
        if self._sigma is None or self._sigma[0] != key:
            places = np.linspace(0, len(train), min(_PLACES, len(train)), endpoint=False, dtype=np.int64)
            rows = np.unique(np.minimum(places[:, None] + np.arange(_SAMPLED // _PLACES), len(train) - 1))
            self._sigma = key, _root_mean_square(self.images[train[rows]])
        return self._sigma[1]


@contextmanager
def _without_neighbors(images: NDArray[np.uint8]) -> Iterator[None]:
    """Let the kernel read nothing but the pages that are asked for of a mapped file, for a while.

    One that is missing brings its neighbors with it, megabytes on some disks: a sample of a large file would read all of it.
    """
    mapped = getattr(images, "_mmap", None)
    if mapped is None or not hasattr(mmap, "MADV_RANDOM"):
        yield
        return
    mapped.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        mapped.madvise(mmap.MADV_NORMAL)


def _root_mean_square(images: NDArray[np.uint8]) -> float:
    sample = images.astype(np.float32) / 127.5 - 1
    return max(1e-2, float(np.sqrt(np.mean(np.square(sample), dtype=np.float64))))
