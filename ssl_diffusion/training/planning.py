"""Numbers of steps that fit into a given time: measured on this machine, for this pool and recipe, just before the fit.

The learning rate falls to zero at the last step, so a schedule has to know its length in advance; stopping a longer one when
the time is up would waste its best part. The training's steps are planned once more when the pretraining is over, from the time
that is really left, and either phase while it runs, where the machine has become faster or slower
(:mod:`ssl_diffusion.training.pace`). The recipe of the run says what was done to the end, so that the run can be repeated.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.machine import Device
from ssl_diffusion.models.build import build_model
from ssl_diffusion.settings import Seconds, bounds, shown
from ssl_diffusion.training.announcement import brief
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.clocks import BUSY, slowdown
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.measuring import time_steps
from ssl_diffusion.training.pace import Pace
from ssl_diffusion.training.phases import PRETRAINING_ONLY, as_probe, pretraining_job, training_job
from ssl_diffusion.training.reading import Reading, reading_of
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.schedule import Schedule
from ssl_diffusion.training.settings import PhaseSettings

__all__ = ["ENOUGH_STEPS", "LEAST_STEPS", "TimePlan", "parse_duration", "plan_for_time", "time_plan"]

_log = logging.getLogger(__name__)
_SECONDS_TO_START = 3.0  # weights, first steps, checkpoints and pictures
_SAME = 0.1  # of the steps: a plan that is this close is kept

LEAST_STEPS = 50
"""Training steps below which the probe is nearly always better (benchmarks/README.md)."""
ENOUGH_STEPS = 200
"""Training steps from which on joint training is better on some data, and on other never (benchmarks/README.md)."""


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


@dataclass(frozen=True)
class TimePlan:
    """Steps of a fit that takes a given time.

    Attributes:
        recipe: Recipe with the steps.
        seconds: Time for the whole fit.
        ends: Time at which it is over, on the clock of :func:`time.monotonic`.
        per_step: Seconds of a training step at the time of planning; 0 without training.
        per_pretraining_step: Seconds of a pretraining step at the time of planning; 0 without pretraining.
        reserve: Seconds kept for the evaluation and for what a backbone reads after the pretraining.
        slowdown: Ratio of these seconds to those that a quiet machine takes.
        revisions: Plans that have taken the place of the first one.
        may_probe: Whether the probe may take the place of joint training that would be too short.
        to_read: Seconds for all that a backbone reads, and those of them in the reserve.
    """

    recipe: Recipe
    seconds: float
    ends: float
    per_step: float
    per_pretraining_step: float
    reserve: float
    slowdown: float = 1.0
    revisions: list[dict[str, Any]] = field(default_factory=list, compare=False)
    may_probe: bool = False
    to_read: tuple[float, float] = (0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded, for plan.json and the metrics."""
        return {
            "seconds": self.seconds,
            "objective": self.recipe.training.objective,
            "pretraining_steps": self.recipe.pretraining.steps,
            "training_steps": self.recipe.training.steps,
            "seconds_per_pretraining_step": round(self.per_pretraining_step, 4),
            "seconds_per_step": round(self.per_step, 4),
            "seconds_to_read": round(self.to_read[0], 1),
            "seconds_to_evaluate": round(self.reserve - self.to_read[1], 1),
            "slowdown": round(self.slowdown, 2),
            "revisions": self.revisions,
        }

    def pace(self, name: str, noted: Callable[[], None]) -> Pace:
        """What plans the steps of a phase again while it runs.

        Args:
            name: Name of the phase, "pretraining" or "training".
            noted: Function that is called when it has, after the plan has taken note.
        """

        def note(facts: dict[str, Any]) -> None:
            self.revisions.append(facts)
            noted()

        if name == "training":
            return Pace(name, self.ends, self.per_step, 0.0, self.reserve, note)
        later = self.per_step * self.recipe.training.steps
        return Pace(name, self.ends, self.per_pretraining_step, later, self.reserve, note)

    def after_pretraining(self, history: Sequence[Mapping[str, Any]]) -> Recipe:
        """The recipe with as many training steps as the time allows that is left when the pretraining is over.

        A plan that differs by less than a tenth is kept.

        Args:
            history: Rows of the pretraining; empty if the denoiser came from the cache. Its last quarter says whether the
                machine has become faster or slower.
        """
        recipe = self.recipe
        if not self.per_step:
            return recipe
        pace = _late_seconds_per_step(history) / self.per_pretraining_step if len(history) > 1 else 1.0
        left = self.ends - time.monotonic() - self.reserve * pace
        steps = int(left / (self.per_step * pace))
        if abs(steps - recipe.training.steps) < _SAME * recipe.training.steps:
            return recipe
        facts = {"after": "pretraining", "pace": round(pace, 2), "seconds_left": round(left, 1)}
        if self.may_probe and recipe.training.objective == "joint" and steps < LEAST_STEPS <= recipe.training.steps:
            self.revisions.append({**facts, "objective": "probe"})
            _log.warning(
                "the pretraining has left %.0f s, which are too short for joint training, so the probe is taken", max(0.0, left)
            )
            return as_probe(recipe)
        steps = max(1, steps)
        self.revisions.append({**facts, "training_steps": steps})
        _log.info(
            "the pretraining has left %.0f s, and steps take %.1f times as long as planned: %d training steps instead of %d",
            max(0.0, left),
            pace,
            steps,
            recipe.training.steps,
        )
        return recipe.replace(training=recipe.training.replace(steps=steps, replanned=()))


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
    """Choose the numbers of steps so that a fit takes a given time, evaluation included; see :func:`time_plan`.

    Example:
        >>> recipe, labeled = load_recipe("digits"), choose_labeled(pool, 40, seed=0)
        >>> recipe = plan_for_time(recipe, pool, labeled, pool.fingerprint(), parse_duration("10m"), None)
    """
    return time_plan(recipe, pool, labeled, fingerprint, seconds, cache, began=began).recipe


