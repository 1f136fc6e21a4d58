"""Time of a training step on this machine: by the clock on the wall, and on the processor alone.

On a processor that other programs use as well, a step takes longer than its own work does. The processor time of the thread
that trains is free of theirs; it says what a step takes on a quiet machine, and the ratio of both clocks how busy this one is.
"""

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.machine import Device
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.loop import train

__all__ = ["BUSY", "StepClock", "StepTimes", "slowdown", "time_steps"]

_WARM_UP, _FEW, _TIMED = 2, 2, 8  # few enough for a row of history each
_LONG = 0.5  # seconds; of steps that take longer a few are enough
_LEAST = 1e-4  # seconds

BUSY = 1.5
"""Slowdown from which on other programs are worth a word."""


@dataclass(frozen=True)
class StepTimes:
    """Times of consecutive steps.

    Attributes:
        wall: Seconds by the clock on the wall, float64, (n,).
        alone: Seconds that a quiet machine takes, float64, (n,), from the processor time; equal to `wall` on other devices, and
            on several, of which it says nothing.
    """

    wall: NDArray[np.float64]
    alone: NDArray[np.float64]

    def seconds(self) -> float:
        """Seconds that a step takes on a quiet machine. The slowest and the fastest steps are left out."""
        return max(_LEAST, _middle_mean(self.alone))

    def after(self, steps: int) -> "StepTimes":
        """The times without those of the first steps.

        Args:
            steps: Number of steps to leave out.
        """
        return StepTimes(self.wall[steps:], self.alone[steps:])


@dataclass
class StepClock:
    """Progress callback that reads the clocks whenever it is called, which the loop does after every step.

    Attributes:
        readings: Seconds by the clock on the wall, by that of the thread that trains, and by that of the process.
    """

    readings: list[tuple[float, float, float]] = field(default_factory=list)

    def __call__(self, update: ProgressUpdate) -> None:
        """Read the clocks."""
        self.readings.append((time.monotonic(), time.thread_time(), time.process_time()))

    def times(self) -> StepTimes:
        """Times between the readings."""
        wall, thread, process = np.diff(np.array(self.readings), axis=0).T
        # The thread that trains computes whenever another one does, unless it waits for starved ones.
        return StepTimes(wall, np.minimum(wall, np.maximum(thread, process / torch.get_num_threads())))


def time_steps(job: Phase) -> StepTimes:
    """Run a few steps of a phase from its beginning, and throw them away.

    The first steps, in which kernels are chosen, are left out.

    Args:
        job: Phase to measure.
    """
    times = _timed(job, _FEW)
    return times if times.wall.mean() > _LONG else _timed(job, _TIMED)


def slowdown(*times: StepTimes) -> float:
    """How many times as long as on a quiet machine steps take now; 1 or more.

    Args:
        times: Times of the steps of all phases that were measured. The quarters with the largest and with the smallest ratio
            are left out, because other programs disturb single steps.
    """
    wall, alone = (np.concatenate(parts) for parts in zip(*((t.wall, t.alone) for t in times), strict=True))
    if not len(wall):
        return 1.0
    order = np.argsort(wall / np.maximum(alone, _LEAST), kind="stable")
    middle = order[len(order) // 4 : len(order) - len(order) // 4]
    return max(1.0, float(wall[middle].sum() / max(_LEAST, alone[middle].sum())))


def _timed(job: Phase, steps: int) -> StepTimes:
    clock = StepClock()
    history = train(replace(job, settings=job.settings.replace(steps=_WARM_UP + steps)), clock).history
    on_processor = Device.resolve(job.compute.accelerator, job.compute.precision).accelerator == "cpu"
    if on_processor and job.compute.devices == 1:
        return clock.times().after(_WARM_UP - 1)
    wall = np.diff([row["seconds"] for row in history])[_WARM_UP - 1 :]
    return StepTimes(wall, wall)


def _middle_mean(values: NDArray[np.float64]) -> float:
    """Mean without the largest and the smallest quarter."""
    ordered = np.sort(values)
    return float(ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4].mean())
