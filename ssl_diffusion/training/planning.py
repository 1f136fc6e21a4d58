"""Number of steps that fit into a given time: measured on this machine, for this pool and recipe, just before the fit.

The learning rate falls to zero at the last step, so a schedule has to know its length in advance; stopping a longer one when
the time is up would waste its best part.
"""

import logging
import math
import re
import time
from dataclasses import replace

import numpy as np

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.machine import Device
from ssl_diffusion.models.build import build_model
from ssl_diffusion.settings import Seconds, bounds, shown
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.phases import PRETRAINING_ONLY, pretraining_job, training_job
from ssl_diffusion.training.recipe import Recipe

__all__ = ["parse_duration", "plan_for_time"]

_log = logging.getLogger(__name__)
_WARM_UP, _TIMED = 2, 8  # few enough for a row of history each
_LEAST_STEPS = 200  # of training; with fewer the probe is often better (benchmarks/README.md)
_SECONDS_TO_START = 3.0  # weights, first steps, checkpoints and pictures


def parse_duration(text: str) -> float:
    """Convert a duration to seconds.

    Args:
        text: Duration such as "90", "90s", "10m", "1.5h" or "1h30m".

    Returns:
        Duration in seconds, above 0 and at most a year.

    Raises:
        RecipeError: If the text is no such duration.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower())
    numbers = [float(p or 0) for p in parts.groups()] if parts else []
    seconds = sum(n * unit for n, unit in zip(numbers, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise RecipeError(f"a time is given as 90s, 10m, 1.5h or 1h30m, not {shown(text)}")
    if seconds > (longest := bounds(Seconds)[1]):
        raise RecipeError(f"a time is at most a year ({longest / 3600:.0f}h), not {shown(text)}")
    return seconds


def plan_for_time(
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet | None,
    fingerprint: str,
    seconds: float,
    cache: DenoiserCache | None,
    *,
    began: float | None = None,
) -> Recipe:
    """Choose the numbers of steps so that a fit takes a given time, evaluation included.

    The steps of both phases are scaled by the same factor. If the cache holds a denoiser of the same pool and network with at
    least half of the pretraining steps that would be planned, it is used as it is (the one with the most steps, if there are
    several), and all the time is left to the training.

    Args:
        recipe: Resolved settings.
        pool: Images and labels.
        labeled: Labels to use; None without labels.
        fingerprint: Fingerprint of the pool.
        seconds: Time for the whole fit, in seconds.
        cache: Cache of pretrained denoisers; None plans without one.
        began: Start of that time, from :func:`time.monotonic`; None is now.

    Returns:
        The recipe with these numbers of steps.

    Raises:
        RecipeError: If the time is too short for a single step.

    Example:
        >>> recipe, labeled = load_recipe("digits"), choose_labeled(pool, 40, seed=0)
        >>> recipe = plan_for_time(recipe, pool, labeled, pool.fingerprint(), parse_duration("10m"), None)
    """
    began = time.monotonic() if began is None else began
    training = training_job(recipe, pool, labeled)
    pretraining = pretraining_job(recipe, training, fingerprint)
    trains = recipe.training.steps > 0 and training.objective not in PRETRAINING_ONLY
    per_step = _seconds_per_step(training) if trains else 0.0
    per_pretraining_step = _seconds_per_step(pretraining) if pretraining else 0.0
    reserve = _seconds_to_evaluate(training, pool) + _SECONDS_TO_START
    left = seconds - reserve - (time.monotonic() - began)
    wanted = recipe.pretraining.steps * per_pretraining_step + recipe.training.steps * per_step
    stretch = max(0.0, left) / wanted if wanted else 0.0
    steps, pretraining_steps = int(recipe.training.steps * stretch), int(recipe.pretraining.steps * stretch)
    if pretraining is not None:
        cached = cache.steps_of(pretraining.family) if cache else []
        if cached and max(cached) >= pretraining_steps / 2:
            pretraining_steps = max(cached)
            steps = int(left / per_step) if trains else recipe.training.steps
    if (trains and steps < 1) or (pretraining is not None and pretraining_steps < 1):
        least = math.ceil(seconds - left + per_step + per_pretraining_step)
        raise RecipeError(f"{seconds:g} s are too short: reading, measuring, one step and the evaluation take {least} s")
    if trains and steps < _LEAST_STEPS <= recipe.training.steps:
        _log.warning(
            "%g s allow %d training steps, and fewer than %d seldom pay: give --time %dm, or use --objective probe",
            seconds,
            steps,
            _LEAST_STEPS,
            math.ceil((seconds + (seconds - reserve) * (_LEAST_STEPS / max(1, steps) - 1)) / 60),
        )
    if trains:
        recipe = recipe.replace(training=recipe.training.replace(steps=steps))
    if pretraining is not None:
        recipe = recipe.replace(pretraining=recipe.pretraining.replace(steps=pretraining_steps))
    _log.info(
        "%g s: %d pretraining steps of %.0f ms, %d training steps of %.0f ms, %.0f s to evaluate",
        seconds,
        pretraining_steps if pretraining else 0,
        1e3 * per_pretraining_step,
        steps if trains else 0,
        1e3 * per_step,
        reserve,
    )
    return recipe


def _seconds_per_step(job: Phase) -> float:
    """Seconds per step of the training loop. The first steps, in which kernels are chosen, are left out, and so are the slowest
    and the fastest, because other programs disturb some."""
    history = train(replace(job, settings=job.settings.replace(steps=_WARM_UP + _TIMED))).history
    steps = np.sort(np.diff([row["seconds"] for row in history])[_WARM_UP - 1 :])
    return max(1e-4, float(steps[_TIMED // 4 : -_TIMED // 4].mean()))


def _seconds_to_evaluate(job: Phase, pool: Pool) -> float:
    """Seconds that predicting the test split takes, estimated from a few training images."""
    n = len(pool.test) if job.config.n_classes else 0
    if not n:
        return 0.0
    model = build_model(job.config, seed=0)
    device = Device.resolve(job.compute.accelerator, job.compute.precision)
    sample = np.resize(pool.train, min(512, n))  # not the test split: that is read once, at the end
    for _ in range(2):
        began = time.monotonic()
        predict_logits(model.to(device.accelerator), pool.images[sample], precision=device.precision)
        spent = time.monotonic() - began
    return spent * n / len(sample)