def time_plan(
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet | None,
    fingerprint: str,
    seconds: float,
    cache: DenoiserCache | None,
    *,
    began: float | None = None,
    may_probe: bool = False,
) -> TimePlan:
    """Plan the numbers of steps so that a fit takes a given time by the clock on the wall, evaluation included.

    The steps of both phases are scaled by the same factor. If the cache holds a denoiser of the same pool and network with at
    least half of the pretraining steps that would be planned, it is used as it is (the one with the most steps, if there are
    several), and all the time is left to the training.

    What a backbone has to read, which the cache does not have, is taken off that time first
    (:mod:`ssl_diffusion.training.reading`); a backbone that "auto" would take is left out where no time would be left for the
    denoiser.

    What a step takes is its processor time, times a slowdown that all measured steps share: how much longer they took than
    their processor time, because other programs use the processor, too.

    Args:
        recipe: Resolved settings.
        pool: Images and labels.
        labeled: Labels to use; None without labels.
        fingerprint: Fingerprint of the pool.
        seconds: Time for the whole fit, in seconds.
        cache: Cache of pretrained denoisers; None plans without one.
        began: Start of that time, from :func:`time.monotonic`; None is now.
        may_probe: Whether the objective "probe" takes the place of "joint" where the time is too short for joint training to
            pay; otherwise that is a warning.

    Returns:
        The recipe with these numbers of steps, and what they were planned from.

    Raises:
        RecipeError: If the time is too short for a single step.

    Example:
        >>> recipe, labeled = load_recipe("digits"), choose_labeled(pool, 40, seed=0)
        >>> plan = time_plan(recipe, pool, labeled, pool.fingerprint(), parse_duration("10m"), None)
        >>> plan.recipe.training.steps
    """
    began = time.monotonic() if began is None else began
    training = training_job(recipe, pool, labeled)
    pretraining = pretraining_job(recipe, training, fingerprint)
    trains = recipe.training.steps > 0 and training.objective not in PRETRAINING_ONLY
    per_step, per_pretraining_step, slower = _seconds_per_step(training if trains else None, pretraining)
    evaluation = _seconds_to_evaluate(training, pool) + _SECONDS_TO_START
    cached = cache.longest(pretraining.family, recipe.pretraining) if cache and pretraining is not None else None
    costs = _Costs(per_step, per_pretraining_step, cached)

    def without_reading(recipe: Recipe) -> tuple[Recipe, Reading | None, float]:
        """The recipe, what its backbone reads, and the seconds that are left for the steps."""
        reading = reading_of(recipe, pool, labeled, training.view, cache.folder.parent if cache is not None else None)
        left = seconds - evaluation - (reading.seconds * slower if reading is not None else 0.0) - (time.monotonic() - began)
        if reading is None or recipe.backbone.name != "auto" or left >= per_pretraining_step:
            return recipe, reading, left
        _log.warning("%s takes %s, so it is left out", reading, brief(reading.seconds * slower))
        return without_reading(recipe.with_setting("backbone.name", "none"))

    recipe, reading, left = without_reading(recipe)
    planned = costs.stretched(recipe, left)
    if trains and planned.training.steps < ENOUGH_STEPS <= recipe.training.steps:
        minutes = math.ceil((seconds - left + costs.seconds_until(recipe, ENOUGH_STEPS)) / 60)
        too_few = planned.training.steps < LEAST_STEPS
        if may_probe and too_few and recipe.training.objective == "joint" and pretraining is not None:
            trains, costs = False, replace(costs, per_step=0.0)
            recipe, reading, left = without_reading(as_probe(recipe))
            planned = costs.stretched(recipe, left)
            _log.warning(
                "%g s are too short for joint training, so the probe is taken, logistic regression on the denoiser: "
                "joint training needs about %d minutes here, and is better on some data: --time %dm",
                seconds,
                minutes,
                minutes,
            )
        elif planned.training.steps >= 1:
            _log.warning(
                "%g s allow %d training steps, and with fewer than %d the probe is often as good: give --time %dm, or use "
                "--objective probe",
                seconds,
                planned.training.steps,
                ENOUGH_STEPS,
                minutes,
            )
    to_read = (reading.seconds * slower, reading.later * reading.per_image * slower) if reading is not None else (0.0, 0.0)
    if (trains and planned.training.steps < 1) or (pretraining is not None and planned.pretraining.steps < 1):
        least = math.ceil(seconds - left + per_step * trains + per_pretraining_step)
        of_them = f", {math.ceil(to_read[0])} s of them {reading}" if reading is not None else ""
        raise RecipeError(
            f"{seconds:g} s are too short: reading, measuring, one step and the evaluation take {least} s{of_them}"
        )
    if slower >= BUSY:
        _log.warning(
            "other programs keep this machine busy: a step takes %.1f times as long as alone, and the plan is for that%s",
            slower,
            "; the training is planned again after the pretraining" if trains and pretraining is not None else "",
        )
    parts = [f"{reading} {brief(to_read[0])}"] if reading is not None else []
    for name, n, each in (
        ("pretraining", planned.pretraining.steps, per_pretraining_step),
        ("training", planned.training.steps, costs.per_step),
    ):
        parts += [f"{n} {name} steps {brief(n * each)}"] if each else []
    _log.info("%g s: %s, %s to evaluate", seconds, ", ".join(parts), brief(evaluation))
    return TimePlan(
        planned,
        seconds,
        began + seconds,
        costs.per_step,
        per_pretraining_step,
        evaluation + to_read[1],
        slower,
        may_probe=may_probe,
        to_read=to_read,
    )


