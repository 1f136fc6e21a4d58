"""Settings that are refused before anything is read or written."""

import logging

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.machine import memory_bytes, resolve_accelerator
from ssl_diffusion.training.backbones import fit_backbone
from ssl_diffusion.training.loop import check_divisible
from ssl_diffusion.training.phases import PRETRAINING_ONLY
from ssl_diffusion.training.pretraining import no_pretraining
from ssl_diffusion.training.recipe import Recipe

__all__ = ["check_batches", "check_recipe"]

_log = logging.getLogger(__name__)


def check_recipe(recipe: Recipe) -> None:
    """Refuse settings that cannot be trained here, before anything is read or written."""
    t = recipe.training
    if t.objective in PRETRAINING_ONLY and not recipe.pretraining.steps:
        raise no_pretraining(t.objective)
    if t.objective in PRETRAINING_ONLY and t.consistency != "none":
        raise RecipeError(f"consistency {t.consistency!r} needs training steps, but objective {t.objective!r} has none")
    if t.objective == "joint" and t.head_start == "probe" and recipe.model.head_width:
        raise RecipeError(
            "training.head_start = 'probe' needs a linear head: set model.head_width to 0, or head_start to 'zero'"
        )
    if t.class_weights != "none" and t.thresholds != "none":
        raise RecipeError("training.class_weights and training.thresholds both make classes equal: set one of them to 'none'")
    if t.objective == "denoise-only" and (t.class_weights, t.thresholds) != ("none", "none"):
        raise RecipeError(
            "objective 'denoise-only' has no classifier: leave out training.class_weights and training.thresholds"
        )
    if recipe.data.stream and recipe.compute.devices > 1:
        raise RecipeError("--stream feeds one device: leave out --devices, or --stream, so that the shards are decoded once")
    fit_backbone(recipe)
    resolve_accelerator(recipe.compute.accelerator)
    check_divisible([recipe.pretraining.batch_size], recipe.compute.devices)
    unlabeled = [t.unlabeled_batch_size] if t.consistency != "none" else []
    check_divisible([t.batch_size, t.labeled_batch_size, *unlabeled], recipe.compute.devices)


def check_batches(recipe: Recipe, pool: Pool) -> None:
    """Refuse batches that cannot fit into the memory of this machine; say if they are larger than the pool."""
    sizes = {"training.batch_size": recipe.training.batch_size}
    if recipe.pretraining.steps:
        sizes["pretraining.batch_size"] = recipe.pretraining.batch_size
    there = memory_bytes()
    _, height, width = pool.image_shape
    for name, size in sizes.items():
        # The first layer's outputs and their gradients: less than a tenth of what a step takes.
        least = 2 * 4 * size * recipe.model.channels * (height // recipe.model.stem) * (width // recipe.model.stem)
        if there and least > there * recipe.compute.devices and resolve_accelerator(recipe.compute.accelerator) == "cpu":
            raise RecipeError(
                f"{name} = {size} needs more than {least / 2**30:.0f} GiB of memory, of which this machine has "
                f"{there / 2**30:.0f}; take smaller batches"
            )
        if size > len(pool.train):
            _log.warning("%s = %d is more than the %d training images: some come twice a step", name, size, len(pool.train))
