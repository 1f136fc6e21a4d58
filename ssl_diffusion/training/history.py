"""The history of a phase: mean losses, at evenly spaced steps."""

import math
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

__all__ = ["LossMeter", "is_recorded", "summary"]

_ROWS = 200  # rows of a phase, at most


def is_recorded(step: int, steps: int) -> bool:
    """Whether a step, counted from 0, gets a row: at most 200 evenly spaced ones do, the last step included."""
    rows = min(_ROWS, steps)
    return (step + 1) * rows // steps > step * rows // steps


def summary(history: list[dict[str, Any]]) -> str:
    """The losses of the last row in a few words, for progress reports; empty if there is no row."""
    if not history:
        return ""
    row = history[-1]
    short = {"denoising_loss": "denoising", "classification_loss": "classification", "labeled_accuracy": "accuracy"}
    return "  ".join(f"{label} {row[key]:.3f}" for key, label in short.items() if key in row)


class LossMeter:
    """Mean losses since the last row of the history, over all ranks.

    Args:
        fabric: Ranks to average over.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of a step, scalars by name."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._count += 1

    def means(self) -> dict[str, float]:
        """The means of what was added since the last call; all ranks must call it together."""
        means = {}
        for name, total in self._sums.items():
            mean = total / self._count
            if self._fabric.world_size > 1:
                mean = self._fabric.all_reduce(mean, reduce_op="mean")  # type: ignore[assignment]
            means[name] = float(mean)
        self._sums, self._count = {}, 0
        if "pseudo_known" in means:
            known, right = means.pop("pseudo_known"), means.pop("pseudo_right")
            means["pseudo_label_accuracy"] = right / known if known else math.nan
        return means