@dataclass(frozen=True)
class _Costs:
    """What the phases of a fit cost: seconds of their steps (0 for a phase that it has not), and the pretraining of the longest
    denoiser in the cache, if there is one."""

    per_step: float
    per_pretraining_step: float
    longest: PhaseSettings | None

    @property
    def cached(self) -> int:
        """Pretraining steps of the longest denoiser in the cache."""
        return 0 if self.longest is None else Schedule(self.longest, self.longest.replanned).steps

    def stretched(self, recipe: Recipe, seconds: float) -> Recipe:
        """The recipe with the steps of both phases scaled by one factor, so that they take a time; or with those of the
        denoiser in the cache, if these are at least half of that, and all of the time left to the training."""
        stretch = max(0.0, seconds) / self._seconds(recipe) if self._seconds(recipe) else 0.0
        steps = int(recipe.training.steps * stretch)
        pretraining = recipe.pretraining.replace(steps=int(recipe.pretraining.steps * stretch), replanned=())
        if self.longest is not None and self.per_pretraining_step and self.cached >= max(1.0, pretraining.steps / 2):
            steps, pretraining = int(seconds / self.per_step) if self.per_step else 0, self.longest
        if self.per_step:
            recipe = recipe.replace(training=recipe.training.replace(steps=max(0, steps), replanned=()))
        if self.per_pretraining_step:
            recipe = recipe.replace(pretraining=pretraining)
        return recipe

    def seconds_until(self, recipe: Recipe, steps: int) -> float:
        """Seconds of both phases from which on so many training steps are planned."""
        stretch = steps / recipe.training.steps
        if self.cached >= max(1.0, recipe.pretraining.steps * stretch / 2):
            return steps * self.per_step
        return self._seconds(recipe) * stretch

    def _seconds(self, recipe: Recipe) -> float:
        return recipe.pretraining.steps * self.per_pretraining_step + recipe.training.steps * self.per_step


def _seconds_per_step(training: Phase | None, pretraining: Phase | None) -> tuple[float, float, float]:
    """Seconds of a training step and of a pretraining step as the machine is now, 0 for a phase that is None, and how many
    times those of a quiet machine they are."""
    times = [time_steps(job) if job is not None else None for job in (training, pretraining)]
    slower = slowdown(*(t for t in times if t is not None)) if any(times) else 1.0
    per_step, per_pretraining_step = (slower * t.seconds() if t is not None else 0.0 for t in times)
    return per_step, per_pretraining_step, slower


def _late_seconds_per_step(history: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of a step in the last quarter of a phase, from its history of two rows or more."""
    first, last = history[min(len(history) * 3 // 4, len(history) - 2)], history[-1]
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


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
