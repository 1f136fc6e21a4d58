"""How each objective is fitted: what is pretrained, what is trained, and where the head comes from."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.predict import predict_logits, represent
from ssl_diffusion.inference.run_rows import model_rows
from ssl_diffusion.machine import Device
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.fused import FusedConfig
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import fit_probe, reference_sample
from ssl_diffusion.training.backbones import FusedHead, fit_fused_head, fused_phase
from ssl_diffusion.training.fit_task import FitTask, Pretrained
from ssl_diffusion.training.fused_finish import compare_with_fused_start, with_mean_head
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.phases import joint_config
from ssl_diffusion.training.pretraining import no_pretraining, pretrain
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import Fitted, TrainingResult
from ssl_diffusion.training.starting_point import compare_with_start, unlabeled_sample
from ssl_diffusion.training.warning_signs import chance_nll, history_signs, pseudo_label_signs, validation_sign

__all__ = ["FITS"]

_log = logging.getLogger(__name__)
_LEAST_SAMPLE = 100  # unlabeled images, to say which classes are predicted


def _fit_denoiser(task: FitTask) -> Fitted:
    """Objective "denoise-only": the pretrained denoiser."""
    pretrained = _pretrain_first(task)
    return Fitted(
        task.phase.config, pretrained.weights, {}, list(pretrained.history), pretrained.facts, _untrained(task.recipe)
    )


def _fit_head(task: FitTask) -> Fitted:
    """Objective "probe": a linear head on the frozen representation of the pretrained denoiser, and of a backbone."""
    return _with_head(task, _pretrain_first(task))


def _with_head(task: FitTask, pretrained: Pretrained) -> Fitted:
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
    pretrained = pretrain(task, phase) if phase is not None and task.start is None else None
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
    for name in ("pretraining", "training"):  # which the checkpoint has from its own steps
        settings[name].pop("replanned", None)
    if recipe.training.class_weights == "none":  # as runs of earlier versions
        del settings["training"]["class_weights"]
    parts: list[Any] = [settings, task.fingerprint, labeled.identity()]
    training = replace(task.phase, initial=initial)
    if fused is not None and backbone is not None:
        progress = task.options.progress
        training = fused_phase(training, fused, backbone, task.pool, cache_dir=task.cache_dir, progress=progress)
        parts += [backbone.identity, training.anchor]
    elif pretrained is not None and recipe.training.head_start == "probe":
        training = replace(training, initial=_with_probe(task.phase.config, pretrained.weights, task.pool, labeled, recipe))
    checkpoint = task.checkpoint("checkpoint.safetensors")
    training = replace(training, checkpoint=checkpoint, identity=_digest(parts), pace=task.pace("training"))
    result = train(training, task.options.progress)
    ema = result.ema
    if fused is not None and backbone is not None and result.steps and not training.anchor:
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


def _pretrain_first(task: FitTask) -> Pretrained:
    """The pretrained denoiser of an objective that cannot do without."""
    phase = task.pretraining()
    if phase is None:
        raise no_pretraining(task.recipe.training.objective)
    return pretrain(task, phase)


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
