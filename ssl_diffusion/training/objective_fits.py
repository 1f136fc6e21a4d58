"""How each objective is fitted: what is pretrained, what is trained, and where the head comes from."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import CheckpointError, DataError, RecipeError
from ssl_diffusion.inference.predict import predict_logits, represent
from ssl_diffusion.inference.run_rows import model_rows
from ssl_diffusion.machine import Device
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.build import build_model, weights_fault
from ssl_diffusion.models.fused import FusedConfig
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.backbones import FusedHead, fit_fused_head, fused_phase
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.conditions import Conditions, RunConditions
from ssl_diffusion.training.denoiser_cache import CachedDenoiser, DenoiserCache
from ssl_diffusion.training.fused_finish import compare_with_fused_start, with_mean_head
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.phases import joint_config, pretraining_job, training_job
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import Fitted, TrainingResult
from ssl_diffusion.training.starting_point import compare_with_start, unlabeled_sample
from ssl_diffusion.training.warning_signs import chance_nll, history_signs, pseudo_label_signs, validation_sign

__all__ = ["FITS", "FitOptions", "FitTask", "Replan", "no_pretraining"]

_log = logging.getLogger(__name__)
_LEAST_SAMPLE = 100  # unlabeled images, to say which classes are predicted


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

    @property
    def features(self) -> Path | None:
        """Cache directory for the features of a backbone, that of the denoisers; None keeps none."""
        return self.cache.folder.parent if self.cache is not None else None


Replan = Callable[[Sequence[dict[str, Any]]], Recipe]
"""The recipe with the training steps to take, from the rows of the pretraining that has just ended; none if it was not run."""


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
    conditions: RunConditions | None = None
    keep_better: bool = False
    backbone: Backbone | None = None
    replan: Replan | None = None

    def labels(self) -> LabeledSet:
        """The labels to use, for an objective that needs some."""
        if self.labeled is None:
            raise DataError(f"objective {self.recipe.training.objective!r} needs labels, but no labeled set was given")
        return self.labeled

    def pretraining(self) -> Phase | None:
        """The pretraining before the training; None if the recipe or the objective has none."""
        return pretraining_job(self.recipe, self.phase, self.fingerprint)

    def planned_again(self, pretrained: "_Pretrained") -> "FitTask":
        """The task with the training steps that are planned when the pretraining is over."""
        if self.replan is None:
            return self
        recipe = self.replan([] if pretrained.facts["cached"] else pretrained.history)
        phase = training_job(recipe, self.pool, self.labeled)
        return replace(self, recipe=recipe, phase=replace(phase, checkpoint_every=self.phase.checkpoint_every))

    @property
    def cache_dir(self) -> Path | None:
        """Cache directory for the features of a backbone; None keeps none."""
        return self.options.features

    def checkpoint(self, name: str) -> Path | None:
        """File for the state of a phase."""
        return self.checkpoints / name if self.checkpoints is not None else None


@dataclass(frozen=True)
class _Pretrained:
    """A denoiser, and what the metrics say of its pretraining."""

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    facts: dict[str, Any]


def _fit_denoiser(task: FitTask) -> Fitted:
    """Objective "denoise-only": the pretrained denoiser."""
    pretrained = _pretrain_first(task)
    return Fitted(
        task.phase.config, pretrained.weights, {}, list(pretrained.history), pretrained.facts, _untrained(task.recipe)
    )


def _fit_head(task: FitTask) -> Fitted:
    """Objective "probe": a linear head on the frozen representation of the pretrained denoiser, and of a backbone."""
    return _with_head(task, _pretrain_first(task))


def _with_head(task: FitTask, pretrained: _Pretrained) -> Fitted:
    """A pretrained denoiser with a head by logistic regression, as a fit without training steps."""
    labeled = task.labels()
    result = _untrained(task.recipe)
    began = time.monotonic()
    config, history, facts = task.phase.config, list(pretrained.history), pretrained.facts
    if task.backbone is None:
        weights = _with_probe(config, pretrained.weights, task.pool, labeled, task.recipe)
        result.seconds = time.monotonic() - began
        return Fitted(config, weights, {}, history, facts, result)
    fused = _fused_start(task, task.backbone, pretrained.weights)
    result.seconds = time.monotonic() - began
    return Fitted(
        fused.config,
        fused.weights,
        {},
        history,
        facts,
        result,
        backbone=task.backbone,
        backbone_facts=fused.facts,
    )


def _fused_start(task: FitTask, backbone: Backbone, weights: dict[str, Tensor]) -> FusedHead:
    """The probe on a denoiser and a backbone together."""
    return fit_fused_head(
        joint_config(task.recipe.with_setting("training.objective", "probe"), task.pool),
        {name: tensor for name, tensor in weights.items() if name.startswith("unet.")},
        backbone,
        task.pool,
        task.labels(),
        task.recipe,
        cache_dir=task.cache_dir,
        progress=task.options.progress,
    )


def _fit_network(task: FitTask) -> Fitted:
    """Objectives "joint" and "labels-only": training steps, from a pretrained denoiser if the recipe has one."""
    labeled, phase = task.labels(), task.pretraining()
    pretrained = _pretrain(task, phase) if phase is not None and task.start is None else None
    initial = pretrained.weights if pretrained is not None else task.start
    fused = None
    if task.backbone is not None:
        if initial is None:
            raise no_pretraining("joint")
        fused = _fused_start(task, task.backbone, initial)  # before the steps are planned, as reading takes its time
    if pretrained is not None:
        task = task.planned_again(pretrained)
        if task.recipe.training.objective == "probe":
            return _with_head(task, pretrained)
    recipe, backbone = task.recipe, task.backbone
    history = list(pretrained.history) if pretrained is not None else []
    settings = recipe.identity()
    for name in ("keep", "metric", "thresholds"):  # which decide after the last step
        del settings["training"][name]
    if recipe.training.class_weights == "none":  # as runs of earlier versions
        del settings["training"]["class_weights"]
    parts = [settings, task.fingerprint, labeled.identity()]
    training = replace(task.phase, initial=initial)
    if fused is not None and backbone is not None:
        progress = task.options.progress
        training = fused_phase(training, fused, backbone, task.pool, cache_dir=task.cache_dir, progress=progress)
        parts.append(backbone.identity)
    elif pretrained is not None and recipe.training.head_start == "probe":
        training = replace(training, initial=_with_probe(task.phase.config, pretrained.weights, task.pool, labeled, recipe))
    training = replace(training, checkpoint=task.checkpoint("checkpoint.safetensors"), identity=_digest(parts))
    result = train(training, task.options.progress)
    ema = result.ema
    if fused is not None and backbone is not None and result.steps:
        ema = with_mean_head(training.config, ema, fused, backbone, task.pool, labeled, recipe, cache_dir=task.cache_dir)
    facts = pretrained.facts if pretrained is not None else None
    fitted = Fitted(
        training.config,
        ema,
        result.raw,
        history + result.history,
        facts,
        result,
        backbone=backbone,
        backbone_facts=fused.facts if fused is not None else None,
    )
    for sign in _signs(task, fitted):
        _log.warning("%s", sign)
    wanted = task.keep_better and recipe.training.keep == "better"
    if not wanted or pretrained is None or not result.steps:
        return fitted
    if fused is not None and backbone is not None:
        start = compare_with_fused_start(
            recipe, task.pool, labeled, fitted.config, fitted.ema, fused, backbone, cache_dir=task.cache_dir
        )
    else:
        start = compare_with_start(recipe, task.pool, labeled, fitted.config, pretrained.weights, fitted.ema)
    if start.comparison.kept == "trained":
        return replace(fitted, start=start.comparison)
    _log.warning("%s", start.comparison.advice())
    fitted = replace(fitted, config=start.config, ema=start.weights, raw={}, start=start.comparison)
    if fused is not None and isinstance(start.config, FusedConfig):
        fitted = replace(fitted, backbone_facts=fused.facts | {"weight": start.config.backbone.weight})
    return fitted


def _signs(task: FitTask, fitted: Fitted) -> list[str]:
    """Warnings about a training that went wrong, with advice."""
    pool, labeled, seed = task.pool, task.labels(), task.recipe.training.seed
    device = Device.resolve(task.recipe.compute.accelerator, task.recipe.compute.precision)
    k, chance, history = len(pool.classes), chance_nll(len(pool.classes), pool.multilabel), fitted.training.history

    def logits(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        model = fitted.model().to(device.accelerator)
        images = model_rows(model, pool, rows, cache_dir=task.cache_dir, progress=task.options.progress)
        return predict_logits(model, images, precision=device.precision)

    def predicted() -> NDArray[np.float64] | None:
        rows = unlabeled_sample(pool, labeled, seed, None if fitted.backbone is None else reference_sample(pool.train, seed))
        return np.bincount(logits(rows).argmax(axis=1), minlength=k) / len(rows) if len(rows) >= _LEAST_SAMPLE else None

    signs = history_signs(history, chance)
    if not pool.multilabel:
        y = pool.labels[pool.positions(labeled.train)]
        signs += pseudo_label_signs(history, pool.classes, np.bincount(y, minlength=k) / len(y), predicted)
    if labeled.val and fitted.training.steps:
        val = pool.positions(labeled.val)
        z, truth = torch.from_numpy(logits(val)), torch.from_numpy(pool.labels[val])
        if pool.multilabel:
            losses = functional.binary_cross_entropy_with_logits(z, truth.float(), reduction="none").mean(dim=1)
        else:
            losses = functional.cross_entropy(z, truth, reduction="none")
        signs += validation_sign(losses.double().numpy(), chance)
    return signs


def _pretrain_first(task: FitTask) -> _Pretrained:
    """The pretrained denoiser of an objective that cannot do without."""
    phase = task.pretraining()
    if phase is None:
        raise no_pretraining(task.recipe.training.objective)
    return _pretrain(task, phase)


def _pretrain(task: FitTask, phase: Phase) -> _Pretrained:
    """The denoiser that a pretraining makes: the one that the run has used before, one from the cache, or a new one."""
    cache, key = task.options.cache, phase.identity
    own = task.checkpoint("denoiser.safetensors") if cache is not None else None
    if own is not None and (pretrained := _load_own(own, phase)) is not None:
        return pretrained
    now = Conditions.here(task.recipe.compute)
    begun = task.conditions.rounding() if task.conditions is not None else now
    denoiser = cache.load(key, phase.config) if cache is not None else None
    foreign = cache is not None and denoiser is not None and _is_foreign(task, cache.digest(key), denoiser, begun)
    if cached := denoiser is not None and not foreign:
        assert denoiser is not None
        _log.info("pretrained denoiser %s taken from the cache", key)
    else:
        checkpoint = task.checkpoint("pretraining.safetensors")
        partial = cache.partial(key, begun) if cache is not None else None
        if partial is not None and now == begun:
            checkpoint = partial
        elif partial is not None and checkpoint is not None and partial.exists() and not checkpoint.exists():
            shutil.copyfile(partial, checkpoint)  # what other conditions make of it is not for others
        made_with = now.model_dump() if now == begun else None
        result = train(replace(phase, checkpoint=checkpoint), task.options.progress)
        denoiser = CachedDenoiser.from_result(result, made_with)
        if cache is not None and not foreign:
            cache.store(key, denoiser, phase.family)
    facts = {"key": key, "cached": cached, "steps": denoiser.steps, "images_seen": denoiser.images_seen}
    facts |= {"seconds": round(denoiser.seconds, 1)}
    if own is not None:
        save_tensors(own, denoiser.weights, {"facts": facts, "history": denoiser.history})
    if cache is not None and not cached:
        cache.discard_partial(key, begun)  # not before the run has its own
    return _Pretrained(denoiser.weights, denoiser.history, facts)


def _is_foreign(task: FitTask, digest: str | None, denoiser: CachedDenoiser, begun: Conditions) -> bool:
    """Whether a denoiser has come into the cache since the run began, and is not what the run would have made itself."""
    if task.conditions is None or digest == task.conditions.denoiser or denoiser.made_with == begun.model_dump():
        return False
    _log.warning(
        "the denoiser in the cache was made since this run began, with other threads, device or precision: the run makes "
        "its own"
    )
    return True


def _load_own(path: Path, phase: Phase) -> _Pretrained | None:
    """The denoiser that an interrupted run has used; None if it had none, or the file is damaged, which is a warning."""
    if not path.exists():
        return None
    try:
        weights, metadata = load_tensors(path)
        if metadata["facts"]["key"] == phase.identity and not weights_fault(phase.config, weights, head=False):
            return _Pretrained(weights, metadata["history"], metadata["facts"])
    except (CheckpointError, KeyError, TypeError) as error:
        _log.warning("the run's own denoiser is left out: %s", error)
    return None


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
    positions = pool.positions(labeled.fitted)
    seed = recipe.training.seed
    reference = reference_sample(pool.train, seed)
    z = represent(model, pool.images[np.concatenate([positions, reference])], precision=device.precision)
    n = len(positions)
    balanced = recipe.training.class_weights == "balanced"
    probe = fit_probe(z[:n], pool.labels[positions], z[n:], len(pool.classes), balanced=balanced, seed=seed)
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
