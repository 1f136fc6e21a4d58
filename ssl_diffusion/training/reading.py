"""What the backbone of a fit has to read, and how long that takes on this machine.

A backbone is often the longest part of a fit: it reads the labeled images, a sample of the pool, the images over which labels
are spread, and those of the test split. What the cache has is not read again. Time is that of the processor, measured on a few
of these images, decoding included.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads, unread
from ssl_diffusion.machine import Device
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.fused import Reads
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.augment import Augmentation
from ssl_diffusion.training.backbone_views import unread_views
from ssl_diffusion.training.backbones import fit_backbone, head_rows, with_backbone_of
from ssl_diffusion.training.clocks import StepClock
from ssl_diffusion.training.recipe import Recipe

__all__ = ["Reading", "reading_of"]

_SAMPLE = 500  # files that are looked up in the cache, which takes a digest of each
_ROUNDS, _IMAGES, _LONG = 3, 16, 1.0  # images of a round, fewer where they take more than so many seconds
_AGAIN = 3  # times that joint training reads the images of its probe once more, where nothing is kept


@dataclass(frozen=True)
class Reading:
    """Images that the backbone of a fit has to read.

    Attributes:
        name: Name of the backbone.
        first: Number of images that are read before the steps of a training are planned again.
        later: Number of images that are read after that, the views of labeled images among them.
        per_image: Seconds an image on a quiet machine; 0 if there are none.
    """

    name: str
    first: int
    later: int
    per_image: float

    @property
    def images(self) -> int:
        """Number of images in all."""
        return self.first + self.later

    @property
    def seconds(self) -> float:
        """Seconds for all of them on a quiet machine."""
        return self.images * self.per_image

    def __str__(self) -> str:
        return f"reading {self.images:,} images with {self.name}"


def reading_of(
    recipe: Recipe, pool: Pool, labeled: LabeledSet | None, view: Augmentation, cache_dir: Path | None
) -> Reading | None:
    """What a fit has to read with its backbone, and the time an image; None if it reads nothing.

    Args:
        recipe: Settings.
        pool: Images.
        labeled: Labels to use; None without labels.
        view: Ranges of the augmentation of labeled images.
        cache_dir: Cache directory for features; None keeps none.

    Raises:
        SSLDError: If a file cannot be read, or the backbone cannot be made.

    Example:
        >>> print(reading_of(recipe, pool, labeled, view, None))  # doctest: +SKIP
        reading 2,100 images with efficientnet-lite0
    """
    recipe = with_backbone_of(recipe, pool)
    backbone = fit_backbone(recipe) if labeled is not None else None
    if backbone is None or backbone.by_id or labeled is None:
        return None
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    backbone, reads = backbone.to(device.accelerator), backbone_reads(backbone, pool)
    probe, positions = np.unique(np.concatenate(head_rows(recipe, pool, labeled))), pool.positions(labeled.fitted)
    asked = np.concatenate([pool.positions(labeled.val), pool.test[pool.has_label[pool.test]]])
    (first, some), (later, others) = (_unread(backbone, pool, rows, reads, cache_dir) for rows in (probe, np.unique(asked)))
    views = 0
    if recipe.training.objective == "joint":
        views = unread_views(backbone, pool, positions, view, reads, cache_dir=cache_dir)
        later += views + (_AGAIN * len(probe) if cache_dir is None else 0)
    some = np.concatenate([some, others, positions[:_IMAGES] if views else positions[:0]])[:_IMAGES]
    if not len(some):
        return None
    return Reading(recipe.backbone.name, first, later, _seconds_per_image(backbone, pool, some, reads, device.accelerator))


def _unread(
    backbone: Backbone, pool: Pool, rows: NDArray[np.int64], reads: Reads, cache_dir: Path | None
) -> tuple[int, NDArray[np.int64]]:
    """Number of samples that are not in the cache, from some of them, and positions of those."""
    some = rows[:: max(1, len(rows) // _SAMPLE)]
    found = unread(backbone, pool, some, reads, cache_dir=cache_dir)
    return round(len(rows) * len(found) / max(1, len(some))), found


def _seconds_per_image(backbone: Backbone, pool: Pool, rows: NDArray[np.int64], reads: Reads, accelerator: str) -> float:
    """Shortest time an image, in seconds of the processor, which says nothing of other devices: of the wall there."""
    for _ in range(2):  # the first time kernels are chosen
        began = time.monotonic()
        backbone_features(backbone, pool, rows[:1], reads)
        spent = time.monotonic() - began
    n, clock = min(len(rows), max(1, int(_LONG / max(spent, 1e-6)))), StepClock()
    for done in range(_ROUNDS + 1):
        if done:
            backbone_features(backbone, pool, rows[:n], reads)
        clock(ProgressUpdate("backbone", done, _ROUNDS))
    times = clock.times()
    return float((times.alone if accelerator == "cpu" else times.wall).min()) / n
