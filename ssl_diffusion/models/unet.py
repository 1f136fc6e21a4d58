"""The network: encoder, middle block, decoder. It is independent of noise schedules and classes.

A U-Net in the form of Dhariwal & Nichol 2021 (arXiv 2105.05233): residual blocks with FiLM conditioning on a scalar,
self-attention at chosen levels, strided convolutions down, nearest-neighbour interpolation plus convolution up.
It differs in three points, all for speed: an optional pixel-unshuffle stem, a decoder that may be lighter than the
encoder (it then reads only the last skip maps of each level; a classifier pools maps of the encoder only), and group
normalisation with at least 16 channels a group.

Maps are kept in the memory format channels_last from the stem to the output, as a processor's convolutions compute in it:
in the other one each of them reorders its maps twice. There, group normalisation vectorises over the channels of one group,
which is why groups are not smaller; 1x1 convolutions and attention are products of (positions, channels) matrices.

Shapes: images are (B, C, H, W) with H and W divisible by :attr:`UNet.divisor`; the conditioning scalar is (B,).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.blocks import Block, zero_init
from ssl_diffusion.models.convolution import Conv3x3
from ssl_diffusion.models.normalization import GroupNorm
from ssl_diffusion.models.settings import ModelSettings

__all__ = ["Features", "UNet", "flatten_pointwise", "sinusoidal_embedding"]


@dataclass
class Features:
    """Output of the encoder for a batch.

    Attributes:
        levels: Maps of the blocks of each level in order, each (B, C_i, H_l, W_l); the first level starts with the stem's map,
            the others with the downsampled map of the level before.
        middle: Map of the middle block, (B, C, H_last, W_last).
        embedding: Embedded conditioning scalar, (B, 4 * channels), which the decoder reads. Where all images of a batch have
            the same scalar, its first dimension may be 1.
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
        middle = torch.split(self.middle, sizes)
        embedding = torch.split(self.embedding, sizes) if len(self.embedding) > 1 else (self.embedding, self.embedding)
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
        self.stem = Conv3x3(pixels, c)

        def block(c_in: int, c_out: int, attention: bool) -> Block:
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
                self.up.append(Conv3x3(width, width))
        self.out = nn.Sequential(GroupNorm(width, settings), nn.SiLU(), zero_init(Conv3x3(width, pixels)))
        self.register_load_state_dict_pre_hook(_take_former)  # type: ignore[no-untyped-call]

    def encode(self, x: Tensor, scalar: Tensor) -> Features:
        """Encoder and middle block only.

        Args:
            x: Images, (B, C, H, W).
            scalar: Conditioning scalar of each image, (B,), or one for all of them, (1,), which is faster.
        """
        embedding = self.embed(sinusoidal_embedding(scalar, self.settings.channels))
        if self.settings.stem > 1:
            x = functional.pixel_unshuffle(x, self.settings.stem)
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        h = h.contiguous(memory_format=torch.channels_last)  # images of one channel have no layout that the stem could keep
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


def _take_former(_: nn.Module, state: dict[str, Tensor], *__: object) -> None:
    """Weights of earlier versions are loaded as those of this one."""
    state.update(flatten_pointwise(state))


def flatten_pointwise(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name, with 1x1 convolutions of earlier versions, (C', C, 1, 1), as the matrices that they are now, (C', C)."""
    names = ("attention.qkv.weight", "attention.project.weight", "shortcut.weight")
    return {name: t.flatten(1) if name.endswith(names) and t.ndim == 4 else t for name, t in weights.items()}


def sinusoidal_embedding(value: Tensor, dim: int, max_period: float = 1e4) -> Tensor:
    """Cosines and sines of a scalar at geometrically spaced frequencies (Vaswani et al. 2017, sec. 3.5).

    Args:
        value: Scalars, (B,).
        dim: Size of the embedding; an odd size ends with a zero.
        max_period: Inverse of the lower limit of the frequencies, whose highest is 1.

    Returns:
        Embedding, float32, (B, dim).

    Example:
        >>> sinusoidal_embedding(torch.zeros(1), 4)
        tensor([[1., 1., 0., 0.]])
    """
    half = dim // 2
    frequency = torch.exp(-math.log(max_period) / half * torch.arange(half, device=value.device, dtype=torch.float32))
    angle = value.float()[:, None] * frequency[None]
    return functional.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, dim - 2 * half))
