"""A backbone reads images, or the files that they come from, once: its features are kept in the cache.

A pool that is kept at 32 pixels has lost what a backbone needs, so where the files are larger, they are read again at the
backbone's own size. Features are kept by the digest of the file or image and the identity of the backbone, in the cache
directory beside the denoisers; what a killed program had read is not read again.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.source import FileSource, ImageSource
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.inference.embedding_store import Embeddings, EmbeddingStore, digests
from ssl_diffusion.inference.rows import RowsSource, SelectedRows
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.fused import Reads
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = [
    "backbone_features",
    "backbone_reads",
    "feature_store",
    "file_source",
    "pool_features",
    "pool_source",
    "unread",
    "unread_images",
]

_PART = 1024  # images; what a killed program may lose
_AT_ONCE = 64  # images


def backbone_reads(backbone: Backbone, pool: Pool) -> Reads:
    """What a backbone reads of a pool: "ids", the original "files" where they are larger than its images, or its "images".

    Example:
        >>> backbone_reads(backbone, load_folder("photos", size=32))  # doctest: +SKIP
        'files'
    """
    if backbone.by_id:
        return "ids"
    larger = pool.file_size is not None and max(pool.file_size) > max(pool.image_shape[1:])
    return "files" if larger and pool.files is not None and backbone.input_size is not None else "images"


def backbone_features(
    backbone: Backbone,
    pool: Pool,
    rows: NDArray[np.int64],
    reads: Reads,
    *,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Features of some samples of a pool, float32 (n, F).

    Args:
        backbone: Backbone.
        pool: Images.
        rows: Positions of the samples, int64 (n,); those that occur twice are read once.
        reads: Kind of input, see :func:`backbone_reads`.
        cache_dir: Cache directory in which features are kept; None keeps none.
        progress: Callback for the number of images read.

    Raises:
        SSLDError: If it reads files and the pool has none, or as :func:`pool_features`.

    Example:
        >>> z = backbone_features(backbone, pool, pool.train, "files")  # doctest: +SKIP
    """
    once, inverse = np.unique(rows, return_inverse=True)
    source = pool_source(backbone, pool, once, reads)
    store = feature_store(cache_dir, backbone, source) if cache_dir is not None else None
    z = pool_features(backbone, source, store=store, progress=progress)
    return z if len(once) == len(rows) and (once == rows).all() else z[inverse]


def unread(
    backbone: Backbone, pool: Pool, rows: NDArray[np.int64], reads: Reads, *, cache_dir: Path | None
) -> NDArray[np.int64]:
    """Those of some samples of a pool whose features are not in the cache, int64 (m,).

    Args:
        backbone: Backbone that reads images or files.
        pool: Images.
        rows: Distinct positions of the samples, int64 (n,).
        reads: Kind of input, see :func:`backbone_reads`.
        cache_dir: Cache directory in which features are kept; None keeps none.

    Raises:
        SSLDError: If it reads files and the pool has none, or a file cannot be read.
    """
    source = pool_source(backbone, pool, rows, reads)
    return rows[unread_images(backbone, source, cache_dir)]


def unread_images(backbone: Backbone, source: ImageSource, cache_dir: Path | None) -> NDArray[np.int64]:
    """Numbers of the images of a source whose features are not in the cache, int64 (m,); see :func:`unread`."""
    if cache_dir is None or (store := feature_store(cache_dir, backbone, source)).empty:
        return np.arange(len(source))
    return store.fill(_keys(source, _AT_ONCE), Embeddings(len(source), backbone.n_features, 0))


def pool_source(backbone: Backbone, pool: Pool, rows: NDArray[np.int64], reads: Reads) -> ImageSource:
    """Some samples of a pool as a backbone reads them, at its own size where it reads files.

    Args:
        backbone: Backbone.
        pool: Images.
        rows: Distinct positions of the samples, int64 (n,).
        reads: Kind of input, see :func:`backbone_reads`.

    Raises:
        SSLDError: If it reads files and the pool has none.
    """
    if reads != "files":
        return RowsSource(SelectedRows(pool.images, rows), pool.ids[rows], pool.image_shape)
    if pool.files is None:
        raise SSLDError(f"the backbone {backbone.identity} reads image files, and the images of {pool.name!r} come from none")
    return file_source(backbone, [pool.files[i] for i in rows], pool.ids[rows].tolist(), pool.image_shape, pool.aspect)


