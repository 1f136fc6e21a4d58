"""What a fit says after its first steps: how long it will take.

The steps of the running phase are timed while they are taken, which costs nothing. What a step of the training will take while
the pretraining still runs follows from the operations that both need, counted on two images. What a backbone will take is
measured on a few images, once.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch.utils.flop_counter import FlopCounterMode

from ssl_diffusion.models.build import build_model
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.training.batches import BatchSampler, Phase
from ssl_diffusion.training.clocks import BUSY, StepClock, StepTimes, slowdown
from ssl_diffusion.training.loop import make_objective
from ssl_diffusion.training.objective import TrainingBatch
from ssl_diffusion.training.reading import Reading

__all__ = ["Announcement", "brief", "spoken", "step_operations"]

_log = logging.getLogger(__name__)
_WARM_UP, _TIMED = 2, 8  # steps; the first choose kernels
_PATIENCE, _FEW = 5.0, 2  # seconds after which so few timed steps are enough
_WORTH_SAYING = 30.0  # seconds
_BATCHES = 3  # that a backbone reads, which are timed


class Announcement:
    """Progress callback that logs, once, how long the phases of a fit will take, and passes everything on.

    Args:
        phases: Phases of the fit that may be run, in their order; the first of them that reports is the one that is timed.
        show: Callback that everything is passed on to; None passes nothing on.
        reading: Function that measures what a backbone has to read (:func:`ssl_diffusion.training.reading.reading_of`); None
            without a backbone.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        show: ProgressCallback | None,
        reading: Callable[[], Reading | None] | None = None,
    ) -> None:
        self._phases, self._show, self._reading = list(phases), show, reading
        self._clock, self._batches = StepClock(), StepClock()
        self._said = False

    def __call__(self, update: ProgressUpdate) -> None:
        """Pass an update on, and time the step that it reports."""
        if self._show is not None:
            self._show(update)
        there = [phase.name for phase in self._phases]
        if self._said:
            return
        if update.task == "backbone":
            self._time_reading(update)
        if update.task not in there:
            return
        if there[0] != update.task:  # what comes before is in the cache
            self._phases, self._clock = self._phases[there.index(update.task) :], StepClock()
        self._clock(update)
        if len(self._clock.readings) > _WARM_UP + 1:
            self._say(update, self._clock.times().after(_WARM_UP - 1))

    def _time_reading(self, update: ProgressUpdate) -> None:
        """A backbone reads before any step: the denoiser is in the cache, and a training is announced by itself."""
        self._batches(update)
        n = len(self._batches.readings)
        if n != _BATCHES + 1:
            return
        times = self._batches.times()
        seconds = times.seconds() * slowdown(times) * (update.total - update.done) / (update.done / n)
        if seconds >= _WORTH_SAYING:
            _log.info("about %s on this machine: reading %s images with the backbone", spoken(seconds), f"{update.total:,}")

    def _say(self, update: ProgressUpdate, times: StepTimes) -> None:
        if len(times.wall) < (_FEW if times.wall.sum() > _PATIENCE else _TIMED):
            return
        self._said = True
        now, *later = self._phases
        alone, slower = now.settings.steps * (1 - update.done / update.total) * times.seconds(), slowdown(times)
        parts = [(f"{now.settings.steps} {now.name} steps", alone)]
        each = times.seconds() / step_operations(now) if later else 0.0
        parts += [
            (f"{phase.settings.steps} {phase.name} steps", phase.settings.steps * step_operations(phase) * each)
            for phase in later
        ]
        reading = self._reading() if self._reading is not None and now.name == "pretraining" else None
        if reading is not None:
            parts.insert(0, (str(reading), reading.seconds))
        alone = sum(seconds for _, seconds in parts)
        if alone * slower < _WORTH_SAYING:
            return
        words = ", ".join(f"{what} {brief(seconds * slower)}" for what, seconds in parts) if len(parts) > 1 else parts[0][0]
        busy = f"; {spoken(alone)} if no other program were running" if slower >= BUSY else ""
        _log.info("about %s on this machine: %s%s", spoken(alone * slower), words, busy)


def step_operations(phase: Phase) -> float:
    """Floating-point operations of one step, those of its matrix products and convolutions, counted on two images of each term.

    Args:
        phase: Phase to count for.

    Example:
        >>> step_operations(pretraining) / step_operations(training)
    """
    sizes = {name: 2 for name in ("batch_size", "labeled_batch_size", "unlabeled_batch_size") if hasattr(phase.settings, name)}
    small = replace(phase, settings=phase.settings.replace(**sizes), data=phase.data.standing_in())
    model = build_model(phase.config, seed=0)
    objective, batch = make_objective(small, model, model), BatchSampler(small, model.noise)(0)

    def count(part: TrainingBatch) -> float:
        with FlopCounterMode(display=False) as counter:
            objective(part)["loss"].backward()
        return float(counter.get_total_flops()) / 2

    operations = 0.0
    if batch.denoising is not None:
        operations += phase.denoising_batch_size * count(TrainingBatch(denoising=batch.denoising))
    if batch.labeled is not None:
        labeled = count(TrainingBatch(labeled=batch.labeled))
        operations += phase.labeled_batch_size * labeled
        if batch.unlabeled is not None:
            both = count(TrainingBatch(labeled=batch.labeled, unlabeled=batch.unlabeled))
            operations += phase.unlabeled_batch_size * (both - labeled)
    return operations


def spoken(seconds: float) -> str:
    """A duration in one unit, as people say it.

    Args:
        seconds: Duration in seconds.

    Example:
        >>> spoken(840.0), spoken(5400.0)
        ('14 minutes', '1.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def brief(seconds: float) -> str:
    """A duration in one unit, as a part of others.

    Args:
        seconds: Duration in seconds.

    Example:
        >>> brief(35.2), brief(240.0), brief(5400.0)
        ('35 s', '4 min', '1.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
