r"""Group normalisation of maps in channels_last, with the conditioning in the same pass.

In channels_last torch's own kernel vectorises over the channels of one group. With four channels a group, as in a network of 64
channels and 16 groups, that takes up to six times as long as in NCHW; and larger groups cost accuracy where labels are few
(digits, 20 labels, probe: 88.8 % with 4 channels a group, 87.5 with 8, 87.2 with 16). So sums are taken per channel, which
vectorises whatever the groups are, and put together for the groups afterwards. With mean :math:`m` and inverse deviation
:math:`r` of a group, weight :math:`\gamma`, bias :math:`\beta`, and the scale :math:`s` and shift :math:`t` of FiLM (Perez et
al. 2018),

.. math::
    y = \bigl((x - m) r \gamma + \beta\bigr) (1 + s) + t = x A + D, \qquad
    A = r \gamma (1 + s), \quad D = \beta (1 + s) + t - m A

is one product and one sum a value. With the gradient :math:`g` of y, its sums :math:`S_1 = \sum g` and :math:`S_2 = \sum g x`
of a channel, and :math:`\hat S = (S_2 - m S_1) r`, the gradient with respect to x is

.. math::
    g A - r^2 t_2 x + (r^2 t_2 m - r t_1), \qquad
    t_1 = \frac1n \sum S_1 \gamma (1 + s), \quad t_2 = \frac1n \sum \hat S \gamma (1 + s)

with sums over the channels of a group of :math:`n` values.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssl_diffusion.models.settings import ModelSettings

__all__ = ["GroupNorm", "group_norm"]

_EPS = 1e-5


class GroupNorm(nn.GroupNorm):
    """Group normalisation of maps with learned weight and bias, then FiLM conditioning.

    Args:
        channels: Number of channels of the maps.
        settings: Architecture, for the number of groups; the largest common divisor with the channels is used.
    """

    def __init__(self, channels: int, settings: ModelSettings) -> None:
        super().__init__(math.gcd(settings.groups, channels), channels, eps=_EPS)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """The normalised map, (B, C, H, W), times 1 + scale, plus shift; both (B, C), or (1, C) for all, or None."""
        return group_norm(x, self.num_groups, self.weight, self.bias, scale, shift)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Group normalisation with conditioning, with epsilon 1e-5.

    Args:
        x: Maps, (B, C, H, W).
        groups: Number of groups, a divisor of C.
        weight: Factors of the normalised channels, (C,); None is ones.
        bias: Summands, (C,); None is zeros.
        scale: The result is multiplied by 1 + scale, (B, C) or (1, C); None is zeros.
        shift: And this is added, (B, C) or (1, C); None is zeros.

    Returns:
        Maps of the same shape, data type and memory format.
    """
    if x.device.type == "cpu":
        kind = torch.promote_types(x.dtype, torch.float32)
        one, zero, zeros = x.new_ones(1, dtype=kind), x.new_zeros(1, dtype=kind), x.new_zeros(1, 1, dtype=kind)
        result: Tensor = _GroupNorm.apply(
            x,
            one if weight is None else weight,
            zero if bias is None else bias,
            zeros if scale is None else scale.to(kind),
            zeros if shift is None else shift.to(kind),
            groups,
        )
        return result
    # Not the one in nn.functional, which refuses a single image whose groups have a single value.
    h: Tensor = torch.group_norm(x, groups, weight, bias, _EPS)
    if scale is not None:
        h = h * (1 + scale[:, :, None, None])
    return h if shift is None else h + shift[:, :, None, None]


class _GroupNorm(torch.autograd.Function):
    """The computation of the module's docstring; weight and bias may have length 1, scale and shift the shape (1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
        """The normalised and conditioned map."""
        b, c, height, width = x.shape
        v = x.permute(0, 2, 3, 1).reshape(b, height * width, c)
        size = v.shape[1] * (c // groups)
        center = _of_groups(_sum(v), groups, size).to(v.dtype)
        # A second pass: the difference of two large sums would lose the variance of maps with a large mean. It also finds what
        # rounding has left of the mean, if something is rounded.
        centered = v - center[:, None]
        mean = center + _of_groups(_sum(centered), groups, size) if v.dtype == torch.bfloat16 else center
        variance = _of_groups(_sum(centered.square_()), groups, size) - (mean - center).square()
        inverse = (variance.clamp_(min=0) + _EPS).rsqrt()
        slope = inverse * weight * (1 + scale)
        offset = bias * (1 + scale) + shift - mean * slope
        ctx.save_for_backward(v, weight, bias, scale, inverse, mean, center)
        ctx.groups, ctx.shapes = groups, (weight.shape, bias.shape, scale.shape, shift.shape)
        y = torch.addcmul(offset[:, None].to(v.dtype), v, slope[:, None].to(v.dtype))
        return y.view(b, height, width, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with respect to the map, weight, bias, scale and shift."""
        v, weight, bias, scale, inverse, mean, center = ctx.saved_tensors
        b, c, height, width = g.shape
        d = g.permute(0, 2, 3, 1).reshape(b, height * width, c)
        sums = _sum(d)  # below: sums of g times the normalised map; rounded sums must not be large beside their difference
        if v.dtype == torch.bfloat16:
            normalised = (_sum((v - center[:, None]).mul_(d)) - (mean - center) * sums) * inverse
        else:
            normalised = (_sum(d * v) - mean * sums) * inverse
        factor = 1 + scale
        gradients: list[Tensor | None] = [None] * 4
        for i, value in enumerate((normalised * factor, sums * factor, normalised * weight + sums * bias, sums)):
            if ctx.needs_input_grad[1 + i]:
                gradients[i] = value.sum_to_size(*ctx.shapes[i])
        grad_x = None
        if ctx.needs_input_grad[0]:
            size, gain = d.shape[1] * (c // ctx.groups), weight * factor
            first, second = (_of_groups(values * gain, ctx.groups, size) for values in (sums, normalised))
            slope = -inverse * inverse * second
            offset = -inverse * first - slope * mean
            grad_x = torch.addcmul(offset[:, None].to(d.dtype), d, (inverse * gain)[:, None].to(d.dtype))
            grad_x = grad_x.addcmul_(v.to(d.dtype), slope[:, None].to(d.dtype)).view(b, height, width, c).permute(0, 3, 1, 2)
        return grad_x, *gradients, None


def _sum(v: Tensor) -> Tensor:
    """Sums over positions, (B, C), in float32 or better; of bf16 they are rounded, since torch would copy maps to float32."""
    return v.sum(dim=1).to(torch.promote_types(v.dtype, torch.float32))


def _of_groups(values: Tensor, groups: int, size: int) -> Tensor:
    """Sums of the values of channels, (B, C), over their groups, divided by `size`, for each channel, (B, C)."""
    b, c = values.shape
    return (values.view(b, groups, -1).sum(dim=2) / size).repeat_interleave(c // groups, dim=1)
