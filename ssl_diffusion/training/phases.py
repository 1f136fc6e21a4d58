"""From a recipe and a pool to the jobs of a fit: the label-free pretraining and the training after it."""

from dataclasses import replace

import numpy as np
import torch

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.rows import ShardImages
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.training.augment import policy
from ssl_diffusion.training.batches import Phase, ReadImages, TrainingData
from ssl_diffusion.training.denoiser_cache import denoiser_key
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.streaming import ShardStream

__all__ = ["PRETRAINING_ONLY", "as_probe", "joint_config", "mirrored", "pretraining_job", "training_job"]

# Objectives that end with the pretraining and have no training steps.
PRETRAINING_ONLY = ("denoise-only", "probe")


def as_probe(recipe: Recipe) -> Recipe:
    """The recipe with the objective "probe"."""
    return recipe.with_settings({"training.objective": "probe", "training.consistency": "none"})


def joint_config(recipe: Recipe, pool: Pool) -> JointConfig:
    """The model that a recipe describes for a pool."""
    objective, model = recipe.training.objective, recipe.model
    if objective == "probe":  # its head is the logistic regression
        model = model.replace(head_width=0, head_dropout=0.0)
    return JointConfig(
        model=model,
        n_classes=0 if objective == "denoise-only" else len(pool.classes),
        image_shape=pool.image_shape,
        sigma_data=pool.sigma_data(),
        head_noise=0.0 if objective in PRETRAINING_ONLY else recipe.training.head_noise,
    )


def training_job(recipe: Recipe, pool: Pool, labeled: LabeledSet | None) -> Phase:
    """The training phase, from fresh weights and without a checkpoint.

    Raises:
        RecipeError: If the images stay in their shards, and the recipe streams none.
    """
    a = recipe.augmentation
    kind, flips = mirrored(recipe, pool)
    flip = None if a.flip == "auto" else flips  # "auto" mirrors no view whose strength is "none"
    view, weak, strong = (policy(kind, strength, flip) for strength in (a.labeled, "weak", "strong"))
    positions = pool.positions(labeled.fitted) if labeled else np.zeros(0, dtype=np.int64)
    labels = torch.from_numpy(pool.labels[positions])
    stream, images, at = None, pool.images, positions
    if isinstance(images, ShardImages):
        if not recipe.data.stream:
            raise RecipeError("the images stay in their shards, and data.stream is 0: say how many of them are held in memory")
        stream = ShardStream(images, pool.train, recipe.data.stream)
        images, at = images.kept(positions), np.arange(len(positions))
    data = TrainingData(
        images=torch.from_numpy(np.asarray(images)),
        train=torch.from_numpy(pool.train),
        labeled=torch.from_numpy(at),
        labels=labels.float() if pool.multilabel else labels,
        hidden=None if pool.multilabel else torch.from_numpy(pool.labels[pool.train]),
        mapped=isinstance(images, np.memmap) and stream is None,
        read=_unread(recipe, pool),
        stream=stream,
    )
    return Phase(
        name="training",
        objective=recipe.training.objective,
        config=joint_config(recipe, pool),
        initial=None,
        data=data,
        settings=recipe.training,
        view=view,
        weak=weak,
        strong=strong,
        flip=weak.flip,
        compute=recipe.compute,
    )


def _unread(recipe: Recipe, pool: Pool) -> ReadImages | None:
    """What stands for the images that a backbone will read, so that steps take as long as with them; None without a backbone.

    :func:`ssl_diffusion.training.backbones.fused_phase` puts these images into their place.
    """
    if recipe.training.objective != "joint" or recipe.backbone.name in ("none", "auto") or pool.multilabel:
        return None
    n, k = len(pool.train), len(pool.classes)
    return ReadImages(torch.from_numpy(pool.train), None, torch.full((1, k), 1 / k).expand(n, k))


def mirrored(recipe: Recipe, pool: Pool) -> tuple[str, bool]:
    """The augmentation policy of a recipe for a pool, and whether images are mirrored."""
    a = recipe.augmentation
    kind = pool.augmentation if a.policy == "auto" else a.policy
    flips = policy(kind, "weak").flip
    return kind, {"on": True, "off": False, "color": flips and pool.image_shape[0] > 1}.get(a.flip, flips)


def pretraining_job(recipe: Recipe, training: Phase, fingerprint: str) -> Phase | None:
    """The pretraining before a training job, its cache key as identity; None if the recipe or the objective has none."""
    if not recipe.pretraining.steps or training.objective == "labels-only":
        return None
    settings = recipe.pretraining
    if training.data.stream is not None:  # a denoiser of another order of the images
        fingerprint = f"{fingerprint}, streamed by {training.data.stream.buffer}"
    plain, any_length = settings.replace(replanned=()), settings.replace(replanned=(), steps=0)
    key, identity, family = (
        denoiser_key(fingerprint, training.config, s, training.flip) for s in (settings, plain, any_length)
    )
    return replace(
        training,
        name="pretraining",
        objective="denoise-only",
        config=training.config.replace(n_classes=0),
        settings=settings,
        identity=identity,
        family=family,
        key=key,
    )
