"""What a trial refits: a probe on the frozen representation, the joint model, or scikit-learn's SelfTraining.

All learners of a study share the frozen denoiser (:class:`Frozen`): its representation of every image is computed once, and
strategies that need no labels choose the starting set on it.
"""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.scan import candidates_of, project
from ssl_diffusion.devices import resolve_accelerator, resolve_precision
from ssl_diffusion.evaluation import inference, predict_logits
from ssl_diffusion.fitting import FitOptions, fit_model
from ssl_diffusion.joint import JointDiffusion
from ssl_diffusion.pixels import to_floats
from ssl_diffusion.pool import LabeledSet, Pool
from ssl_diffusion.probe import fit_probe
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.recipe import Recipe
from ssl_diffusion.studies.settings import StudySettings

__all__ = ["Frozen", "Learner", "learner_of", "prepare"]

_BLOCK = 2048
_REFERENCE = 2000


@dataclass(frozen=True)
class Frozen:
    """A pool and what its pretrained denoiser makes of it.

    Attributes:
        recipe: of the study, for the objective "probe".
        pool: the images.
        representation: float32 (N, F) of all images by position, memory-mapped.
        model: the denoiser with a linear head, whose weights a probe replaces.
        options: cache of denoisers; progress is that of the study, not of every fit.
    """

    recipe: Recipe
    pool: Pool
    representation: NDArray[np.float32]
    model: JointDiffusion
    options: FitOptions

    @cached_property
    def projected(self) -> NDArray[np.float32]:
        """The representation as strategies measure it, (N, 512)."""
        z = self.representation
        return np.concatenate([project(np.asarray(z[i : i + _BLOCK])) for i in range(0, len(z), _BLOCK)])

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """Representations of images of the pool, which standardise the features of a probe."""
        rows = np.random.default_rng(0).permutation(self.pool.train)[:_REFERENCE]
        return np.asarray(self.representation[np.sort(rows)])

    def candidates(
        self,
        open_: NDArray[np.int64],
        known: NDArray[np.int64],
        rng: np.random.Generator,
        probabilities: NDArray[np.float32] | None = None,
        model: JointDiffusion | None = None,
    ) -> Candidates:
        """What strategies see on the frozen representation; without probabilities, as before there is a label."""
        return Candidates(
            representation=self.projected[open_],
            probabilities=probabilities,
            labeled_representation=self.projected[known],
            labeled_classes=self.pool.labels[known],
            n_classes=0 if probabilities is None else len(self.pool.classes),
            rng=rng,
            images=lambda rows: self.pool.images[open_[rows]],
            labeled_images=self.pool.images[known],
            model=model,
        )


class Learner(Protocol):
    """A model that is refitted when labels are added."""

    def fit(self, known: NDArray[np.int64]) -> None:
        """Refit to the labels at these positions."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Class logits of the test split, (n, K)."""
        ...

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """What strategies see of the pool through the model."""
        ...


def prepare(settings: StudySettings, pool: Pool, folder: Path, options: FitOptions) -> Frozen:
    """Pretrain the denoiser (or take it from the cache) and compute the representation of all images into a file, once.

    Args:
        settings: of the study.
        pool: its images.
        folder: where the representation is kept; it is made again if it belongs to another denoiser.
        options: the cache, and who is told of progress.
    """
    recipe = settings.recipe.with_setting("training.objective", "probe").with_setting("training.consistency", "none")
    start = LabeledSet(tuple(map(str, pool.ids[pool.train[:1]])))
    fitted = fit_model(recipe, pool, start, options=options)
    device = resolve_accelerator(recipe.compute.accelerator)
    model = fitted.model().to(device)
    assert fitted.pretraining is not None
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    facts = f"{fitted.pretraining['key']} {hashlib.sha256(config.encode()).hexdigest()} {len(pool)}"
    path, note = folder / "representation.npy", folder / "representation.txt"
    if not (path.exists() and note.exists() and note.read_text() == facts):
        note.unlink(missing_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial.npy")
        precision = resolve_precision(recipe.compute.precision, device)
        _represent_to_file(model, pool, partial, precision, options.progress)
        partial.replace(path)
        note.write_text(facts)
    return Frozen(recipe, pool, np.load(path, mmap_mode="r"), model, replace(options, progress=None))


def _represent_to_file(
    model: JointDiffusion, pool: Pool, path: Path, precision: str, progress: ProgressCallback | None
) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(pool), model.n_features))
    with inference(model, precision) as device:
        for start in range(0, len(pool), 256):
            part = model.representation(to_floats(pool.images[start : start + 256], device))
            out[start : start + len(part)] = part.float().cpu().numpy()
            if progress is not None:
                progress(ProgressUpdate("reading the pool", start + len(part), len(pool)))
    out.flush()


