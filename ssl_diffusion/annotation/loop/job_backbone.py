"""The backbone of a job: its features of all images, which are read once, and models that have it.

The images that a job keeps are small. A backbone that wants larger ones reads the files that they were made from; its features
of all images are then in `backbone.npy`, so that a round, a new label or a new fit does not run it again. Before the first fit
they represent the samples. A denoiser that was pretrained without labels is joined by them with a fixed weight, until there are
labels to choose it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.job_images import file_size_of
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.inference.rows import FusedRows, Rows
from ssl_diffusion.inference.run import Run
from ssl_diffusion.machine import Device
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.fused import BackboneConfig, FusedConfig, FusedDiffusion, Reads
from ssl_diffusion.models.fusion import WITHOUT_LABELS, Fusion
from ssl_diffusion.models.probe import reference_sample
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import default_cache_dir
from ssl_diffusion.training.backbones import fit_backbone

__all__ = ["backbone_of", "backbone_representation", "check_fit", "job_rows", "picture_fault", "with_backbone", "with_files"]


def backbone_of(job: Job) -> Backbone | None:
    """The backbone of a job, on the device of its fits; None if it has none.

    Raises:
        SSLDError: If it is not installed, or is not read by the objective of the fits.

    Example:
        >>> backbone_of(open_job(Path("job"))).identity  # doctest: +SKIP
        'efficientnet-lite0 579344248a93e230 160px, 7 levels'
    """
    recipe = job.settings.recipe
    backbone = fit_backbone(recipe)
    if backbone is None:
        return None
    return backbone.to(Device.resolve(recipe.compute.accelerator, recipe.compute.precision).accelerator)


def with_files(job: Job, pool: Pool) -> Pool:
    """A pool of the images of a job that names their files, which a backbone may read; as it is for a job without one.

    Args:
        job: Job with the images.
        pool: Images of the job, by position.
    """
    data = job.settings.recipe.data
    if job.settings.recipe.backbone.name in ("none", "auto") or job.shards is not None:
        return pool  # of shards the backbone reads the images that the models read
    root = job.image_root.resolve()
    files = [root / sample for sample in pool.ids.tolist()]
    return replace(
        pool, files=files, file_size=file_size_of(job.path), aspect="squeeze" if data.aspect == "auto" else data.aspect
    )


def backbone_representation(
    job: Job, backbone: Backbone, reads: Reads | None = None, progress: ProgressCallback | None = None
) -> NDArray[np.float32]:
    """Features of all images of a job, float32 (N, F), memory-mapped; computed once, and kept in `backbone.npy`.

    Args:
        job: Job with the images.
        backbone: Backbone.
        reads: Kind of input; None is that of a fit (:func:`ssl_diffusion.inference.backbone_features.backbone_reads`).
        progress: Callback for the number of images that it has read.

    Raises:
        DataError: If image files that have to be read are missing; or a sample has no features.
    """
    pool = _pool(job)
    how = backbone_reads(backbone, pool) if reads is None else reads

    def fill(out: NDArray[np.float32]) -> None:
        if how == "files":
            job.check_files()
        cache = default_cache_dir()
        out[:] = backbone_features(backbone, pool, np.arange(len(pool)), how, cache_dir=cache, progress=progress)

    store = EmbeddingStore(job.path, f"{how} by {backbone.identity}")
    return store.whole("backbone", (len(pool), backbone.n_features), fill)


def check_fit(job: Job, progress: ProgressCallback | None = None) -> None:
    """Check that a fit can read what the backbone of a job needs, and read its features of all images.

    Raises:
        SSLDError: If the backbone is not installed, or is not read by the objective; or image files that it reads are missing.
    """
    if (backbone := backbone_of(job)) is not None:
        if backbone_reads(backbone, _pool(job)) == "files":
            job.check_files()
        backbone_representation(job, backbone, progress=progress)


def job_rows(job: Job, run: Run, progress: ProgressCallback | None = None) -> Rows:
    """All images of a job as the model of a run reads them; features are only opened, or computed, when they are asked for."""
    model = run.model
    if not isinstance(model, FusedDiffusion):
        return job.images
    reads = model.config.backbone.reads
    features = _OnDemand(len(job.images), lambda: backbone_representation(job, model.backbone, reads, progress))
    return FusedRows(job.images, features)


def with_backbone(job: Job, name: str, run: Run, progress: ProgressCallback | None = None) -> Run:
    """A run as a job has it: a denoiser without labels is joined by the backbone of the job, any other run is as it is.

    Args:
        job: Job of the run.
        name: Name of the run in `models/`.
        run: Fitted model.
        progress: Callback for the number of images that the backbone has read.
    """
    if run.classes or isinstance(run.model, FusedDiffusion) or (backbone := backbone_of(job)) is None:
        return run
    features, settings = backbone_representation(job, backbone, progress=progress), job.settings.recipe.backbone
    described = BackboneConfig(
        name=settings.name,
        weights=settings.weights,
        identity=backbone.identity,
        n_features=backbone.n_features,
        reads=backbone_reads(backbone, _pool(job)),
        weight=WITHOUT_LABELS,
    )
    model = build_model(FusedConfig(**dict(run.model.config), backbone=described), seed=0, backbone=backbone)
    assert isinstance(model, FusedDiffusion)
    model.unet.load_state_dict(run.model.unet.state_dict())

    def fill(out: NDArray[np.float32]) -> None:
        rows = reference_sample(job.trained, job.settings.seed)
        z = represent(run.model, job.images[rows], precision=run.precision, progress=progress)
        fusion = Fusion.of([z, features[rows]], WITHOUT_LABELS)
        out[0], out[1] = fusion.mean, fusion.factor

    store = EmbeddingStore(job.path / "models", f"{run.digest()} {described.reads} by {backbone.identity}")
    mean, factor = np.array(store.whole(f"{name}-fusion", (2, model.n_features), fill))
    model.set_fusion(mean, factor)
    device = next(run.model.parameters()).device
    return replace(run, model=model.to(device).eval())


def _pool(job: Job) -> Pool:
    """The images of a job, without labels."""
    n = len(job.images)
    return with_files(job, Pool(job.path.name, job.images, job.store.ids, np.full(n, -1), (), np.zeros(n, dtype=np.bool_)))


def picture_fault(job: Job) -> str:
    """Why a model of a job cannot learn pictures at the size of its images; empty if it can.

    Args:
        job: The job.
    """
    backbone = backbone_of(job)
    if backbone is None or (reads := backbone_reads(backbone, _pool(job))) == "images":
        return ""
    what = "the image files, which are larger" if reads == "files" else "features by sample id"
    return f"pictures with a verdict cannot be learned: the backbone {job.settings.recipe.backbone.name} reads {what}"


class _OnDemand:
    """Rows that are opened when the first of them is asked for."""

    def __init__(self, n: int, opened: Callable[[], NDArray[np.float32]]) -> None:
        self._n, self._open = n, opened
        self._rows: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, key: NDArray[np.int64], /) -> NDArray[Any]:
        if self._rows is None:
            self._rows = self._open()
        return self._rows[key]
