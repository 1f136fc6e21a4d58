"""Images as the model of a run reads them: where it has a backbone, with the backbone's features beside."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.source import FileSource, ImageSource
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.inference.backbone_features import backbone_features, feature_store, file_source, pool_features
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.rows import FusedRows, Rows, RowsSource, SelectedRows
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.progress import ProgressCallback

__all__ = ["FileReader", "model_rows", "original_images", "pool_rows"]


def pool_rows(run: Run, pool: Pool, rows: NDArray[np.int64] | None = None, *, progress: ProgressCallback | None = None) -> Rows:
    """Samples of a pool as the model of a run reads them.

    Args:
        run: Fitted model. Features of its backbone are kept in its `cache_dir`.
        pool: Images.
        rows: Positions of the samples, int64 (n,); None takes all.
        progress: Callback for the number of images that the backbone has read.

    Raises:
        SSLDError: If a file cannot be read, or a sample has no features.

    Example:
        >>> logits = predict_logits(run.model, pool_rows(run, pool, pool.test))  # doctest: +SKIP
    """
    return model_rows(run.model, pool, rows, cache_dir=run.cache_dir, progress=progress)


def model_rows(
    model: JointDiffusion,
    pool: Pool,
    rows: NDArray[np.int64] | None = None,
    *,
    cache_dir: Path | None,
    progress: ProgressCallback | None = None,
) -> Rows:
    """Samples of a pool as a model reads them; see :func:`pool_rows`.

    Args:
        model: Joint model.
        pool: Images.
        rows: Positions of the samples, int64 (n,); None takes all.
        cache_dir: Cache directory for features; None keeps none.
        progress: Callback for the number of images that the backbone has read.
    """
    images: Rows = pool.images if rows is None else SelectedRows(pool.images, rows)
    if not isinstance(model, FusedDiffusion):
        return images
    rows, reads = np.arange(len(pool)) if rows is None else rows, model.config.backbone.reads
    features = backbone_features(model.backbone, pool, rows, reads, cache_dir=cache_dir, progress=progress)
    return FusedRows(images, features)


def original_images(run: Run, pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """The files of some samples as the backbone of a run reads them, uint8 (n, C, S, S).

    Args:
        run: Fitted model.
        pool: Images.
        rows: Positions of the samples, int64 (n,).

    Returns:
        Images; None where the model has no backbone, or one that reads no files.

    Raises:
        DataError: If a file cannot be read.

    Example:
        >>> result = explain_run(run, pool.images[rows], originals=original_images(run, pool, rows))  # doctest: +SKIP
    """
    model = run.model
    if not isinstance(model, FusedDiffusion) or model.config.backbone.reads != "files" or pool.files is None:
        return None
    ids = pool.ids[rows]
    paths = [pool.files[i] for i in rows]
    return file_source(model.backbone, paths, ids.tolist(), model.config.image_shape, run.aspect).take(ids)


class FileReader:
    """Image files that are read in batches, as the model of a run reads them.

    Args:
        run: Fitted model.
        paths: Image files.
        ids: Sample ids of the files.

    Raises:
        DataError: If features are looked up by sample id, and samples have none.
    """

    def __init__(self, run: Run, paths: Sequence[Path], ids: Sequence[str]) -> None:
        self._run, self._paths = run, dict(zip(ids, paths, strict=True))
        self._store: EmbeddingStore | None = None
        model = run.model
        if isinstance(model, FusedDiffusion) and model.config.backbone.reads == "ids":
            try:
                model.backbone.embed(list(ids), None)
            except SSLDError as error:
                raise DataError(f"{error}; {run.path} predicts samples only whose features are there") from None

    def rows(self, ids: Sequence[str], images: NDArray[np.uint8]) -> Rows:
        """A batch of decoded images, uint8 (n, C, H, W), with features where the model has a backbone."""
        model = self._run.model
        if not isinstance(model, FusedDiffusion):
            return images
        config, backbone = model.config, model.backbone
        _, c, h, w = images.shape
        source: ImageSource = RowsSource(images, np.array(ids, dtype=np.str_), (c, h, w))
        if config.backbone.reads == "files":
            source = file_source(
                backbone, [self._paths[sample] for sample in ids], list(ids), config.image_shape, self._run.aspect
            )
        if self._store is None and self._run.cache_dir is not None and isinstance(source, FileSource):
            self._store = feature_store(self._run.cache_dir, backbone, source)
        return FusedRows(images, pool_features(backbone, source, store=self._store))
