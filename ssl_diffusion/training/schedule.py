r"""The learning rate of a phase, whose number of steps may be planned again while it runs.

It rises linearly in the warm-up, and then falls with half a cosine of the progress v, from v = 0 at the end of the warm-up to
v = 1 at the last step. Where the number of steps is planned again at step s, with progress :math:`v_s`, the rest is stretched
or shortened to the new number of steps T,

.. math::
    v(t) = v_s + (1 - v_s) \frac{t - s}{T - s} ,

so that the learning rate goes on from where it is, and still falls to zero at the last step.
"""

import math
from dataclasses import dataclass, replace

from ssl_diffusion.training.settings import PhaseSettings

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Number of steps and learning rates of a phase.

    Attributes:
        settings: Settings of the phase.
        replanned: Steps at which the number of steps was planned again, each followed by the number from there on; see
            :attr:`PhaseSettings.replanned`.
    """

    settings: PhaseSettings
    replanned: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Number of steps of the phase, as it is planned now."""
        return self.replanned[-1] if self.replanned else self.settings.steps

    @property
    def warmup(self) -> int:
        """Number of steps in which the learning rate rises, at least 1."""
        return max(1, round(self.settings.warmup * self.settings.steps))

    def progress(self, step: int) -> float:
        """Progress of the fall before a step, which is counted from 0; negative in the warm-up, and 1 after the last step."""
        done, since, end = 0.0, self.warmup, max(self.warmup + 1, self.settings.steps)
        for at, steps in zip(self.replanned[::2], self.replanned[1::2], strict=True):
            if step < at:
                break
            done, since, end = done + (1 - done) * (at - since) / (end - since), at, steps
        return done + (1 - done) * (step - since) / (end - since)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        s, warmup = self.settings, self.warmup
        if step < warmup:
            return s.learning_rate * (step + 1) / warmup
        return s.learning_rate * 0.5 * (1 + math.cos(math.pi * self.progress(step)))

    def again(self, step: int, steps: int) -> "Schedule":
        """The schedule with another number of steps.

        Args:
            step: Number of steps that have been taken.
            steps: Number of steps in all, at least one more.
        """
        return replace(self, replanned=(*self.replanned, step, steps))
