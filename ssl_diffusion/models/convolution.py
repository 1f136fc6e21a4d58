"""3x3 convolutions whose weight gradient is fast on small maps, too.

On a processor the gradient with respect to the weights is a sum over positions that the library vectorises along the rows of
a map; on maps of 4 or 8 pixels most of it is idle. Several images of a batch side by side, with a row and a column of zeros
between them, are one larger map with the same gradient: the zeros are the padding that each image would have had. That pays
where a unit for tiles of matrices (AMX) waits for longer rows. In fp32, and in bf16 without that unit, it costs more than it
saves (0.93 to 0.96 of the speed of steps for Fashion-MNIST and CIFAR-10), and is left out.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Conv3x3", "TiledGradient", "has_tile_unit", "tiled", "tiles"]

_LARGEST = 8  # pixels; larger maps gain nothing


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 that keeps height and width.

    Args:
        c_in: Number of input channels.
        c_out: Number of output channels.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """A map of c_out channels, (B, c_out, H, W), from one of c_in channels."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        small = x.device.type == "cpu" and max(x.shape[-2:]) <= _LARGEST
        if small and dtype == torch.bfloat16 and has_tile_unit() and self.weight.requires_grad and torch.is_grad_enabled():
            assert self.bias is not None
            result: Tensor = TiledGradient.apply(x.to(dtype), self.weight, self.bias)
            return result
        return super().forward(x)


@lru_cache(maxsize=1)
def has_tile_unit() -> bool:
    """Whether this processor multiplies tiles of matrices in bf16 (AMX), as far as torch can tell."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not public
    return bool(asked is not None and asked())


class TiledGradient(torch.autograd.Function):
    """A 3x3 convolution of stride 1 that keeps height and width, with its weight gradient from tiled maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution in the precision of `x`."""
        low = weight.to(x.dtype)
        ctx.save_for_backward(x, low)
        ctx.parameter_dtype = weight.dtype
        return functional.conv2d(x, low, bias.to(x.dtype), padding=1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients with respect to maps, weights and bias."""
        x, weight = ctx.saved_tensors
        g = g.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = _backward(g, x, weight, (True, False, False))[0]
        if needs_weight:
            rows, columns = tiles(*x.shape[-2:])
            grad_weight = _backward(tiled(g, rows, columns), tiled(x, rows, columns), weight, (False, True, False))[1]
            grad_weight = grad_weight.to(ctx.parameter_dtype)
        if needs_bias:
            grad_bias = g.sum(dim=(0, 2, 3), dtype=ctx.parameter_dtype)
        return grad_x, grad_weight, grad_bias


def _backward(g: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]) -> list[Tensor]:
    one, none = [1, 1], [0, 0]
    result: list[Tensor] = torch.ops.aten.convolution_backward(
        g, x, weight, [weight.shape[0]], one, one, one, False, none, 1, wanted
    )
    return result


def tiles(height: int, width: int) -> tuple[int, int]:
    """Images of a mosaic, rows and columns: about 10 by 20 pixels."""
    return max(1, 18 // (height + 1)), max(1, 20 // (width + 1))


def tiled(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Maps side by side, with zeros between them.

    Args:
        maps: Maps, (B, C, H, W).
        rows: Maps of a mosaic below each other.
        columns: Maps of a mosaic beside each other.

    Returns:
        Mosaics in channels_last, (ceil(B / (rows * columns)), C, rows * (H + 1), columns * (W + 1)).
    """
    b, c, h, w = maps.shape
    n = -(-b // (rows * columns))
    last = maps.permute(0, 2, 3, 1)
    if b % (rows * columns):
        last = functional.pad(last, (0, 0, 0, 0, 0, 0, 0, n * rows * columns - b))
    mosaic = maps.new_zeros(n, rows, h + 1, columns, w + 1, c)
    mosaic[:, :, :h, :, :w] = last.reshape(n, rows, columns, h, w, c).permute(0, 1, 3, 2, 4, 5)
    return mosaic.view(n, rows * (h + 1), columns * (w + 1), c).permute(0, 3, 1, 2)