class _Probe:
    """Logistic regression on the frozen representation."""

    def __init__(self, frozen: Frozen, seed: int) -> None:
        self.frozen, self.seed = frozen, seed

    def fit(self, known: NDArray[np.int64]) -> None:
        f = self.frozen
        z, y = np.asarray(f.representation[known]), f.pool.labels[known]
        self.probe = fit_probe(z, y, f.reference, len(f.pool.classes), seed=self.seed)

    def logits(self) -> NDArray[np.float32]:
        return self._logits(self.frozen.pool.test)

    def _logits(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        z = self.frozen.representation
        parts = [self.probe.logits(np.asarray(z[rows[i : i + _BLOCK]])) for i in range(0, len(rows), _BLOCK)]
        return np.concatenate(parts)

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        f = self.frozen
        head = {"1.weight": torch.from_numpy(self.probe.weight), "1.bias": torch.from_numpy(self.probe.bias)}
        assert f.model.head is not None
        f.model.head.load_state_dict(head)
        probabilities = torch.from_numpy(self._logits(open_)).softmax(dim=1).numpy()
        return f.candidates(open_, known, rng, probabilities, f.model)


class _Joint:
    """Joint training: from the cached denoiser, or on from the last weights."""

    def __init__(self, frozen: Frozen, settings: StudySettings, seed: int, warm: bool) -> None:
        self.frozen, self.warm = frozen, warm
        self.recipe = settings.recipe.with_setting("training.seed", seed)
        self.share = settings.warm_steps
        self.weights: dict[str, torch.Tensor] | None = None
        self.rounds = 0

    def fit(self, known: NDArray[np.int64]) -> None:
        pool, recipe = self.frozen.pool, self.recipe
        labeled = LabeledSet(tuple(map(str, pool.ids[known])))
        start = self.weights if self.warm else None
        if start is not None:
            # Another stream of batches in every round, and fewer steps.
            t = recipe.training
            steps = max(1, round(self.share * t.steps))
            recipe = replace(recipe, training=replace(t, steps=steps, seed=t.seed + 1_000_003 * self.rounds))
        fitted = fit_model(recipe, pool, labeled, start=start, options=self.frozen.options)
        self.rounds += 1
        self.weights = fitted.ema
        device = resolve_accelerator(recipe.compute.accelerator)
        self.precision = resolve_precision(recipe.compute.precision, device)
        self.model = fitted.model().to(device)

    def logits(self) -> NDArray[np.float32]:
        pool = self.frozen.pool
        return predict_logits(self.model, pool.images[pool.test], precision=self.precision)

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        pool = self.frozen.pool
        k = len(pool.classes)
        classes = pool.labels[known]
        return candidates_of(self.model, pool.images, open_, known, classes, n_classes=k, precision=self.precision, rng=rng)


class _SelfTraining:
    """scikit-learn's SelfTraining around logistic regression, on the representation as strategies see it, standardised."""

    def __init__(self, frozen: Frozen, seed: int) -> None:
        self.frozen, self.seed = frozen, seed

    def fit(self, known: NDArray[np.int64]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.semi_supervised import SelfTrainingClassifier

        f = self.frozen
        y = np.full(len(f.pool), -1)
        y[known] = f.pool.labels[known]
        train = f.pool.train
        inner = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        self.only: int | None = int(y[known[0]]) if len(np.unique(y[known])) == 1 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = None if self.only is not None else SelfTrainingClassifier(inner).fit(f.projected[train], y[train])

    def logits(self) -> NDArray[np.float32]:
        return np.log(self._probabilities(self.frozen.pool.test))

    def _probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        p = np.full((len(rows), len(self.frozen.pool.classes)), 1e-9, dtype=np.float32)
        if self.model is None:
            p[:, self.only] = 1
        else:
            p[:, self.model.classes_] += self.model.predict_proba(self.frozen.projected[rows])
        p /= p.sum(axis=1, keepdims=True)
        return p

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        return self.frozen.candidates(open_, known, rng, self._probabilities(open_))


def learner_of(refit: str, frozen: Frozen, settings: StudySettings, seed: int) -> Learner:
    """The learner of a way to refit, see :data:`~ssl_diffusion.studies.settings.REFITS`."""
    if refit == "probe":
        return _Probe(frozen, seed)
    if refit == "self-training":
        return _SelfTraining(frozen, seed)
    return _Joint(frozen, settings, seed, warm=refit == "warm")
