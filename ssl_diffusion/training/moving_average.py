"""The moving average of a model's weights, which is the model to use after training."""

import copy

import torch
from torch import Tensor

from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["MovingAverage"]


class MovingAverage:
    r"""Exponential moving average of a model's parameters.

    After step s = 0, 1, ... the average moves towards the weights by :math:`1 - \beta_s` with
    :math:`\beta_s = \min(1 - 1/h, (1 + s) / (10 + s))`: in the first steps the horizon is shorter, so that the random first
    weights are forgotten.

    Args:
        model: Model to follow.
        horizon: Number of steps h that the average reaches back; 1 is used for less.
        device: Device of the average.

    Attributes:
        model: Copy of the model with the averaged parameters, in evaluation mode.
        weights: Parameters of the average, in the order of `model.parameters()`.
    """

    def __init__(self, model: JointDiffusion, horizon: float, device: torch.device) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval().to(device)
        self.weights: list[Tensor] = [p.detach() for p in self.model.parameters()]
        self._followed = list(model.parameters())
        self._beta = 1 - 1 / max(1.0, horizon)

    def update(self, step: int) -> None:
        """Move the average after a step, counted from 0."""
        beta = min(self._beta, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [p.detach() for p in self._followed], 1 - beta)
