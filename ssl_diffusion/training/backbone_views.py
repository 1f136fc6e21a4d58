"""Features of augmented views of labeled images by a backbone, for training on the fused representation.

A backbone is too slow to read a new view of each image in every step. It reads a few views of each labeled image before the
training, at its own size, and the training draws among these. The views of an image depend on its sample id and the ranges of
the augmentation only, so that fits with other seeds or more labels find them in the cache.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.backbone_features import (
    backbone_features,
    feature_store,
    pool_features,
    pool_source,
    unread_images,
)
from ssl_diffusion.inference.rows import RowsSource
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.fused import Reads
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.augment import Augmentation, augment

__all__ = ["unread_views", "view_features"]

_VIEWS = 8  # of an image, the image itself among them
_LARGEST = 4096  # views in all, about half a minute for EfficientNet-Lite0; there are at least two of each image
_AT_ONCE = 128  # images whose views are in memory together
_LOOKED_UP = 8  # images, to say what the cache has


def view_features(
    backbone: Backbone,
    pool: Pool,
    rows: NDArray[np.int64],
    view: Augmentation,
    reads: Reads,
    *,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Features of views of some samples of a pool, float32 (n, V, F): of each image as it is, then of augmented versions.

    Where features are looked up by sample id, V is 1.

    Args:
        backbone: Backbone.
        pool: Images.
        rows: Distinct positions of the samples, int64 (n,).
        view: Ranges of the augmentation.
        reads: Kind of input, see :func:`ssl_diffusion.inference.backbone_features.backbone_reads`.
        cache_dir: Cache directory in which features are kept; None keeps none.
        progress: Callback for the number of views read.

    Raises:
        SSLDError: If a file cannot be read, or a sample has no features.
    """
    plain = backbone_features(backbone, pool, rows, reads, cache_dir=cache_dir)[:, None]
    if reads == "ids" or view == Augmentation():
        return plain
    n_views, ids = _n_views(len(rows)), pool.ids[rows]
    source = pool_source(backbone, pool, rows, reads)
    parts = []
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        images = source.take(some)
        rendered = _rendered(images, some, view, range(1, n_views))
        store = feature_store(cache_dir, backbone, rendered) if cache_dir is not None else None
        done, total = start * (n_views - 1), len(ids) * (n_views - 1)
        z = pool_features(backbone, rendered, store=store, progress=_further(progress, done, total))
        parts.append(z.reshape(n_views - 1, len(some), -1).transpose(1, 0, 2))
    return np.concatenate([plain, np.concatenate(parts)], axis=1)


def unread_views(
    backbone: Backbone,
    pool: Pool,
    rows: NDArray[np.int64],
    view: Augmentation,
    reads: Reads,
    *,
    cache_dir: Path | None = None,
) -> int:
    """Number of augmented versions that :func:`view_features` has to read, the images themselves not counted.

    Whether they are in the cache is looked up for a few images.

    Args:
        backbone: Backbone.
        pool: Images.
        rows: Distinct positions of the samples, int64 (n,).
        view: Ranges of the augmentation.
        reads: Kind of input.
        cache_dir: Cache directory in which features are kept; None keeps none.

    Raises:
        SSLDError: If a file cannot be read.
    """
    if reads == "ids" or view == Augmentation() or not len(rows):
        return 0
    some = rows[:: max(1, len(rows) // _LOOKED_UP)]
    source = pool_source(backbone, pool, some, reads)
    rendered = _rendered(source.take(source.ids), source.ids, view, range(1, 2))
    unread = len(unread_images(backbone, rendered, cache_dir)) / len(some)
    return round(unread * len(rows) * (_n_views(len(rows)) - 1))


def _n_views(n: int) -> int:
    """Number of views of each of n images, the image itself among them."""
    return max(2, min(_VIEWS, _LARGEST // max(1, n)))


def _rendered(images: NDArray[np.uint8], ids: NDArray[np.str_], view: Augmentation, numbers: range) -> RowsSource:
    """Augmented versions of images with these numbers, all images for each."""
    views = np.concatenate([_views(images, ids, view, number) for number in numbers])
    names = np.array([f"{number} {sample}" for number in numbers for sample in ids])
    _, c, h, w = images.shape
    return RowsSource(views, names, (c, h, w))


def _views(images: NDArray[np.uint8], ids: NDArray[np.str_], view: Augmentation, number: int) -> NDArray[np.uint8]:
    """One augmented version of each image, uint8 (n, C, H, W), drawn from its sample id and the number of the view."""
    views = np.empty_like(images)
    for i, sample in enumerate(ids.tolist()):
        generator = torch.Generator().manual_seed(derive_seed("view of a backbone", sample, number))
        x = augment(torch.from_numpy(np.array(images[i : i + 1])).float() / 255, view, generator)
        views[i] = (x[0] * 255).round().to(torch.uint8).numpy()
    return views


def _further(progress: ProgressCallback | None, done: int, total: int) -> Callable[[ProgressUpdate], None] | None:
    """The callback for a part of the views, after others."""
    if progress is None:
        return None
    return lambda update: progress(ProgressUpdate("backbone views", done + update.done, total))
