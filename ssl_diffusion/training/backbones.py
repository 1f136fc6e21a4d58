"""A fit with a backbone: which one it is, and the probe on what the denoiser and the backbone see together."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.machine import Device
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.backbones.registry import backbone_fault, load_backbone
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.fused import BackboneConfig, FusedConfig, FusedDiffusion
from ssl_diffusion.models.fusion import fit_fused_probe
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import LinearProbe, reference_sample
from ssl_diffusion.models.pseudo_labels import LARGEST_BUDGET, fit_pseudo_label_probe
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.backbone_views import view_features
from ssl_diffusion.training.batches import Phase, ReadImages
from ssl_diffusion.training.phases import as_probe
from ssl_diffusion.training.recipe import Recipe

__all__ = ["FusedHead", "fit_backbone", "fit_fused_head", "fused_phase", "head_rows", "probe_with_backbone", "with_backbone_of"]

_log = logging.getLogger(__name__)
_AUTO = "efficientnet-lite0"
_SPREAD = 5000  # images of the pool over which labels are spread
_AUTO_OBJECTIVE = "probe"
_OBJECTIVES = ("probe", "joint")  # whose heads read a backbone


@dataclass(frozen=True)
class FusedHead:
    """A probe on a denoiser and a backbone.

    Attributes:
        config: Configuration of the model.
        weights: Weights by name, without those of the backbone.
        facts: Facts for the metrics: name, identity, reads, weight, the NLL of held-out labels by weight, and whether
            pseudo-labels were used.
        inverse_penalty: Inverse penalty C of the logistic regression.
        read: Unlabeled images that the backbone has read, and what the probe says of them; None for multi-label data.
    """

    config: FusedConfig
    weights: dict[str, Tensor]
    facts: dict[str, Any]
    inverse_penalty: float
    read: ReadImages | None = None


def with_backbone_of(recipe: Recipe, pool: Pool) -> Recipe:
    """The recipe with the backbone that "auto" means for a pool.

    That is EfficientNet-Lite0 for color images from files, under the objective "probe", where it is installed; else none.

    Args:
        recipe: Settings.
        pool: Images.
    """
    if recipe.backbone.name != "auto":
        return recipe
    suits = recipe.training.objective == _AUTO_OBJECTIVE and _in_color_files(pool)
    name = _AUTO if suits and backbone_fault(_AUTO) is None else "none"
    return recipe.replace(backbone=recipe.backbone.replace(name=name))


def probe_with_backbone(recipe: Recipe, pool: Pool) -> Recipe:
    """The recipe of a fit whose objective was left open: "probe" in place of "joint" where the probe reads a backbone.

    Joint training beside a frozen network has ended no better than the probe on all photos that were measured, after several
    times as long, and without one far below (benchmarks/README.md).

    Args:
        recipe: Settings.
        pool: Images.
    """
    probe = as_probe(recipe)
    name = with_backbone_of(probe, pool).backbone.name
    if recipe.training.objective != "joint" or pool.multilabel or not recipe.pretraining.steps:
        return recipe
    if name == "none":
        if recipe.backbone.name == "auto" and _in_color_files(pool):
            _log.info("a pretrained network knows more of most photos than their denoiser: %s", backbone_fault(_AUTO))
        return recipe
    _log.info(
        "the probe on the denoiser and %s is taken, which was best on most photos; on pictures of one kind of simple object "
        "joint training can be better: compare with --objective joint --backbone none --val-fraction 0.2",
        name,
    )
    return probe


def fit_backbone(recipe: Recipe) -> Backbone | None:
    """The backbone that a recipe names; None if it names none, or leaves the choice to the pool.

    Args:
        recipe: Settings.

    Raises:
        RecipeError: If the objective does not read a backbone, or not with these settings.
        SSLDError: If there is none of this name, or it cannot be made.
    """
    settings, objective = recipe.backbone, recipe.training.objective
    if settings.name in ("none", "auto"):
        if settings.weights:
            raise RecipeError(f"backbone.weights are those of a backbone, and backbone.name is {settings.name!r}: name one")
        return None
    if objective not in _OBJECTIVES:
        raise RecipeError(
            f"the objective {objective!r} does not read a backbone yet: use --objective probe or joint, or --backbone none"
        )
    if objective == "joint" and not recipe.pretraining.steps:
        raise RecipeError("objective 'joint' with a backbone needs the pretraining phase, but pretraining.steps is 0")
    return load_backbone(settings.name, **({"weights": settings.weights} if settings.weights else {}))


def fused_phase(
    phase: Phase,
    fused: FusedHead,
    backbone: Backbone,
    pool: Pool,
    *,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Phase:
    """A training on the fused representation, which keeps the standardisation and the weights of a probe.

    A linear head begins as the probe, whatever `training.head_start` says: from zero it would first have to learn what the
    backbone knows.

    Args:
        phase: Training of the denoiser and a head.
        fused: Probe on the denoiser that the training starts from, and the backbone.
        backbone: Backbone.
        pool: Images.
        cache_dir: Cache directory for features; None keeps none.
        progress: Callback for the number of views that the backbone has read.
    """
    config = FusedConfig(**dict(phase.config), backbone=fused.config.backbone)
    linear = not config.model.head_width
    initial = {name: t for name, t in fused.weights.items() if linear or not name.startswith("head.")}
    features = view_features(
        backbone,
        pool,
        phase.data.labeled.numpy(),
        phase.view,
        config.backbone.reads,
        cache_dir=cache_dir,
        progress=progress,
    )
    data = replace(phase.data, features=torch.from_numpy(features), read=fused.read)
    return replace(phase, config=config, initial=initial, data=data)


def head_rows(
    recipe: Recipe, pool: Pool, labeled: LabeledSet
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the images that a probe on both is fitted with: labeled ones, those that standardise, and those over which
    labels are spread, int64 (n,), (m,) and (l,).

    Args:
        recipe: Settings.
        pool: Images.
        labeled: Labels to use.
    """
    positions, seed = pool.positions(labeled.fitted), recipe.training.seed
    sample = reference_sample(pool.train, seed)
    if not _spreads(recipe, pool, len(positions)):
        return positions, sample, sample[:0]
    return positions, sample, np.setdiff1d(np.random.default_rng(seed).permutation(pool.train)[:_SPREAD], positions)


