r"""Ways to pretrain a denoiser that are said to give better representations, for :mod:`representations`.

Each is the package's own pretraining with the same batches, and one change. A variant is a small object: it builds the model,
learns what it has to know of the images, and gives the loss of a batch.

* **baseline**: the mean squared error of the network F to its target, nothing else.
* **dispersive** (Wang & He 2025, arXiv 2506.09027): weight times
  :math:`\log \mathrm{mean}_{i, j} \exp(-|z_i - z_j|^2 / (D \tau))` with temperature 0.5 pushes the representations of a batch
  apart. z is the middle map as it is, as in the paper, or the channel means of all levels, scaled to unit variance.
* **masked** (UMD, arXiv 2406.17688): a share of the batch is without noise, but most of its patches are gray. The network
  is told a fixed noise level, and its error counts under the mask only.
* **self-conditioned** (DDAE++, arXiv 2505.10999): the decoder is told the channel means of the middle map, or of all levels,
  beside the noise level, through a linear layer that starts at zero.
* **PCA noise** (l-DAE, arXiv 2401.14404): for a share of the batch the noise is drawn in the principal components of patches of
  4 pixels. "subspace" keeps the first quarter of the components, with noise in these alone, and asks for the whole image;
  "colored" gives the noise the spectrum of the patches, so that no component stands out of it before the others.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.noise import target
from ssl_diffusion.models.normalization import group_norm
from ssl_diffusion.models.unet import Features
from ssl_diffusion.seeding import derive_seed
from ssl_diffusion.training.objective import DenoisingBatch

__all__ = ["TOLD", "VARIANTS", "Variant"]

TOLD = 0.5  # noise level that the network is told of masked images
TEMPERATURE = 0.5
PATCH = 4  # pixels
KEPT = 0.25  # share of the components of patches in which "subspace" has noise


_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def in_full_precision(function: _Function) -> _Function:
    """The function of tensors without autocast: differences of products, and images, are not to be rounded to bf16."""

    @functools.wraps(function)
    def wrapped(*args: object) -> Tensor:
        kind = next(a.device.type for a in args if isinstance(a, Tensor))
        with torch.autocast(kind, enabled=False):
            return function(*args)

    return wrapped  # type: ignore[return-value]


@dataclass
class Variant:
    """The package's own pretraining, which the others change.

    Attributes:
        kind: Name of the change; variants of one kind differ in their settings.
        setting: Settings in words.
    """

    kind: ClassVar[str] = "baseline"
    draws: ClassVar[bool] = False
    """Whether the loss draws something itself."""

    @property
    def setting(self) -> str:
        return "-"

    def build(self, config: JointConfig, seed: int) -> JointDiffusion:
        """The model, whose random weights are those of the baseline as far as it has them."""
        return build_model(config, seed)

    def prepare(self, images: Tensor) -> None:
        """Learn what has to be known of the training images, float32 (n, C, H, W) in [-1, 1]."""

    def loss(self, model: JointDiffusion, batch: DenoisingBatch, generator: torch.Generator) -> Tensor:
        """Loss of a batch, a scalar; `generator`, on the CPU, is for what the baseline does not draw."""
        noised = batch.noised()
        features = model.encode(noised, batch.sigma)
        return error(model, features, batch.clean, noised, batch.sigma).mean()


@dataclass
class Dispersive(Variant):
    """Representations of a batch are pushed apart."""

    kind: ClassVar[str] = "dispersive"
    place: str
    weight: float

    @property
    def setting(self) -> str:
        return f"{self.place}, weight {self.weight:g}"

    def loss(self, model: JointDiffusion, batch: DenoisingBatch, generator: torch.Generator) -> Tensor:
        noised = batch.noised()
        features = model.encode(noised, batch.sigma)
        if self.place == "middle":
            z = features.middle.flatten(1).float()
        else:
            z = channel_means(model, features.last_maps)
            z = functional.layer_norm(z, z.shape[1:])
        return error(model, features, batch.clean, noised, batch.sigma).mean() + self.weight * dispersion(z)


@dataclass
class Masked(Variant):
    """A share of the batch is masked instead of noised."""

    kind: ClassVar[str] = "masked"
    draws: ClassVar[bool] = True
    share: float
    hidden: float

    @property
    def setting(self) -> str:
        return f"{self.share:.0%} of the batch, {self.hidden:.0%} hidden"

    def loss(self, model: JointDiffusion, batch: DenoisingBatch, generator: torch.Generator) -> Tensor:
        n = round(self.share * len(batch.clean))
        mask = patch_mask(n, batch.clean.shape[-2:], self.hidden, generator).to(batch.clean)
        seen = torch.cat([batch.clean[:n] * (1 - mask), batch.noised()[n:]])
        sigma = torch.cat([torch.full_like(batch.sigma[:n], TOLD), batch.sigma[n:]])
        counted = torch.cat([mask, torch.ones_like(batch.clean[n:, :1])]).expand_as(batch.clean)
        errors = error(model, model.encode(seen, sigma), batch.clean, seen, sigma)
        return ((errors * counted).flatten(1).sum(dim=1) / counted.flatten(1).sum(dim=1)).mean()


class SelfConditionedDiffusion(JointDiffusion):
    """A joint model whose decoder is told the pooled representation.

    Args:
        config: Configuration.
        levels: Whether channel means of all levels are told, or those of the middle map alone.
    """

    def __init__(self, config: JointConfig, levels: bool) -> None:
        super().__init__(config)
        self.levels = levels
        channels = self.unet.last_channels
        self.feed = nn.Linear(sum(channels) if levels else channels[-1], 4 * config.model.channels)
        nn.init.zeros_(self.feed.weight)
        nn.init.zeros_(self.feed.bias)

    def raw_output(self, features: Features, shape: torch.Size) -> Tensor:
        """F, from features whose embedding has the representation added."""
        z = channel_means(self, features.last_maps if self.levels else [features.middle])
        told = self.feed(functional.layer_norm(z, z.shape[1:]))
        return super().raw_output(Features(features.levels, features.middle, features.embedding + told), shape)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """As those of the joint model; the new layer belongs to the decoder."""
        groups = super().parameter_groups()
        return groups | {"decoder": [*groups["decoder"], *self.feed.parameters()]}


@dataclass
class SelfConditioned(Variant):
    """The decoder is told the pooled representation."""

    kind: ClassVar[str] = "self-conditioned"
    levels: bool

    @property
    def setting(self) -> str:
        return "all levels" if self.levels else "middle"

    def build(self, config: JointConfig, seed: int) -> JointDiffusion:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            return SelfConditionedDiffusion(config, self.levels)


@dataclass
class PCANoise(Variant):
    """A share of the batch has noise in the principal components of patches."""

    kind: ClassVar[str] = "PCA noise"
    form: str
    share: float
    _basis: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # columns: components, (D, d)
    _scale: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # deviation of the noise in each, (d,)
    _mean: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # of patches, (D,)
    _rest: float = 0.0  # variance a value in the components that are left out

    @property
    def setting(self) -> str:
        return f"{self.form}, {self.share:.0%} of the batch"

    def prepare(self, images: Tensor) -> None:
        patches = to_patches(images).flatten(0, 1).double()
        self._mean = patches.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(patches.T))  # ascending
        d = len(values)
        if self.form == "subspace":
            kept = max(1, round(KEPT * d))
            self._rest = float(values[: d - kept].clamp(min=0).sum() / d)
            vectors, scale = vectors[:, d - kept :], torch.ones(kept)
        else:
            scale = (values.clamp(min=0) / values.clamp(min=0).mean()).sqrt()
        self._basis, self._scale, self._mean = vectors.float(), scale.float(), self._mean.float()

    def loss(self, model: JointDiffusion, batch: DenoisingBatch, generator: torch.Generator) -> Tensor:
        n = round(self.share * len(batch.clean))
        sigma = batch.sigma[:n]
        seen = torch.cat([self._noised(batch.clean[:n], sigma, batch.eps[:n]), batch.noised()[n:]])
        errors = error(model, model.encode(seen, batch.sigma), batch.clean, seen, batch.sigma)
        # What was left out cannot be known, however little noise there is: without this factor it would be all that counts.
        out = model.noise.coefficients(sigma).out ** 2
        return torch.cat([errors[:n] * (out / (out + self._rest)), errors[n:]]).mean()

    @in_full_precision
    def _noised(self, clean: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
        if self._basis.device != clean.device:  # once: a CUDA graph cannot have it done for every batch
            self._basis, self._scale, self._mean = (t.to(clean.device) for t in (self._basis, self._scale, self._mean))
        basis, scale, mean = self._basis, self._scale, self._mean
        # White noise is white in the basis, too; of the subspace only some of it is used.
        noise = (to_patches(eps) @ basis * scale) @ basis.T
        signal = to_patches(clean)
        if self.form == "subspace":
            signal = (signal - mean) @ basis @ basis.T + mean
        return to_images(signal + sigma[:, None, None] * noise, clean.shape)


VARIANTS: tuple[Variant, ...] = (
    Variant(),
    Dispersive("pooled", 0.25),
    Dispersive("pooled", 0.5),
    Dispersive("middle", 0.5),
    Masked(0.25, 0.5),
    Masked(0.25, 0.75),
    Masked(0.5, 0.75),
    SelfConditioned(levels=False),
    SelfConditioned(levels=True),
    PCANoise("subspace", 0.5),
    PCANoise("colored", 0.5),
)


def error(model: JointDiffusion, features: Features, clean: Tensor, noised: Tensor, sigma: Tensor) -> Tensor:
    """Squared errors of F to its target, (B, C, H, W)."""
    raw = model.raw_output(features, clean.shape)
    return (raw - target(clean, noised, model.noise.coefficients(sigma))).square()


def channel_means(model: JointDiffusion, maps: list[Tensor]) -> Tensor:
    """What a probe reads of maps, pooled to one cell: float32 (B, channels of all)."""
    groups = model.config.model.groups
    read = [functional.silu(group_norm(m, math.gcd(groups, m.shape[1]))).mean(dim=(2, 3)) for m in maps]
    return torch.cat(read, dim=1).float()


@in_full_precision
def dispersion(z: Tensor) -> Tensor:
    """The dispersive loss of representations, float32 (B, D), in [-log B, 0]."""
    squares = z.square().sum(dim=1)
    distances = (squares[:, None] + squares[None] - 2 * z @ z.T).clamp(min=0) / (z.shape[1] * TEMPERATURE)
    # A representation has no distance from itself, which bounds the loss: growing without end gains nothing.
    distances = distances.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0.0)
    return torch.logsumexp(-distances.flatten(), dim=0) - 2 * math.log(len(z))


def patch_mask(n: int, size: torch.Size, hidden: float, generator: torch.Generator) -> Tensor:
    """Masks of patches, 1 where an image is hidden, float32 (n, 1, H, W); the same number of patches for all images."""
    side = PATCH if min(size) > 2 * PATCH else PATCH // 2
    rows, columns = (-(-length // side) for length in size)
    order = torch.rand(n, rows * columns, generator=generator).argsort(dim=1).argsort(dim=1)
    mask = (order < round(hidden * rows * columns)).float().view(n, 1, rows, columns)
    return mask.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)[..., : size[0], : size[1]]


def to_patches(images: Tensor) -> Tensor:
    """Patches of images, (B, C, H, W) -> (B, patches, C * 16); H and W are divisible by 4."""
    return functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def to_images(patches: Tensor, shape: torch.Size) -> Tensor:
    """The images of :func:`to_patches`."""
    return functional.fold(patches.transpose(1, 2), tuple(shape[-2:]), PATCH, stride=PATCH)