def file_source(
    backbone: Backbone,
    paths: list[Path],
    ids: list[str],
    image_shape: tuple[int, int, int],
    aspect: Aspect = "squeeze",
) -> FileSource:
    """Files at the size of a backbone.

    Args:
        backbone: Backbone with an input size.
        paths: Image files.
        ids: Sample ids of the files.
        image_shape: Shape (C, H, W) of the images of the model, gray or in color.
        aspect: Treatment of images with another aspect ratio, as the model has it: both see the same part of a file.
    """
    assert backbone.input_size is not None
    channels = 1 if image_shape[0] == 1 else 3
    return FileSource(paths, ids, (channels, backbone.input_size, backbone.input_size), aspect)


def feature_store(cache_dir: Path, backbone: Backbone, source: ImageSource) -> EmbeddingStore:
    """Where the features of a backbone are kept: a folder in the cache directory for each backbone and way of reading.

    Args:
        cache_dir: Cache directory.
        backbone: Backbone.
        source: Images or files to read.
    """
    how = f"files {source.image_shape}" if isinstance(source, FileSource) else "images"
    if isinstance(source, FileSource) and source.aspect != "squeeze":
        how += f" {source.aspect}"
    identity = f"1 {backbone.identity} {how}"
    return EmbeddingStore(cache_dir / "features" / hashlib.sha256(identity.encode()).hexdigest()[:24], identity)


def pool_features(
    backbone: Backbone,
    source: ImageSource,
    *,
    batch_size: int = _AT_ONCE,
    store: EmbeddingStore | None = None,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Features of all images of a source, such as a pool, float32 (N, F), in the order of its ids.

    Args:
        backbone: Network, or features by sample id, in which case no image is read.
        source: Images.
        batch_size: Number of images read at once.
        store: Store of the backbone's features (:func:`feature_store`), to read from and add to; None computes everything.
        progress: Callback for the number of images read.

    Returns:
        Features; beyond 256 MiB in a temporary file.

    Raises:
        SSLDError: If an image cannot be read, a sample has no features, or features are not finite or of another shape than the
            backbone says.

    Example:
        >>> backbone = load_backbone("torchvision:resnet18", weights="resnet18.safetensors")  # doctest: +SKIP
        >>> pool_features(backbone, load_dataset("digits")).shape  # doctest: +SKIP
        (1797, 512)
    """
    found = Embeddings(len(source), backbone.n_features, 0)
    z = found.representation
    if backbone.by_id:
        z[:] = _checked(backbone, source.ids, backbone.embed(source.ids, None))
        return z
    keys = _keys(source, batch_size) if store is not None else np.zeros(0, dtype="S16")
    todo = store.fill(keys, found) if store is not None else np.arange(len(source))
    done = kept = 0

    def keep(until: int) -> None:
        nonlocal kept
        if store is not None and until > kept:
            rows = todo[kept:until]
            store.keep(keys[rows], z[rows], found.probabilities[rows])
            kept = until

    try:
        for ids, images in _batches(source, todo, batch_size):
            z[todo[done : done + len(ids)]] = _checked(backbone, ids, backbone.embed(ids, images))
            done += len(ids)
            if done - kept >= _PART:
                keep(done)
            if progress is not None:
                progress(ProgressUpdate("backbone", done, len(todo)))
    finally:  # an interruption, too, keeps what was read
        keep(done)
    return z


def _checked(backbone: Backbone, ids: NDArray[np.str_], part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features as they should be."""
    if part.shape != (len(ids), backbone.n_features):
        wanted = (len(ids), backbone.n_features)
        raise SSLDError(f"the backbone {backbone.identity} gave features of shape {part.shape}, not {wanted}")
    if not np.isfinite(part).all():
        sample = ids[int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])]
        raise SSLDError(f"the backbone {backbone.identity} gave features of sample {str(sample)!r} that are not finite")
    return part


def _batches(source: ImageSource, rows: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.str_], NDArray[np.uint8]]]:
    """Some images of a source, the next ones decoded while the caller uses these."""
    if len(rows) == len(source):
        return source.batches(size)
    if isinstance(source, FileSource):
        return FileSource(
            [source.paths[i] for i in rows], source.ids[rows].tolist(), source.image_shape, source.aspect
        ).batches(size)
    parts = (source.ids[rows[i : i + size]] for i in range(0, len(rows), size))
    return ((ids, source.take(ids)) for ids in parts)


def _keys(source: ImageSource, size: int) -> NDArray[np.bytes_]:
    """Digests of files, which need not be decoded for it, or of images."""
    if isinstance(source, FileSource):
        return digests(_contents(source))
    return digests(image for _, images in source.batches(size) for image in images)


def _contents(source: FileSource) -> Iterator[NDArray[np.uint8]]:
    for sample, path in zip(source.ids, source.paths, strict=True):
        try:
            yield np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise DataError(f"the image {str(sample)!r} cannot be read: {error.strerror or error}") from error
