"""The current model of a job, and the classifier on it.

Before the first fit, samples are represented by the features of the job's backbone or, without one, by the principal components
of their pixels. Labels newer than the last fit are learned by a probe on the representation: in well under a second, so that
the queue follows the labels as they come.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.job_backbone import backbone_of, backbone_representation, job_rows, with_backbone
from ssl_diffusion.annotation.loop.lessons import lessons_of
from ssl_diffusion.annotation.loop.model_file import (
    CurrentModel,
    FittedTo,
    current_model,
    description_before_fits,
    description_of,
    folder_of,
    label_digest,
    teaches,
)
from ssl_diffusion.annotation.store.state import StoreState
from ssl_diffusion.errors import RunError
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.inference.embedding import embed_whole
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.predict import probabilities, represent
from ssl_diffusion.inference.rows import FusedRows, Rows
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.probe import WITHOUT_VALIDATION, LinearProbe
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import atomic_write_text

__all__ = [
    "Classifier",
    "Model",
    "classifier_of",
    "present_model",
    "publish",
]

_COMPONENTS = 50
_FITTED = 10_000
_BLOCK = 4096


@dataclass(frozen=True)
class Model:
    """Current model of a job.

    Attributes:
        name: Name of the run in `models/`; "pixels" or "backbone" before the first.
        description: The model in words.
        run: Run of the model; None before the first.
        frozen: Pool with its representation by the model.
        labels: Digest of the labels it was fitted to; None without labels.
        verdicts: Digest of the judged pictures that it also learned; None if it was fitted without looking for any.
    """

    name: str
    description: str
    run: Run | None
    frozen: EmbeddedPool
    labels: str | None
    verdicts: str | None = None

    @property
    def knows_classes(self) -> bool:
        """Whether a probe on the representation is worth asking: pixels alone say little about classes."""
        return self.name != "pixels"


@dataclass(frozen=True)
class Classifier:
    """Classifier of a pool: the model's own head, or a probe on its representation where labels are newer than the fit.

    Attributes:
        frozen: Pool with its representation.
        model: Network with this head; None if there is only a representation.
        numbers: Class numbers of the job, in the order of the outputs, (k,).
        n_classes: Number of classes of the job, K.
        probe: The probe; None for the model's own head.
        multilabel: Whether classes are independent.
    """

    frozen: EmbeddedPool
    model: JointDiffusion | None
    numbers: NDArray[np.int64]
    n_classes: int
    probe: LinearProbe | None
    multilabel: bool = False
    _last: "list[tuple[NDArray[np.int64], NDArray[np.float32]]]" = field(default_factory=list, repr=False, compare=False)

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class probabilities of samples by position, float32 (n, K); 0 for classes without a label.

        The largest result is cached, so that a pool is scored once.
        """
        for seen, known in self._last:
            if np.array_equal(seen, rows):
                return known
        p = self._computed(rows)
        p.flags.writeable = False
        if not self._last or len(rows) >= len(self._last[0][0]):
            self._last[:] = [(rows, p)]
        return p

    def _computed(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        logits = self.frozen.logits(self.probe, rows)
        p = np.zeros((len(rows), self.n_classes), dtype=np.float32)
        p[:, self.numbers] = probabilities(logits, self.multilabel)
        return p


def present_model(job: Job, progress: ProgressCallback | None = None) -> Model:
    """Open the current model of a job; its representation of the pool is computed on first use and kept."""
    current = current_model(job)
    if current is None and (backbone := backbone_of(job)) is not None:
        frozen = EmbeddedPool(job.images, backbone_representation(job, backbone, progress=progress), job.trained, None)
        return Model("backbone", description_before_fits(job.settings.recipe.backbone.name), None, frozen, None)
    if current is None:
        frozen = EmbeddedPool(job.images, _pixels(job), job.trained, None)
        return Model("pixels", description_before_fits(None), None, frozen, None)
    name = current.model
    run = with_backbone(job, name, load_run(folder_of(job, name)), progress)
    if run.image_shape != job.images.shape[1:]:
        raise RunError(f"{run.path} was made for other images than those of {job.path}: fit again: ssld loop fit {job.path}")
    frozen = EmbeddedPool(job.images, _represented(job, name, run, progress), job.trained, run.model, run.precision)
    beside = run.model.config.backbone.name if isinstance(run.model, FusedDiffusion) else None
    return Model(name, description_of(run.metadata["objective"], name, beside), run, frozen, current.labels, current.verdicts)


def publish(job: Job, name: str, fitted: FittedTo, progress: ProgressCallback | None = None) -> None:
    """Make a finished run the current model, after its representation of the pool has been computed."""
    _represented(job, name, with_backbone(job, name, load_run(folder_of(job, name)), progress), progress)
    atomic_write_text(
        job.path / "model.json",
        CurrentModel(model=name, labels=fitted.labels, verdicts=fitted.verdicts).model_dump_json() + "\n",
    )


def classifier_of(job: Job, model: Model, state: StoreState, *, fast: bool = False) -> Classifier | None:
    """Fit a classifier to the labels of a job; None with labels that tell no classes apart.

    Args:
        job: Job of the model.
        model: Current model.
        state: State of the job's store.
        fast: Whether to skip the cross-validation that chooses the probe's penalty.
    """
    (known, classes), names, frozen = state.training, state.classes, model.frozen
    lessons = lessons_of(job, "off" if model.verdicts is None or model.run is None else "on")
    same = model.labels == label_digest(known, classes) and (model.verdicts or "") == lessons.digest
    fitted = model.run.classes if model.run is not None and same else ()
    if model.run is not None and fitted and {*fitted} <= {*names}:
        numbers = np.array([names.index(name) for name in fitted], dtype=np.int64)
        return Classifier(frozen, frozen.model, numbers, len(names), None, model.run.multilabel)
    if not teaches(classes):
        return None
    numbers = np.array(state.in_use, dtype=np.int64) if job.store.multilabel else np.arange(len(names))
    classes = classes[:, numbers] if job.store.multilabel else classes
    penalty = WITHOUT_VALIDATION if fast else None
    extra = None
    if len(lessons) and model.run is not None:
        extra = _lesson_rows(model.run, lessons.images), lessons.classes
    probe = frozen.probe(known, classes, len(numbers), seed=job.settings.seed, inverse_penalty=penalty, extra=extra)
    asked = frozen.model.with_linear_head(probe.weight, probe.bias) if frozen.model is not None else None
    return Classifier(frozen, asked, numbers, len(names), probe, job.store.multilabel)


def _lesson_rows(run: Run, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Representations of judged pictures by a run, float32 (n, F)."""
    model = run.model
    rows: Rows = images
    if isinstance(model, FusedDiffusion):
        rows = FusedRows(images, model.backbone.embed([str(k) for k in range(len(images))], images))
    return represent(model, rows, precision=run.precision)


def _represented(job: Job, name: str, run: Run, progress: ProgressCallback | None) -> NDArray[np.float32]:
    """The representation of all images by a run, float32 (N, F), memory-mapped; computed once."""
    identity = run.digest()
    if isinstance(run.model, FusedDiffusion) and not run.classes:  # the file of the run does not name the backbone
        identity += f" {run.model.config.backbone.reads} by {run.model.config.backbone.identity}"
    store, rows = EmbeddingStore(job.path / "models", identity), job_rows(job, run, progress)
    return embed_whole(run.model, rows, store, name, precision=run.precision, progress=progress)


def _pixels(job: Job) -> NDArray[np.float32]:
    """Principal components of the pixels, float32 (N, 50) or fewer of them, memory-mapped; computed once."""
    x, train = job.images, job.trained
    some = np.sort(np.random.default_rng(0).permutation(train)[:_FITTED])
    n_components = min(_COMPONENTS, len(some), math.prod(x.shape[1:]))

    def fill(out: NDArray[np.float32]) -> None:
        from sklearn.decomposition import PCA

        flat = x[some].reshape(len(some), -1).astype(np.float32)
        pca = PCA(n_components, svd_solver="randomized", random_state=0).fit(flat)
        for rows in (slice(i, i + _BLOCK) for i in range(0, len(x), _BLOCK)):
            block = x[rows]
            out[rows] = pca.transform(block.reshape(len(block), -1).astype(np.float32))

    return EmbeddingStore(job.path, "principal components").whole("pixels", (len(x), n_components), fill)
