"""The network of earlier versions, in NCHW and with 16 groups or more a normalisation, for :mod:`speed_before_after`.

Its weights do not fit the present one. What follows is how it was described.

A U-Net in the form of Dhariwal & Nichol 2021 (arXiv 2105.05233): residual blocks with FiLM conditioning on a scalar,
self-attention at chosen levels, strided convolutions down, nearest-neighbour interpolation plus convolution up.
It differs in two points, both for speed: an optional pixel-unshuffle stem, and a decoder that may be lighter than the
encoder (it then reads only the last skip maps of each level; a classifier pools maps of the encoder only).

Shapes: images are (B, C, H, W) with H and W divisible by :attr:`UNet.divisor`; the conditioning scalar is (B,).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.joint import JointConfig, JointDiffusion, _pooling_matrix
from ssl_diffusion.models.noise import Coefficients
from ssl_diffusion.models.settings import ModelSettings

__all__ = ["FormerJointDiffusion"]


class FormerJointDiffusion(JointDiffusion):
    """The joint model of earlier versions: the same formulas on the former network, dropout by `bernoulli_`.

    Args:
        config: Configuration of network, noise and head.
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__(config)
        self.unet = UNet(config.model, config.image_shape[0])  # type: ignore[assignment]
        for name, module in [*self.head.named_children()] if self.head is not None else []:
            if isinstance(module, nn.Dropout):
                setattr(self.head, name, nn.Dropout(module.p))

    def pool_features(self, features: "Features", grids: tuple[int, ...] | None = None) -> Tensor:  # type: ignore[override]
        """Representation z of encoded images, (B, n_features), float32."""
        parts = []
        for m in features.last_maps if self.config.model.pool_maps == "levels" else features.maps:
            h = functional.silu(functional.group_norm(m, math.gcd(self.config.model.groups, m.shape[1]))).flatten(2)
            cells = _pooling_matrix(m.shape[-2], m.shape[-1], grids or self.config.model.pool_grids)
            parts.append((h @ cells.to(h)).flatten(1))
        return torch.cat(parts, dim=1).float()

    def _coefficients(self, x: Tensor, sigma: Tensor | float) -> Coefficients:
        return self.noise.coefficients(torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0]))


@dataclass
class Features:
    """Output of the encoder for a batch.

    Attributes:
        levels: Maps of the blocks of each level in order, each (B, C_i, H_l, W_l); the first level starts with the stem's map,
            the others with the downsampled map of the level before.
        middle: Map of the middle block, (B, C, H_last, W_last).
        embedding: Embedded conditioning scalar, (B, 4 * channels), which the decoder reads.
    """

    levels: list[list[Tensor]]
    middle: Tensor
    embedding: Tensor

    @property
    def maps(self) -> list[Tensor]:
        """Every encoder map followed by the middle one, in the order of :attr:`UNet.feature_channels`."""
        return [m for level in self.levels for m in level] + [self.middle]

    @property
    def last_maps(self) -> list[Tensor]:
        """The last map of every level followed by the middle one."""
        return [level[-1] for level in self.levels] + [self.middle]

    def with_maps(self, maps: list[Tensor]) -> "Features":
        """The same features with other maps, in the order of :attr:`maps`."""
        queue = iter(maps)
        levels = [[next(queue) for _ in level] for level in self.levels]
        return Features(levels, next(queue), self.embedding)

    def detach(self) -> "Features":
        """The same features, detached from the graph that computed them."""
        cut = self.with_maps([m.detach() for m in self.maps])
        return Features(cut.levels, cut.middle, self.embedding.detach())

    def split(self, first: int) -> tuple["Features", "Features"]:
        """The features of the first samples of the batch, and those of the rest.

        Args:
            first: Number of samples in the first part.
        """
        # One split of every map, not two slices: the gradient of a slice is a zero-filled map of the whole batch.
        sizes = [first, len(self.middle) - first]
        levels = [[torch.split(m, sizes) for m in level] for level in self.levels]
        middle, embedding = torch.split(self.middle, sizes), torch.split(self.embedding, sizes)
        one, two = (Features([[m[i] for m in level] for level in levels], middle[i], embedding[i]) for i in (0, 1))
        return one, two


