r"""The end of a training on the fused representation: its head, and whether the fit returns the model or what it began at.

The steps have shown the encoder the labels, so no cross-validation on it is honest: it favors the denoiser, whose features now
tell apart the labeled images and not so well the others. The weight of the backbone therefore stays the one that the labels
chose before the training. With it a probe is fitted on the trained encoder, and its logits and those of the trained head are
averaged. Both are linear, so that the mean is a linear head, too.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.predict import predict_logits, represent
from ssl_diffusion.inference.run_rows import model_rows
from ssl_diffusion.machine import Device
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.fusion import fit_fused_probe
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import reference_sample
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.backbones import FusedHead, fit_fused_head
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.starting_point import Start, compared, fold_logits, scored, unlabeled_sample

__all__ = ["compare_with_fused_start", "with_mean_head"]


def with_mean_head(
    config: JointConfig,
    weights: dict[str, Tensor],
    fused: FusedHead,
    backbone: Backbone,
    pool: Pool,
    labeled: LabeledSet,
    recipe: Recipe,
    *,
    cache_dir: Path | None = None,
) -> dict[str, Tensor]:
    """Weights of a trained model whose head is the mean of its own and a probe's; a head that is not linear stays as it is.

    Args:
        config: Configuration of the model.
        weights: Weights of the trained model.
        fused: Probe that the training began at, whose weight and penalty are kept.
        backbone: Backbone.
        pool: Images.
        labeled: Labels to use.
        recipe: Settings.
        cache_dir: Cache directory for features; None keeps none.
    """
    if config.model.head_width:
        return weights
    model, precision = _model(config, weights, backbone, recipe)
    positions, seed = pool.positions(labeled.fitted), recipe.training.seed
    rows, n = np.concatenate([positions, reference_sample(pool.train, seed)]), len(positions)
    z = represent(model, model_rows(model, pool, rows, cache_dir=cache_dir), precision=precision)
    blocks = np.split(z, [model.denoiser_features], axis=1)
    probe = fit_fused_probe(
        [block[:n] for block in blocks],
        pool.labels[positions],
        [block[n:] for block in blocks],
        len(pool.classes),
        weight=fused.config.backbone.weight,
        inverse_penalty=fused.inverse_penalty,
        balanced=recipe.training.class_weights == "balanced",
        seed=seed,
    )
    # Of z, which is standardised as before the training; a block without weight is zero and stays without.
    weight = probe.probe.weight * probe.fusion.factor
    bias = probe.probe.bias - weight @ probe.fusion.mean
    mean = {"head.1.weight": torch.from_numpy(weight), "head.1.bias": torch.from_numpy(bias)}
    return weights | {name: ((weights[name] + t.to(weights[name])) / 2) for name, t in mean.items()}


def compare_with_fused_start(
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet,
    config: JointConfig,
    trained: dict[str, Tensor],
    fused: FusedHead,
    backbone: Backbone,
    *,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Start:
    """Compare a trained model with the probe that it began at; see :func:`ssl_diffusion.training.compare_with_start`.

    With validation labels, a probe on the backbone alone is compared, too, and returned if it is better than both.

    Args:
        recipe: Resolved settings.
        pool: Images.
        labeled: Labels that were used.
        config: Configuration of the trained model.
        trained: Weights of the trained model.
        fused: Probe that the training began at.
        backbone: Backbone.
        cache_dir: Cache directory for features; None keeps none.
        progress: Callback for the number of images that the backbone has read.
    """
    seed = recipe.training.seed
    positions, val = pool.positions(labeled.fitted), pool.positions(labeled.val)
    among = reference_sample(pool.train, seed)  # which the backbone has read
    unlabeled = unlabeled_sample(pool, labeled, seed, among)[: 0 if pool.multilabel else None]
    everything = np.concatenate([positions, val, unlabeled])

    def read(model: FusedDiffusion, precision: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = model_rows(model, pool, everything, cache_dir=cache_dir, progress=progress)
        z = represent(model, rows, precision=precision)[: len(positions)]
        return predict_logits(model, rows, precision=precision), z

    logits, _ = read(*_model(config, trained, backbone, recipe))
    start, z = read(*_model(fused.config, fused.weights, backbone, recipe))
    balanced = recipe.training.class_weights == "balanced"
    folds = fold_logits(z, pool.labels[positions], None, len(pool.classes), fused.inverse_penalty, seed, balanced=balanced)
    comparison = compared(pool, labeled, unlabeled, start, logits, folds, recipe.training.metric, beside_backbone=True)
    if not len(val):  # then the weight of the probe is all that is known of the backbone alone
        return Start(fused.config, fused.weights, comparison)
    weights = {name: tensor for name, tensor in fused.weights.items() if name.startswith("unet.")}
    plain = JointConfig(**{name: value for name, value in dict(fused.config).items() if name != "backbone"})
    alone = fit_fused_head(plain, weights, backbone, pool, labeled, recipe, weight=1.0, cache_dir=cache_dir)
    of_alone = read(*_model(alone.config, alone.weights, backbone, recipe))[0][len(positions) :][: len(val)]
    value = scored(comparison.score, of_alone, pool.labels[val])
    best = (comparison.trained if comparison.kept == "trained" else comparison.probe)["validation"]
    assert best is not None
    if value < best if comparison.score == "nll" else value > best:
        return Start(alone.config, alone.weights, replace(comparison, kept="backbone", alone=value))
    return Start(fused.config, fused.weights, replace(comparison, alone=value))


def _model(config: JointConfig, weights: dict[str, Tensor], backbone: Backbone, recipe: Recipe) -> tuple[FusedDiffusion, str]:
    """A model on the device of a recipe, and its precision."""
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    model = build_model(config, seed=0, initial=weights, backbone=backbone).to(device.accelerator)
    assert isinstance(model, FusedDiffusion)
    return model, device.precision
