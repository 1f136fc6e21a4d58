"""Time on this machine: by the clock on the wall, and on the processor alone.

On a processor that other programs use as well, a step takes longer than its own work does. The processor time of the thread
that trains is free of theirs; it says what a step takes on a quiet machine, and the ratio of both clocks how busy this one is.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.progress import ProgressUpdate

__all__ = ["BUSY", "Clocks", "StepClock", "StepTimes", "slowdown"]

_LEAST = 1e-4  # seconds

BUSY = 1.5
"""Slowdown from which on other programs are worth a word."""


class Clocks(NamedTuple):
    """Seconds by three clocks.

    Attributes:
        wall: Clock on the wall.
        thread: Processor time of this thread.
        process: Processor time of the process.
    """

    wall: float
    thread: float
    process: float

    @classmethod
    def now(cls) -> "Clocks":
        """What they show now."""
        return cls(time.monotonic(), time.thread_time(), time.process_time())

    def alone(self) -> float:
        """Seconds that a quiet machine would have taken, if these are differences of two readings."""
        # The thread that trains computes whenever another one does, unless it waits for starved ones.
        return min(self.wall, max(self.thread, self.process / torch.get_num_threads()))


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
        readings: Readings of the clocks, in order.
    """

    readings: list[Clocks] = field(default_factory=list)

    def __call__(self, update: ProgressUpdate) -> None:
        """Read the clocks."""
        self.readings.append(Clocks.now())

    def times(self) -> StepTimes:
        """Times between the readings."""
        steps = [Clocks(*row) for row in np.diff(np.array(self.readings), axis=0).tolist()]
        return StepTimes(np.array([step.wall for step in steps]), np.array([step.alone() for step in steps]))


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


def _middle_mean(values: NDArray[np.float64]) -> float:
    """Mean without the largest and the smallest quarter."""
    ordered = np.sort(values)
    return float(ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4].mean())
