"""How each objective is fitted: what is pretrained, what is trained, and where the head comes from."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, RecipeError
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.machine import Device
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.denoiser_cache import CachedDenoiser, DenoiserCache
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.phases import pretraining_job
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import Fitted, TrainingResult

__all__ = ["FITS", "FitOptions", "FitTask", "no_pretraining"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitOptions:
    """Options that do not change the result of a fit.

    Args:
        cache:            cache of pretrained denoisers; None neither reads nor writes one
        cache_dir:        folder of data sets, for those that are downloaded; None is the default
        checkpoint_every: seconds between checkpoints
        max_memory:       bytes of images above which the pool is memory-mapped; None keeps any pool in memory
        progress:         callback for the state of long-running work
    """

    cache: DenoiserCache | None = None
    cache_dir: Path | None = None
    checkpoint_every: float = 60.0
    max_memory: int | None = None
    progress: ProgressCallback | None = None


@dataclass(frozen=True)
class FitTask:
    """Everything that a fit depends on, whatever its objective; `phase` is the training from random weights."""

    recipe: Recipe
    pool: Pool
    labeled: LabeledSet | None
    phase: Phase
    fingerprint: str
    start: dict[str, Tensor] | None
    checkpoints: Path | None
    options: FitOptions

    def labels(self) -> LabeledSet:
        """The labels to use, for an objective that needs some."""
        if self.labeled is None:
            raise DataError(f"objective {self.recipe.training.objective!r} needs labels, but no labeled set was given")
        return self.labeled

    def pretraining(self) -> Phase | None:
        """The pretraining before the training; None if the recipe or the objective has none."""
        return pretraining_job(self.recipe, self.phase, self.fingerprint)

    def checkpoint(self, name: str) -> Path | None:
        """File for the state of a phase."""
        return self.checkpoints / name if self.checkpoints is not None else None


@dataclass(frozen=True)
class _Pretrained:
    """A denoiser, and what the metrics say of its pretraining."""

    denoiser: CachedDenoiser
    facts: dict[str, Any]


def _fit_denoiser(task: FitTask) -> Fitted:
    """Objective "denoise-only": the pretrained denoiser."""
    pretrained = _pretrain_first(task)
    denoiser = pretrained.denoiser
    return Fitted(task.phase.config, denoiser.weights, {}, list(denoiser.history), pretrained.facts, _untrained(task.recipe))


def _fit_head(task: FitTask) -> Fitted:
    """Objective "probe": a linear head on the frozen representation of the pretrained denoiser."""
    labeled, pretrained = task.labels(), _pretrain_first(task)
    denoiser, result = pretrained.denoiser, _untrained(task.recipe)
    began = time.monotonic()
    weights = _with_probe(task.phase.config, denoiser.weights, task.pool, labeled, task.recipe)
    result.seconds = time.monotonic() - began
    return Fitted(task.phase.config, weights, {}, list(denoiser.history), pretrained.facts, result)


def _fit_network(task: FitTask) -> Fitted:
    """Objectives "joint" and "labels-only": training steps, from a pretrained denoiser if the recipe has one."""
    recipe, labeled, phase = task.recipe, task.labels(), task.pretraining()
    pretrained = _pretrain(task, phase) if phase is not None and task.start is None else None
    initial, history = task.start, []
    if pretrained is not None:
        initial, history = pretrained.denoiser.weights, list(pretrained.denoiser.history)
        if recipe.training.head_start == "probe":
            initial = _with_probe(task.phase.config, initial, task.pool, labeled, recipe)
    identity = _digest([recipe.identity(), task.fingerprint, labeled])
    training = replace(task.phase, initial=initial, checkpoint=task.checkpoint("checkpoint.safetensors"), identity=identity)
    result = train(training, task.options.progress)
    facts = pretrained.facts if pretrained is not None else None
    return Fitted(task.phase.config, result.ema, result.raw, history + result.history, facts, result)


def _pretrain_first(task: FitTask) -> _Pretrained:
    """The pretrained denoiser of an objective that cannot do without."""
    phase = task.pretraining()
    if phase is None:
        raise no_pretraining(task.recipe.training.objective)
    return _pretrain(task, phase)


def _pretrain(task: FitTask, phase: Phase) -> _Pretrained:
    """The denoiser that a pretraining makes, from the cache if it is there."""
    cache, key = task.options.cache, phase.identity
    denoiser = cache.load(key, phase.config) if cache is not None else None
    cached = denoiser is not None
    if denoiser is not None:
        _log.info("pretrained denoiser %s taken from the cache", key)
    else:
        checkpoint = cache.partial(key) if cache is not None else task.checkpoint("pretraining.safetensors")
        denoiser = CachedDenoiser.from_result(train(replace(phase, checkpoint=checkpoint), task.options.progress))
        if cache is not None:
            cache.store(key, denoiser, phase.family)
    facts = {"key": key, "cached": cached, "steps": denoiser.steps, "images_seen": denoiser.images_seen}
    return _Pretrained(denoiser, facts | {"seconds": round(denoiser.seconds, 1)})


def no_pretraining(objective: str) -> RecipeError:
    """The error of an objective that needs the pretraining, in a recipe without one."""
    return RecipeError(f"objective {objective!r} needs the pretraining phase, but pretraining.steps is 0")


def _untrained(recipe: Recipe) -> TrainingResult:
    """The result of an objective that ends with the pretraining."""
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    return TrainingResult(device=device.accelerator, precision=device.precision)


def _with_probe(
    config: JointConfig, weights: dict[str, Tensor], pool: Pool, labeled: LabeledSet, recipe: Recipe
) -> dict[str, Tensor]:
    """Weights of a pretrained denoiser, and those of a head by logistic regression on its representation."""
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    model = build_model(config, seed=0, initial=weights).to(device.accelerator)
    positions = pool.positions(labeled.train)
    seed = recipe.training.seed
    reference = reference_sample(pool.train, seed)
    z = represent(model, pool.images[np.concatenate([positions, reference])], precision=device.precision)
    n = len(positions)
    probe = fit_probe(z[:n], pool.labels[positions], z[n:], len(pool.classes), seed=seed)
    _log.info("probe: C = %g", probe.inverse_penalty)
    return {name: tensor.cpu() for name, tensor in model.with_linear_head(probe.weight, probe.bias).state_dict().items()}


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=vars).encode()).hexdigest()


FITS: dict[str, Callable[[FitTask], Fitted]] = {
    "joint": _fit_network,
    "labels-only": _fit_network,
    "probe": _fit_head,
    "denoise-only": _fit_denoiser,
}
