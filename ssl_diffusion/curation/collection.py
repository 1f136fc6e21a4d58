"""What is checked: images with ids, labels as far as they are known, and a representation of each image."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.curation.image_faults import Survey, survey
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads
from ssl_diffusion.inference.denoising import denoising_errors
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.embedding_store import store_of
from ssl_diffusion.inference.rows import Rows
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.machine import resolve_accelerator
from ssl_diffusion.models.backbones.registry import backbone_fault, load_backbone
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.data_changes import load_run_pool

__all__ = ["Collection", "collect_photos", "collect_pool", "collect_run", "denoised", "with_labels"]

_LEVELS = (0.4, 0.2, 0.8, 1.6)  # noise levels at which a denoiser is asked, the most telling one first
_WHOLE = 2**30  # bytes of representations that are kept as they are; larger ones are projected
_PHOTOS = "efficientnet-lite0"


@dataclass(frozen=True)
class Collection:
    """N images to check.

    Attributes:
        name: Name of the images, for people.
        pool: Images, ids, labels, split, and files where there are some.
        seen: Measures of the images.
        z: Representations, float32 (N, F).
        by: Description of the representation, in words.
        errors: Errors of a denoiser, float32 (levels, N); None without one.
        run: Fitted model that sees the images; None without one.
    """

    name: str
    pool: Pool
    seen: Survey
    z: NDArray[np.float32]
    by: str
    errors: NDArray[np.float32] | None = None
    run: Run | None = None


def collect_run(
    run: Run, labels: Path | None = None, *, levels: int = 1, progress: ProgressCallback | None = None
) -> Collection:
    """The images of a run, as its model sees them.

    Args:
        run: Fitted model.
        labels: CSV file of labels, see :func:`with_labels`; None takes those of the data.
        levels: Number of noise levels, 0 to 4, at which the denoiser is asked.
        progress: Callback for the number of images read.

    Raises:
        DataError: If the images have another shape than those of the model, or the labels are not of these images.

    Example:
        >>> collection = collect_run(load_run("runs/photos-s0"))  # doctest: +SKIP
    """
    pool = load_run_pool(run, progress=progress)
    return collect_pool(run, pool if labels is None else with_labels(pool, labels), levels=levels, progress=progress)


def collect_pool(run: Run, pool: Pool, *, levels: int = 1, progress: ProgressCallback | None = None) -> Collection:
    """Images as the model of a run sees them, which need not be all of those that it was fitted to.

    Args:
        run: Fitted model.
        pool: Images.
        levels: Number of noise levels, 0 to 4, at which the denoiser is asked.
        progress: Callback for the number of images read.

    Raises:
        DataError: If the images have another shape than those of the model.

    Example:
        >>> collection = collect_pool(run, pool)  # doctest: +SKIP
    """
    if pool.image_shape != run.image_shape:
        raise DataError(f"the images of {run.path} have shape {pool.image_shape} now, and its model reads {run.image_shape}")
    rows = pool_rows(run, pool, progress=progress)
    whole = 4 * len(pool) * run.model.n_features <= _WHOLE
    store = None if whole else store_of(run)
    z = embed(
        run.model, rows, store, classify=False, projected=not whole, precision=run.precision, progress=progress
    ).representation
    seen = survey(pool.images, pool.files, progress=progress)
    return Collection(str(run.path), pool, seen, z, "the model of the run", denoised(run, rows, levels), run)


def denoised(run: Run, rows: Rows, levels: int) -> NDArray[np.float32] | None:
    """Errors of the denoiser of a run, float32 (levels, N); None of a run that has learned labels only, or without levels."""
    if not levels or run.metadata.get("objective") == "labels-only":
        return None
    return denoising_errors(run.model, rows, _LEVELS[:levels], precision=run.precision)


def collect_photos(
    path: str | Path,
    labels: Path | None = None,
    *,
    backbone: str | None = None,
    image_root: Path | None = None,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Collection:
    """A folder of images, a CSV file that lists them, or shards, as a pretrained network sees them.

    Args:
        path: Folder, CSV file, or folder, pattern or URL of shards.
        labels: CSV file of labels, see :func:`with_labels`; None takes those of the folders or the CSV file.
        backbone: Name of a backbone, also "precomputed:FILE"; "auto" or None takes EfficientNet-Lite0 where it is installed,
            and else the pixels; "none" takes the pixels.
        image_root: Folder that the paths in a CSV file are relative to; None is the folder of the file.
        cache_dir: Cache directory for features; None keeps none.
        progress: Callback for the number of images read.

    Raises:
        DataError: If there are no images, a sample has no features, or the labels are not of these images.

    Example:
        >>> collection = collect_photos(Path("photos"))  # doctest: +SKIP
    """
    pool = load_pool(DataSettings(path=str(path), image_root=str(image_root or ""), skip_bad=True), progress=progress)
    pool = pool if labels is None else with_labels(pool, labels)
    seen = survey(pool.images, pool.files, progress=progress)
    left_to_us = backbone in (None, "auto")
    if backbone == "none" or (left_to_us and backbone_fault(_PHOTOS) is not None):
        z = seen.small.reshape(len(pool), -1).astype(np.float32) / np.float32(255)
        advice = ": pip install 'ssld[photos]' for a network that knows photos" if left_to_us else ""
        return Collection(str(path), pool, seen, z, f"pixels alone{advice}")
    name = _PHOTOS if backbone is None or left_to_us else backbone
    network = load_backbone(name)
    if not network.by_id:
        network = network.to(resolve_accelerator("auto"))
    reads = backbone_reads(network, pool)
    z = backbone_features(network, pool, np.arange(len(pool)), reads, cache_dir=cache_dir, progress=progress)
    what = f"the features in {Path(name.partition(':')[2]).name}" if network.by_id else name
    return Collection(str(path), pool, seen, z, what)


def with_labels(pool: Pool, table: Path) -> Pool:
    """The pool with the labels of a CSV file instead of its own.

    Args:
        pool: Images.
        table: CSV file with the columns id (or path, image, file) and label (or class); rows with an empty label, and samples
            that it does not name, have none.

    Raises:
        DataError: If a column is missing, an id is no sample of the pool or occurs twice with two labels, or no label is given.
    """
    if pool.multilabel:
        raise SSLDError(f"{pool.name!r} has several labels an image, and --labels gives one: leave it out")
    read = read_table(table)
    columns = [read.any_case(*names) for names in (("id", "path", "image", "file", "filename"), ("label", "class", "target"))]
    for found, wanted in zip(columns, ("id", "label"), strict=True):
        if not found:
            raise DataError(f"{table} has no column {wanted!r}; its columns are {', '.join(read.header)}")
    ids, names = (read.column(found[0]) for found in columns)
    given: dict[str, str] = {}
    for number, sample, name in zip(read.numbers, ids, (name.strip() for name in names), strict=True):
        if given.setdefault(sample, name) != name:
            raise DataError(f"{table}: row {number} gives {sample!r} the label {name!r}, and an earlier one {given[sample]!r}")
    there = set(pool.ids.tolist())
    strange = [sample for sample in given if sample not in there]
    if strange:
        raise DataError(
            f"{table} names {len(strange)} of {len(given)} samples that {pool.name} does not have, {strange[0]!r} for one; "
            f"ids there look like {str(pool.ids[0])!r}"
        )
    counts = Counter(name for name in given.values() if name)
    if not counts:
        raise DataError(f"{table} gives no label: fill in its column {columns[1][0]!r}")
    classes = tuple(name for name in pool.classes if name in counts) + tuple(sorted(set(counts) - set(pool.classes)))
    index = {name: k for k, name in enumerate(classes)} | {"": -1}
    labels = np.array([index[given.get(str(sample), "")] for sample in pool.ids], dtype=np.int64)
    return replace(pool, labels=labels, classes=classes)