class UNet(nn.Module):
    """Encoder, middle block and decoder, conditioned on a scalar.

    Args:
        settings: Architecture; of the noise and the head nothing is used.
        in_channels: Colour channels of an image.

    Attributes:
        feature_channels: Number of channels of each map in :attr:`Features.maps`.
        last_channels: Number of channels of each map in :attr:`Features.last_maps`.
        divisor: Number that must divide height and width of the images.

    Example:
        >>> net = UNet(ModelSettings(channels=32), in_channels=1)
        >>> y = net(torch.zeros(2, 1, 28, 28), torch.zeros(2))
    """

    def __init__(self, settings: ModelSettings, in_channels: int = 1) -> None:
        super().__init__()
        self.settings = settings
        c = settings.channels
        embedding = 4 * c
        pixels = in_channels * settings.stem**2
        self.divisor = settings.stem * 2 ** (len(settings.multipliers) - 1)

        self.embed = nn.Sequential(nn.Linear(c, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = nn.Conv2d(pixels, c, 3, padding=1)

        def block(c_in: int, c_out: int, attention: bool) -> "Block":
            return Block(c_in, c_out, embedding, settings, attention)

        self.encoder = nn.ModuleList()
        self.down = nn.ModuleList()
        skips: list[list[int]] = []
        width = c
        for level, multiplier in enumerate(settings.multipliers):
            if level:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            channels = [width]
            blocks = nn.ModuleList()
            for _ in range(settings.blocks):
                blocks.append(block(width, c * multiplier, level in settings.attention))
                width = c * multiplier
                channels.append(width)
            self.encoder.append(blocks)
            skips.append(channels)
        self.feature_channels = [n for level in skips for n in level] + [width]
        self.last_channels = [level[-1] for level in skips] + [width]

        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])

        n_decoder = settings.decoder_blocks or settings.blocks + 1
        self.skips_per_level = n_decoder
        self.decoder = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in reversed(range(len(settings.multipliers))):
            blocks = nn.ModuleList()
            for skip in reversed(skips[level][-n_decoder:]):
                blocks.append(block(width + skip, c * settings.multipliers[level], level in settings.attention))
                width = c * settings.multipliers[level]
            self.decoder.append(blocks)
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.out = nn.Sequential(_norm(width, settings), nn.SiLU(), _zero(nn.Conv2d(width, pixels, 3, padding=1)))

    def encode(self, x: Tensor, scalar: Tensor) -> Features:
        """Encoder and middle block only.

        Args:
            x: Images, (B, C, H, W).
            scalar: Conditioning scalar of each image, (B,).
        """
        embedding = self.embed(sinusoidal_embedding(scalar, self.settings.channels))
        if self.settings.stem > 1:
            x = functional.pixel_unshuffle(x, self.settings.stem)
        h = self.stem(x)
        levels = []
        for level, blocks in enumerate(self.encoder):
            if level:
                h = self.down[level - 1](h)
            maps = [h]
            for block in blocks:  # type: ignore[attr-defined]  # ModuleList is not generic
                h = block(h, embedding)
                maps.append(h)
            levels.append(maps)
        for block in self.middle:
            h = block(h, embedding)
        return Features(levels, h, embedding)

    def decode(self, features: Features) -> Tensor:
        """Decoder only: the output of the network, (B, C, H, W), from the features of images."""
        h = features.middle
        for index, blocks in enumerate(self.decoder):
            skips = features.levels[-1 - index][-self.skips_per_level :]
            for block, skip in zip(blocks, reversed(skips), strict=True):  # type: ignore[call-overload]
                h = block(torch.cat([h, skip], dim=1), features.embedding)
            if index < len(self.up):
                h = self.up[index](functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.out(h)
        return functional.pixel_shuffle(h, self.settings.stem) if self.settings.stem > 1 else h

    def forward(self, x: Tensor, scalar: Tensor) -> Tensor:
        """The whole network: (B, C, H, W), (B,) -> (B, C, H, W)."""
        return self.decode(self.encode(x, scalar))

    def decoder_modules(self) -> list[nn.Module]:
        """The modules that :meth:`decode` uses and :meth:`encode` does not."""
        return [self.decoder, self.up, self.out]


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
        self.norm_in = _norm(c_in, settings)
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * c_out)
        self.norm_out = _norm(c_out, settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.conv_out = _zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        self.attention = Attention(c_out, settings) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The block's output, (B, c_out, H, W), from a map, (B, c_in, H, W), and the embedding, (B, E)."""
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.film(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = self.norm_out(h) * (1 + scale) + shift  # broadcasting addcmul is slower than both steps together in bf16
        h = self.conv_out(self.dropout(functional.silu(h)))
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
        self.norm = _norm(channels, settings)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same shape, (B, channels, H, W)."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        # The fused kernels need a contiguous head dimension; with a transposed view torch uses plain matrix products, which on
        # a CPU are faster in bf16 and for the short sequences of coarse maps.
        if q.device.type != "cpu" or (q.dtype == torch.float32 and h * w > 128):
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        attended = functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = x + self.project(attended.transpose(-1, -2).reshape(b, c, h, w))
        return result


def sinusoidal_embedding(value: Tensor, dim: int, max_period: float = 1e4) -> Tensor:
    """Cosines and sines of a scalar at geometrically spaced frequencies (Vaswani et al. 2017, sec. 3.5).

    Args:
        value: Scalars, (B,).
        dim: Size of the embedding; an odd size ends with a zero.
        max_period: Inverse of the lower limit of the frequencies, whose highest is 1.

    Returns:
        Embedding, float32, (B, dim).
    """
    half = dim // 2
    frequency = torch.exp(-math.log(max_period) / half * torch.arange(half, device=value.device, dtype=torch.float32))
    angle = value.float()[:, None] * frequency[None]
    return functional.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, dim - 2 * half))


def _norm(channels: int, settings: ModelSettings) -> nn.GroupNorm:
    """Group normalisation with the configured number of groups, or the largest divisor that it shares with the channels."""
    return nn.GroupNorm(math.gcd(settings.groups, channels), channels)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Start a residual branch at zero, so that a fresh block is the identity."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
