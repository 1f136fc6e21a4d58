"""The denoiser that a fit begins with: from the cache, from where an interrupted run had come, or new."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from ssl_diffusion.errors import CheckpointError, RecipeError
from ssl_diffusion.models.build import weights_fault
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.conditions import Conditions
from ssl_diffusion.training.denoiser_cache import CachedDenoiser
from ssl_diffusion.training.fit_task import FitTask, Pretrained
from ssl_diffusion.training.loop import train

__all__ = ["no_pretraining", "pretrain"]

_log = logging.getLogger(__name__)


def pretrain(task: FitTask, phase: Phase) -> Pretrained:
    """The denoiser that a pretraining makes: the one that the run has used before, one from the cache, or a new one."""
    cache, key, settings = task.options.cache, phase.key, phase.settings
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
        own_length = phase.pace is not None or settings.replanned  # which nobody else could continue
        partial = cache.partial(key, begun) if cache is not None and not own_length else None
        if partial is not None and not partial.exists() and checkpoint is not None and checkpoint.exists():
            partial = None
        if partial is not None and now == begun:
            checkpoint = partial
        elif partial is not None and checkpoint is not None and partial.exists() and not checkpoint.exists():
            shutil.copyfile(partial, checkpoint)  # what other conditions make of it is not for others
        made_with = now.model_dump() if now == begun else None
        result = train(replace(phase, checkpoint=checkpoint), task.options.progress)
        denoiser = CachedDenoiser.from_result(result, phase.settings.steps, made_with)
        key = task.pretraining_key(denoiser.replanned)
        if cache is not None and not foreign:
            cache.store(key, denoiser, phase.family)
    facts = {"key": key, "cached": cached, "steps": denoiser.steps, "images_seen": denoiser.images_seen}
    facts |= {"seconds": round(denoiser.seconds, 1)}
    if denoiser.replanned:
        facts |= {"replanned": list(denoiser.replanned)}
    if own is not None:
        save_tensors(own, denoiser.weights, {"identity": phase.identity, "facts": facts, "history": denoiser.history})
    if cache is not None and not cached:
        cache.discard_partial(phase.key, begun)  # not before the run has its own
    return Pretrained(denoiser.weights, denoiser.history, facts)


def _is_foreign(task: FitTask, digest: str | None, denoiser: CachedDenoiser, begun: Conditions) -> bool:
    """Whether a denoiser has come into the cache since the run began, and is not what the run would have made itself."""
    if task.conditions is None or digest == task.conditions.denoiser or denoiser.made_with == begun.model_dump():
        return False
    _log.warning(
        "the denoiser in the cache was made since this run began, with other threads, device or precision: the run makes "
        "its own"
    )
    return True


def _load_own(path: Path, phase: Phase) -> Pretrained | None:
    """The denoiser that an interrupted run has used; None if it had none, or the file is damaged, which is a warning."""
    if not path.exists():
        return None
    try:
        weights, metadata = load_tensors(path)
        mine = metadata.get("identity", metadata["facts"]["key"]) == phase.identity
        if mine and not weights_fault(phase.config, weights, head=False):
            return Pretrained(weights, metadata["history"], metadata["facts"])
    except (CheckpointError, KeyError, TypeError) as error:
        _log.warning("the run's own denoiser is left out: %s", error)
    return None


def no_pretraining(objective: str) -> RecipeError:
    """The error of an objective that needs the pretraining, in a recipe without one."""
    return RecipeError(f"objective {objective!r} needs the pretraining phase, but pretraining.steps is 0")