def fit_fused_head(
    config: JointConfig,
    weights: dict[str, Tensor],
    backbone: Backbone,
    pool: Pool,
    labeled: LabeledSet,
    recipe: Recipe,
    *,
    weight: float | None = None,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> FusedHead:
    """Fit a probe on a pretrained denoiser and a backbone, with the weights that the labels favor, and teach it pseudo-labels.

    Args:
        config: Configuration of the denoiser.
        weights: Weights of the pretrained denoiser.
        backbone: Backbone.
        pool: Images.
        labeled: Labels to use.
        recipe: Settings.
        weight: Weight of the backbone, in [0, 1]; None leaves it to the labels.
        cache_dir: Cache directory for features; None keeps none.
        progress: Callback for the number of images that the backbone has read.
    """
    device, seed = Device.resolve(recipe.compute.accelerator, recipe.compute.precision), recipe.training.seed
    positions, sample, others = head_rows(recipe, pool, labeled)
    n, m = len(positions), len(positions) + len(sample)
    rows = np.concatenate([positions, sample, others])
    reads = backbone_reads(backbone, pool)
    features = backbone_features(backbone.to(device.accelerator), pool, rows, reads, cache_dir=cache_dir, progress=progress)
    denoiser = build_model(config, seed=0, initial=weights).to(device.accelerator)
    once, inverse = np.unique(rows, return_inverse=True)  # the reference is among those that labels are spread over
    z = represent(denoiser, pool.images[once], precision=device.precision)[inverse]
    labels, k = pool.labels[positions], len(pool.classes)
    balanced = recipe.training.class_weights == "balanced"
    references = [z[n:m], features[n:m]]
    fused = fit_fused_probe([z[:n], features[:n]], labels, references, k, weight=weight, balanced=balanced, seed=seed)
    said = str(fused.choice) if fused.choice is not None else f"backbone {weight:g}"
    _log.info("%s; C = %g", said, fused.probe.inverse_penalty)
    probe, taught = fused.probe, None
    if _spreads(recipe, pool, n):
        joined, unlabeled = fused.fusion(z[:n], features[:n]), fused.fusion(z[m:], features[m:])
        taught = fit_pseudo_label_probe(probe, joined, labels, unlabeled, k, seed=seed)
        probe = taught.probe
        _log.info("pseudo-labels %s", taught)
    described = BackboneConfig(
        name=recipe.backbone.name,
        weights=recipe.backbone.weights,
        identity=backbone.identity,
        n_features=backbone.n_features,
        reads=reads,
        weight=fused.fusion.weight,
    )
    made = FusedConfig(**dict(config), backbone=described)
    model = build_model(made, seed=0, backbone=backbone)
    assert isinstance(model, FusedDiffusion)
    model.unet.load_state_dict({name.removeprefix("unet."): t for name, t in weights.items() if name.startswith("unet.")})
    model.set_fusion(fused.fusion.mean, fused.fusion.factor)
    model = model.with_linear_head(probe.weight, probe.bias)
    facts = {"name": described.name, "identity": described.identity, "reads": reads, "weight": described.weight}
    nll = {f"{weight:g}": round(value, 4) for weight, value in fused.choice.nll.items()} if fused.choice else {}
    facts |= {"nll": nll, "choice": said, "pseudo_labels": None if taught is None else taught.facts()}
    assert isinstance(model.config, FusedConfig)
    read = None if pool.multilabel else _read(pool, rows, positions, fused.fusion(z, features), features, probe)
    return FusedHead(model.config, model.state_dict(), facts, probe.inverse_penalty, read)


def _read(
    pool: Pool,
    rows: NDArray[np.int64],
    labeled: NDArray[np.int64],
    joined: NDArray[np.float32],
    features: NDArray[np.float32],
    probe: LinearProbe,
) -> ReadImages:
    """The images among `rows`, with these fused representations and features, that are not labeled; all, if none are left."""
    others = np.setdiff1d(rows, labeled)
    once, first = np.unique(rows, return_index=True)
    first = first[np.searchsorted(once, others)] if len(others) else first
    start = softmax(probe.logits(joined[first]), axis=1)
    some = rows[first]
    return ReadImages(*map(torch.from_numpy, (some, features[first], start, pool.labels[some])))


def _in_color_files(pool: Pool) -> bool:
    return pool.files is not None and pool.image_shape[0] == 3


def _spreads(recipe: Recipe, pool: Pool, n_labels: int) -> bool:
    """Whether labels are spread over the images around them, whose classes have no weights."""
    return (
        recipe.backbone.pseudo_labels
        and recipe.training.class_weights == "none"
        and not pool.multilabel
        and n_labels <= LARGEST_BUDGET
    )
