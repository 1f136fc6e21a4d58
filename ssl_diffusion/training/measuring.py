"""Time of a training step, from a few of them that are run for it and thrown away."""

from dataclasses import replace

import numpy as np

from ssl_diffusion.machine import Device
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.clocks import StepClock, StepTimes
from ssl_diffusion.training.loop import train

__all__ = ["time_steps"]

_WARM_UP, _FEW, _TIMED = 2, 2, 8  # few enough for a row of history each
_LONG = 0.5  # seconds; of steps that take longer a few are enough


def time_steps(job: Phase) -> StepTimes:
    """Run a few steps of a phase from its beginning, and throw them away.

    The first steps, in which kernels are chosen, are left out.

    Args:
        job: Phase to measure.
    """
    job = replace(job, data=job.data.standing_in())
    times = _timed(job, _FEW)
    return times if times.wall.mean() > _LONG else _timed(job, _TIMED)


def _timed(job: Phase, steps: int) -> StepTimes:
    clock = StepClock()
    history = train(replace(job, settings=job.settings.replace(steps=_WARM_UP + steps)), clock).history
    on_processor = Device.resolve(job.compute.accelerator, job.compute.precision).accelerator == "cpu"
    if on_processor and job.compute.devices == 1:
        return clock.times().after(_WARM_UP - 1)
    wall = np.diff([row["seconds"] for row in history])[_WARM_UP - 1 :]
    return StepTimes(wall, wall)
