"""Building blocks of the network: residual blocks, attention, and the layers in them, all for maps in channels_last.

1x1 convolutions and attention are matrix products over (positions, channels), which is the memory that a map has already.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.convolution import Conv3x3
from ssl_diffusion.models.normalization import GroupNorm
from ssl_diffusion.models.settings import ModelSettings

__all__ = ["Attention", "Block", "Dropout", "Pointwise", "zero_init"]

_Layer = TypeVar("_Layer", nn.Linear, Conv3x3)
_LONGEST_PRODUCT = 256  # positions; beyond, the matrix of attention weights costs more than a fused kernel


class Block(nn.Module):
    """A residual block with FiLM conditioning, optionally followed by self-attention.

    Args:
        c_in: Number of input channels.
        c_out: Number of output channels.
        embedding: Size of the embedded conditioning scalar.
        settings: Architecture, for normalisation, dropout and attention heads.
        attention: Whether self-attention follows.
    """

    def __init__(self, c_in: int, c_out: int, embedding: int, settings: ModelSettings, attention: bool) -> None:
        super().__init__()
        self.norm_in = GroupNorm(c_in, settings)
        self.conv_in = Conv3x3(c_in, c_out)
        self.film = nn.Linear(embedding, 2 * c_out)
        self.norm_out = GroupNorm(c_out, settings)
        self.dropout = Dropout(settings.dropout)
        self.conv_out = zero_init(Conv3x3(c_out, c_out))
        self.shortcut = nn.Identity() if c_in == c_out else Pointwise(c_in, c_out)
        self.attention = Attention(c_out, settings) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The block's output, (B, c_out, H, W), from a map, (B, c_in, H, W), and the embedding, (B, E) or (1, E) for all."""
        h = self.conv_in(functional.silu(self.norm_in(x), inplace=not torch.is_grad_enabled()))
        scale, shift = self.film(functional.silu(embedding)).chunk(2, dim=1)
        h = functional.silu(self.norm_out(h, scale, shift), inplace=not torch.is_grad_enabled())
        h = self.conv_out(self.dropout(h))
        result: Tensor = self.attention(self.shortcut(x) + h)
        return result


class Attention(nn.Module):
    """Multi-head self-attention over the positions of a map, with a residual connection.

    Args:
        channels: Number of channels of the map.
        settings: Architecture, for normalisation and the number of heads.
    """

    def __init__(self, channels: int, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = math.gcd(settings.heads, channels)
        self.norm = GroupNorm(channels, settings)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape, (B, channels, H, W)."""
        b, c, h, w = x.shape
        positions = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        qkv = self.qkv(positions).view(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if q.device.type == "cpu" and h * w <= _LONGEST_PRODUCT:
            # The backward pass of the fused kernel is slower than products for the short sequences of coarse maps.
            weights = (q * (c // self.heads) ** -0.5) @ k.transpose(-1, -2)
            attended = weights.softmax(dim=-1).to(v.dtype) @ v
        else:
            attended = functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = x + self.project(attended.transpose(1, 2).reshape(b, h, w, c)).permute(0, 3, 1, 2)
        return result


class Pointwise(nn.Linear):
    """A 1x1 convolution as a matrix product over the positions of a map, (B, C, H, W) to (B, C', H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """The map with other channels, in channels_last."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Dropout(nn.Dropout):
    """Dropout whose mask for p = 1/2 is drawn as random bytes on a processor, 8 elements a random number.

    The distribution is that of :class:`torch.nn.Dropout`, and the draw is torch's own, with its seed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with elements dropped in training mode, in evaluation mode as it is."""
        if not self.training or self.p != 0.5 or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_()
        kept = words.view(torch.uint8)[: x.numel()].bitwise_and_(1).view(x.shape)
        return x * kept.mul_(2)  # kept elements are scaled by 1 / (1 - p)


def zero_init(layer: _Layer) -> _Layer:
    """Start a residual branch at zero, so that a fresh block is the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
