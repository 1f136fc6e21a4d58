"""The present model of a job, and what it says of the pool.

Before there is a model the pool is seen through the principal components of its pixels. Labels that came after the last fit are
learned by a probe on the representation: well under a second, so that what is asked next follows what was just said.
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.inference.embedding import embed_whole
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.predict import probabilities
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.probe import WITHOUT_VALIDATION, LinearProbe
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import atomic_write_text

__all__ = [
    "Classifier",
    "Model",
    "classifier_of",
    "folder_of",
    "label_digest",
    "model_and_classifier",
    "present_model",
    "publish",
    "training_labels",
]

_COMPONENTS = 50
_FITTED = 10_000
_BLOCK = 4096


@dataclass(frozen=True)
class Model:
    """What the pool is seen through.

    Attributes:
        name: of the run in `models/`; "pixels" before there is one.
        words: what it is, in words.
        run: the run; None before there is one.
        frozen: the pool through it.
        labels: digest of the labels that it was fitted to; None if to none.
    """

    name: str
    words: str
    run: Run | None
    frozen: EmbeddedPool
    labels: str | None


@dataclass(frozen=True)
class Classifier:
    """Classes by the model's own head, or by a probe on its representation where labels came since.

    Attributes:
        frozen: the pool.
        model: that has this head; None if there is only a representation.
        numbers: class numbers of the job, in the order of the outputs.
        n_classes: of the job.
        probe: None for the model's own head.
    """

    frozen: EmbeddedPool
    model: JointDiffusion | None
    numbers: NDArray[np.int64]
    n_classes: int
    probe: LinearProbe | None
    _last: "list[tuple[NDArray[np.int64], NDArray[np.float32]]]" = field(default_factory=list, repr=False, compare=False)

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class probabilities of images by position, (n, K), K as in the job; 0 for classes without a label.

        The largest answer is remembered: a whole pool is scored once.
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
        p[:, self.numbers] = probabilities(logits, multilabel=False)
        return p


def present_model(job: Job, progress: ProgressCallback | None = None) -> Model:
    """The model of a job as it is now; its representation of the pool is computed when it is first asked for."""
    try:
        facts = json.loads((job.path / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        frozen = EmbeddedPool(job.images, _pixels(job), _train(job), None)
        return Model("pixels", "principal components of the pixels, since there is no model yet", None, frozen, None)
    name = facts["model"]
    run = load_run(folder_of(job, name))
    frozen = EmbeddedPool(job.images, _represented(job, name, run, progress), _train(job), run.model, run.precision)
    return Model(name, f"{run.metadata['objective']} model {name}", run, frozen, facts.get("labels"))


def publish(job: Job, name: str, labels: str | None, progress: ProgressCallback | None = None) -> None:
    """Make a finished run the present model, once its representation of the pool is there."""
    _represented(job, name, load_run(folder_of(job, name)), progress)
    atomic_write_text(job.path / "model.json", json.dumps({"model": name, "labels": labels}) + "\n")


def classifier_of(job: Job, model: Model, *, fast: bool = False) -> Classifier | None:
    """What classifies the pool now, or None with labels of fewer than two classes.

    Args:
        job: the job.
        model: its present model.
        fast: do not choose the probe's penalty by cross-validation.
    """
    known, classes = training_labels(job)
    names, frozen = job.store.classes, model.frozen
    if model.run is not None and model.run.classes and model.labels == label_digest(known, classes):
        numbers = np.array([names.index(name) for name in model.run.classes], dtype=np.int64)
        return Classifier(frozen, frozen.model, numbers, len(names), None)
    if len(np.unique(classes)) < 2:
        return None
    penalty = WITHOUT_VALIDATION if fast else None
    probe = frozen.probe(known, classes, len(names), seed=job.settings.seed, inverse_penalty=penalty)
    asked = frozen.model.with_linear_head(probe.weight, probe.bias) if frozen.model is not None else None
    return Classifier(frozen, asked, np.arange(len(names)), len(names), probe)


def model_and_classifier(job: Job, progress: ProgressCallback | None = None) -> tuple[Model, Classifier | None]:
    """The present model, and what classifies the pool by it; see :func:`present_model` and :func:`classifier_of`."""
    model = present_model(job, progress)
    return model, classifier_of(job, model)


def folder_of(job: Job, name: str) -> Path:
    """The run folder of a model."""
    return job.path / "models" / name


def training_labels(job: Job) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the samples that models are trained on, and their class numbers."""
    return queries.labels(job.store, "pool")


def label_digest(positions: NDArray[np.int64], classes: NDArray[np.int64]) -> str:
    """Of labels, to know whether there are new ones."""
    return hashlib.sha256(np.stack([positions, classes]).astype("<i8").tobytes()).hexdigest()[:16]


def _represented(job: Job, name: str, run: Run, progress: ProgressCallback | None) -> NDArray[np.float32]:
    """The representation of all images by a run, float32 (N, F), memory-mapped; computed once."""
    store = EmbeddingStore(job.path / "models", run.digest())
    return embed_whole(run.model, job.images, store, name, precision=run.precision, progress=progress)


def _train(job: Job) -> NDArray[np.int64]:
    return np.sort(np.concatenate([job.store.of_role("pool"), job.store.of_role("audit")]))


def _pixels(job: Job) -> NDArray[np.float32]:
    """Principal components of the pixels, float32 (N, 50) or fewer of them, memory-mapped; computed once."""
    x, train = job.images, _train(job)
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
