"""What a trial refits: a probe on the frozen representation, the joint model, or scikit-learn's SelfTraining.

All learners of a study share the pretrained denoiser (:class:`~ssl_diffusion.inference.EmbeddedPool`): its representation of
every image is computed once, and strategies that need no labels choose the starting set on it.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.open_pool import none_of, none_to_avoid
from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.inference.embedding import embed_whole
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.predict import predict_logits, probabilities
from ssl_diffusion.inference.run_rows import model_rows
from ssl_diffusion.machine import Device
from ssl_diffusion.settings import LARGEST_SEED
from ssl_diffusion.studies.scenario import tested
from ssl_diffusion.studies.settings import StudySettings
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.phases import as_probe
from ssl_diffusion.training.recipe import Recipe

__all__ = ["Learner", "ProbeRefits", "Shared", "blind_candidates", "learner_of", "prepare"]


@dataclass(frozen=True)
class Shared:
    """What all trials of a study share.

    Attributes:
        recipe: Recipe of the study, for the objective "probe".
        pool: Images of the study.
        frozen: Pool with the representation by the pretrained denoiser.
        options: Cache of denoisers; without a progress callback, since progress is that of the study, not of every fit.
    """

    recipe: Recipe
    pool: Pool
    frozen: EmbeddedPool
    options: FitOptions


class Learner(Protocol):
    """A model that is refitted when labels are added."""

    def fit(self, known: NDArray[np.int64]) -> None:
        """Refit to the labels at these positions."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Class logits of the test split, (n, K)."""
        ...

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """What strategies see of the pool as the model represents it."""
        ...


def prepare(settings: StudySettings, pool: Pool, folder: Path, options: FitOptions) -> Shared:
    """Pretrain the denoiser (or take it from the cache) and compute the representation of all images into a file, once.

    Args:
        settings: Settings of the study.
        pool: Images of the study.
        folder: Folder in which the representation is kept; it is made again if it belongs to another denoiser.
        options: Cache of denoisers and progress callback.
    """
    recipe = as_probe(settings.recipe)
    start = LabeledSet(tuple(map(str, pool.ids[pool.train[:1]])))
    fitted = fit_model(recipe, pool, start, options=options)
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    model = fitted.model().to(device.accelerator)
    assert fitted.pretraining is not None
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    rows = model_rows(model, pool, cache_dir=options.cache.folder.parent if options.cache else None, progress=options.progress)
    facts = f"{fitted.pretraining['key']} {hashlib.sha256(config.encode()).hexdigest()} {len(pool)}"
    store = EmbeddingStore(folder, facts)
    representation = embed_whole(model, rows, store, "representation", precision=device.precision, progress=options.progress)
    frozen = EmbeddedPool(rows, representation, pool.train, model, device.precision)
    return Shared(recipe, pool, frozen, replace(options, progress=None))


class _Probe:
    """Logistic regression on the frozen representation."""

    def __init__(self, shared: Shared, seed: int) -> None:
        self.pool, self.frozen, self.seed = shared.pool, shared.frozen, seed

    def fit(self, known: NDArray[np.int64]) -> None:
        self.probe = self.frozen.probe(known, self.pool.labels[known], len(self.pool.classes), seed=self.seed)

    def logits(self) -> NDArray[np.float32]:
        return self.frozen.logits(self.probe, self.pool.test)

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        k, classes = len(self.pool.classes), self.pool.labels[known]
        p = probabilities(self.frozen.logits(self.probe, open_), multilabel=False)
        model = self.frozen.model
        if model is not None:
            model = model.with_linear_head(self.probe.weight, self.probe.bias)
        return Candidates.of(
            self.frozen, open_, known, classes, k, rng, p, model, none=none_to_avoid(self.pool.classes, classes)
        )


