"""A phase that has to end on time: its number of steps is planned again while it runs.

What a step will take is measured before the fit; then another program begins to use the processor, or ends. After every eighth
of the learning rate's fall, or of the time that was planned, the steps since the last such mark say how fast the machine is
now, and the time that is left how many steps it will still take. The learning rate is stretched or shortened to them
(:mod:`ssl_diffusion.training.schedule`). A run that is continued after an interruption keeps the number of steps that was
planned last, which its checkpoint holds: it has no time to be on.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ssl_diffusion.training.schedule import Schedule

__all__ = ["Pace"]

_log = logging.getLogger(__name__)
_MARKS = 8  # parts of a phase between which it is planned again
_SAME, _LITTLE = 0.1, 0.02  # of the steps that are left, and of all: a plan that is this close to either is kept
_WARM_UP = 2  # steps, in which kernels are chosen
_FEW, _LONG = 5, 5.0  # steps since a mark that say how fast the machine is, or seconds, whichever comes first


@dataclass
class Pace:
    """Says after a step how many steps a phase will have, see :attr:`ssl_diffusion.training.batches.Phase.pace`.

    Args:
        name: Name of the phase.
        ends: Time at which the fit is over, on `clock`.
        per_step: Seconds of a step as they were planned.
        later: Seconds of the steps after the phase, as they were planned.
        reserve: Seconds that are kept for what follows the steps, as they were planned.
        noted: Function that is told what has changed, as plain values.
        clock: Clock, in seconds.
    """

    name: str
    ends: float
    per_step: float
    later: float
    reserve: float
    noted: Callable[[dict[str, Any]], None]
    clock: Callable[[], float] = time.monotonic
    _since: tuple[int, float] | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _calls: int = field(default=0, init=False)
    _part: int = field(default=0, init=False)

    def __call__(self, step: int, schedule: Schedule) -> int:
        """Number of steps of the phase from now on; 0 leaves the schedule as it is.

        Args:
            step: Number of steps that have been taken.
            schedule: Schedule that was followed until now.
        """
        now, self._calls = self.clock(), self._calls + 1
        if self._since is None:
            self._since, self._began = ((step, now), now) if self._calls >= _WARM_UP else (None, now)
            return 0
        at, then = self._since
        progress = schedule.progress(step)
        part = math.floor(_MARKS * max(progress, (now - self._began) / (schedule.settings.steps * self.per_step)))
        if part <= self._part or progress < 0 or step == schedule.steps or (step - at < _FEW and now - then < _LONG):
            return 0
        self._since, self._part = (step, now), part
        seconds, left = (now - then) / (step - at), schedule.steps - step
        slower = seconds / self.per_step
        rest = (1 - progress) * schedule.settings.steps * self.per_step  # as planned, like what comes later
        time_left = max(0.0, self.ends - now - slower * self.reserve) * rest / (rest + self.later)
        least = math.ceil(schedule.settings.ema * schedule.settings.steps)  # or the average is of high learning rates
        steps = max(min(least, left), int(time_left / max(seconds, 1e-9)))
        if abs(steps - left) < max(_SAME * left, _LITTLE * schedule.steps):
            return 0
        self.noted({"during": self.name, "at": step, "pace": round(slower, 2), "steps": step + steps})
        _log.info(
            "after %d %s steps, which take %.2f times as long as planned: %d steps instead of %d",
            step,
            self.name,
            slower,
            step + steps,
            schedule.steps,
        )
        return step + steps