class _Joint:
    """Joint training: from the cached denoiser, or from the last weights."""

    def __init__(self, shared: Shared, settings: StudySettings, seed: int, warm: bool) -> None:
        self.shared, self.warm = shared, warm
        self.recipe = settings.recipe.with_setting("training.seed", seed)
        self.fraction = settings.warm_steps
        self.weights: dict[str, torch.Tensor] | None = None
        self.rounds = 0

    def fit(self, known: NDArray[np.int64]) -> None:
        pool, recipe = self.shared.pool, self.recipe
        labeled = LabeledSet(tuple(map(str, pool.ids[known])))
        start = self.weights if self.warm else None
        if start is not None:
            # Another stream of batches in every round, and fewer steps.
            t = recipe.training
            steps = max(1, round(self.fraction * t.steps))
            recipe = recipe.replace(
                training=t.replace(steps=steps, seed=(t.seed + 1_000_003 * self.rounds) % (LARGEST_SEED + 1))
            )
        fitted = fit_model(recipe, pool, labeled, start=start, options=self.shared.options)
        self.rounds += 1
        self.weights = fitted.ema
        device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
        self.precision = device.precision
        self.model = fitted.model().to(device.accelerator)

    def logits(self) -> NDArray[np.float32]:
        pool = self.shared.pool
        return predict_logits(self.model, pool.images[pool.test], precision=self.precision)

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        pool, n = self.shared.pool, len(open_)
        both = np.concatenate([open_, known])
        embedded = EmbeddedPool.read(self.model, pool.images, both, classify=True, precision=self.precision)
        at, k = np.arange(len(both)), len(pool.classes)
        return Candidates.of(embedded, at[:n], at[n:], pool.labels[known], k, rng, model=self.model)


class _SelfTraining:
    """scikit-learn's SelfTraining around logistic regression, on the representation as strategies see it, standardised."""

    def __init__(self, shared: Shared, seed: int) -> None:
        self.pool, self.frozen, self.seed = shared.pool, shared.frozen, seed

    def fit(self, known: NDArray[np.int64]) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.semi_supervised import SelfTrainingClassifier

        pool = self.pool
        y = np.full(len(pool), -1)
        y[known] = pool.labels[known]
        train = pool.train
        inner = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        self.only: int | None = int(y[known[0]]) if len(np.unique(y[known])) == 1 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = self.frozen.projected[train]
            self.model = None if self.only is not None else SelfTrainingClassifier(inner).fit(x, y[train])

    def logits(self) -> NDArray[np.float32]:
        return np.log(self._probabilities(self.pool.test))

    def _probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        p = np.full((len(rows), len(self.pool.classes)), 1e-9, dtype=np.float32)
        if self.model is None:
            p[:, self.only] = 1
        else:
            p[:, self.model.classes_] += self.model.predict_proba(self.frozen.projected[rows])
        p /= p.sum(axis=1, keepdims=True)
        return p

    def candidates(self, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        k, p = len(self.pool.classes), self._probabilities(open_)
        return Candidates.of(self.frozen, open_, known, self.pool.labels[known], k, rng, p, none=none_of(self.pool.classes))


def blind_candidates(
    shared: Shared, open_: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator
) -> Candidates:
    """What strategies see before there is a classifier."""
    labels = shared.pool.labels[known]
    none = none_to_avoid(shared.pool.classes, labels)
    return Candidates.of(shared.frozen, open_, known, labels, 0, rng, model=shared.frozen.model, none=none)


class ProbeRefits:
    """Refits of probes for the oracle (:class:`ssl_diffusion.studies.oracle.Refitted`).

    Args:
        shared: Pool, denoiser and settings of all trials.
        learner: Probe with the labels so far; None before there are any.
        known: Positions of the labels so far.
        seed: Seed of the trial.
    """

    def __init__(self, shared: Shared, learner: Learner | None, known: NDArray[np.int64], seed: int) -> None:
        self._shared, self._learner, self._known, self._seed = shared, learner, known, seed

    def candidates(self, open_: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """What strategies see of open positions."""
        if self._learner is None:
            return blind_candidates(self._shared, open_, self._known, rng)
        return self._learner.candidates(open_, self._known, rng)

    def test_logits(self, known: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class logits of the test images of these classes, (n, K), after a refit with the labels at these positions."""
        probe = _Probe(self._shared, self._seed)
        probe.fit(known)
        return probe.logits()[tested(self._shared.pool), : none_of(self._shared.pool.classes)]


def learner_of(refit: str, shared: Shared, settings: StudySettings, seed: int) -> Learner:
    """The learner of a way to refit, see :data:`~ssl_diffusion.studies.REFITS`."""
    if refit == "probe":
        return _Probe(shared, seed)
    if refit == "self-training":
        return _SelfTraining(shared, seed)
    return _Joint(shared, settings, seed, warm=refit == "warm")
