r"""The joint diffusion model: one U-Net that denoises and, through its pooled encoder features, classifies.

Deja, Trzciński, Tomczak 2023 (arXiv 2301.13622) write :math:`p(x_{0:T}, y) = p(y | x_0) \, p(x_{0:T})`, both factors
sharing the encoder. Here

* `encode(x, sigma)` gives the encoder's feature maps;
* `denoise(x, sigma)` gives D(x; sigma), the estimate of the clean image (:mod:`ssl_diffusion.models.noise`);
* `representation` normalises each map by itself, pools it, and concatenates: z, shape (B, F);
* `classify` is a small head on z and runs the encoder only.

Images are read for classification at a nominal noise level of at least `read_sigma`: the encoder is told that the image
has this much noise, though it has less or none. At small levels a denoiser looks at texture (there is little else to
estimate); at larger ones it has to recognise what is there, and its features follow. Guidance reads noisier images at
their own level, so one head serves both.

The official head feeds the raw time step through BatchNorm, which makes every guided step but the last see one class;
there is neither a time step nor a BatchNorm here, and image sizes are free (padded to the network's divisor).
"""

import copy
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.blocks import Dropout
from ssl_diffusion.models.noise import DDPM, EDM, Coefficients, Parameterisation
from ssl_diffusion.models.normalization import group_norm
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.models.unet import Features, UNet
from ssl_diffusion.settings import Settings

__all__ = ["JointConfig", "JointDiffusion", "make_head"]

_Channels = Annotated[int, Field(ge=1, le=4)]
_Side = Annotated[int, Field(ge=1)]


class JointConfig(Settings):
    """Everything needed to build a :class:`JointDiffusion`: the settings of a recipe, and what the images add to them."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    """Architecture and noise."""
    n_classes: Annotated[int, Field(ge=0)] = 0
    """Outputs of the head; 0 builds no head (a denoiser without labels)."""
    image_shape: tuple[_Channels, _Side, _Side] = (1, 28, 28)
    """Shape (C, H, W) of the images that the model was made for."""
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    """Root mean square of the training images in [-1, 1] (edm)."""
    head_noise: Annotated[float, Field(ge=0)] = 0.0
    """Largest noise level of the labeled images that the head was trained with."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """A configuration from :meth:`to_dict`, or from the header of an older model file.

        Raises:
            RecipeError: if the values describe no model.
        """
        if isinstance(values, Mapping) and isinstance(values.get("unet"), Mapping):
            values = _from_former_header(values)
        return super().from_dict(values, source)


def _from_former_header(values: Mapping[str, Any]) -> dict[str, Any]:
    """The present form of a header with the network's settings under "unet" and None for what follows from other settings."""
    flat = {**values, **values["unet"]}
    model = {name: flat[name] for name in ModelSettings.model_fields if flat.get(name) is not None}
    return {"model": model} | {name: flat[name] for name in JointConfig.model_fields if name in values}


class JointDiffusion(nn.Module):
    """Encoder, decoder and classifier head.

    Images are float tensors, (B, C, H, W), in [-1, 1]; noise levels are float tensors, (B,), or one number for the batch.

    Args:
        config: Configuration of network, noise and head.

    Raises:
        ValueError: If the configuration names an unknown parameterisation or pooling.

    Example:
        >>> model = JointDiffusion(JointConfig(n_classes=10, image_shape=(1, 28, 28)))
        >>> logits = model.classify(torch.zeros(2, 1, 28, 28))
    """

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        settings = config.model
        self.unet = UNet(settings, config.image_shape[0])
        self.noise: Parameterisation
        if settings.parameterisation == "edm":
            self.noise = EDM(config.sigma_data, settings.p_mean, settings.p_std)
        else:
            self.noise = DDPM(settings.ddpm_steps)
        cells = sum(g * g for g in settings.pool_grids)
        channels = self.unet.last_channels if settings.pool_maps == "levels" else self.unet.feature_channels
        self.n_features = cells * sum(channels)
        self.head = make_head(self.n_features, config) if config.n_classes else None

    def encode(self, x: Tensor, sigma: Tensor | float) -> Features:
        """Feature maps of noised (or clean) images at noise level `sigma`."""
        return self._encode(x, self._coefficients(x, sigma))

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """D(x; sigma): the estimate of the clean images, (B, C, H, W), float32."""
        c = self._coefficients(x, sigma)
        return c.skip * x + c.out * self.raw_output(self._encode(x, c), x.shape)

    def decode(self, features: Features, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The rest of :meth:`denoise`, from features of the images that may have been changed.

        Args:
            features: Features of the images, changed or not.
            x: Noised images, (B, C, H, W).
            sigma: Noise levels.

        Returns:
            Estimate of the clean images, float32, (B, C, H, W).
        """
        c = self._coefficients(x, sigma)
        return c.skip * x + c.out * self.raw_output(features, x.shape)

    def raw_output(self, features: Features, shape: torch.Size) -> Tensor:
        """F, the output of the network before preconditioning, cropped to images of `shape`, float32."""
        return self.unet.decode(features)[..., : shape[-2], : shape[-1]].float()

    def pool_features(self, features: Features, grids: tuple[int, ...] | None = None) -> Tensor:
        """Representation z of encoded images, (B, n_features), float32.

        Each map is group-normalised without learned parameters, passed through SiLU and average-pooled, to the cells of the
        configuration's `pool_grids` or of other `grids`.
        """
        parts = []
        for m in features.last_maps if self.config.model.pool_maps == "levels" else features.maps:
            h = group_norm(m, math.gcd(self.config.model.groups, m.shape[1]))
            h = functional.silu(h, inplace=not torch.is_grad_enabled()).permute(0, 2, 3, 1).flatten(1, 2)
            cells = _pooling_matrix(m.shape[-2], m.shape[-1], grids or self.config.model.pool_grids)
            parts.append((h.transpose(1, 2) @ cells.to(h)).flatten(1))
        return torch.cat(parts, dim=1).float()

    def read_level(self, sigma: Tensor | float) -> Tensor:
        """Nominal noise level at which images of noise level `sigma` are read for classification."""
        return torch.as_tensor(sigma, dtype=torch.float32).clamp(min=self.config.model.read_sigma)

    def representation(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Representation of images of noise level `sigma`, (B, n_features), float32; runs the encoder only."""
        return self.pool_features(self.encode(x, self.read_level(sigma)))

    def classify_representation(self, z: Tensor) -> Tensor:
        """Class logits of representations: (B, n_features) -> (B, n_classes), float32."""
        if self.head is None:
            raise ValueError("this model was trained without labels and has no classifier head")
        logits: Tensor = self.head(z).float()
        return logits

    def classify(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Class logits of images, (B, n_classes), float32; runs the encoder only."""
        return self.classify_representation(self.representation(x, sigma))

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Same as :meth:`denoise`."""
        return self.denoise(x, sigma)

    def with_linear_head(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> "JointDiffusion":
        """The same network with another head, a linear one; this model keeps its own.

        Args:
            weight: Weights of the head, float32 (K, n_features).
            bias: Biases of the head, float32 (K,).

        Returns:
            Model for K classes that shares all parameters with this one except those of its head, and so also changes with
            them, and between training and evaluation mode.
        """
        made = copy.copy(self)
        made._modules = dict(self._modules)  # a shallow copy shares the dictionary, too
        made.config = self.config.replace(n_classes=len(bias), model=self.config.model.replace(head_width=0))
        with torch.random.fork_rng(devices=[]):  # for initial weights that are overwritten
            made.head = make_head(self.n_features, made.config)
        made.head.load_state_dict({"1.weight": torch.from_numpy(weight), "1.bias": torch.from_numpy(bias)})
        made.head.to(next(self.unet.parameters()).device).train(self.training)
        return made

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by part: "encoder" (with middle and embedding), "decoder", "head"."""
        decoder = {id(p) for m in self.unet.decoder_modules() for p in m.parameters()}
        return {
            "encoder": [p for p in self.unet.parameters() if id(p) not in decoder],
            "decoder": [p for m in self.unet.decoder_modules() for p in m.parameters()],
            "head": list(self.head.parameters()) if self.head is not None else [],
        }

    def _coefficients(self, x: Tensor, sigma: Tensor | float) -> Coefficients:
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        if sigma.ndim == 0:  # one for all images: the network then conditions once
            sigma = sigma.expand(1)
        return self.noise.coefficients(sigma)

    def _encode(self, x: Tensor, c: Coefficients) -> Features:
        return self.unet.encode(self._pad(c.in_ * x), c.conditioning)

    def _pad(self, x: Tensor) -> Tensor:
        """Repeat the last row and column until the network's levels divide the image."""
        divisor = self.unet.divisor
        bottom, right = -x.shape[-2] % divisor, -x.shape[-1] % divisor
        return functional.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


@lru_cache(maxsize=64)
def _pooling_matrix(height: int, width: int, grids: tuple[int, ...]) -> Tensor:
    """Average pooling over g x g cells for each g, as a matrix of shape (height * width, cells).

    One product for all grids: adaptive pooling itself is slow in bf16 on a CPU, and where cells do not divide the map.
    """
    with torch.inference_mode(False):  # the first caller may be predicting, a later one training
        parts = []
        for g in grids:
            rows, columns = (functional.adaptive_avg_pool1d(torch.eye(n, device="cpu"), g) for n in (height, width))
            parts.append(torch.einsum("hi,wj->hwij", rows, columns).reshape(height * width, g * g))
        return torch.cat(parts, dim=1)


def make_head(n_features: int, config: JointConfig) -> nn.Module:
    """The classifier head of a configuration, on representations (B, n_features), with initial weights."""
    width, dropout = config.model.head_width, config.model.head_dropout
    if width < 0:
        width = n_features // 2
    logits = nn.Linear(width or n_features, config.n_classes)
    # A few labels span a few directions of the representation; in all others the initial weights stay, and would be noise.
    nn.init.zeros_(logits.weight)
    nn.init.zeros_(logits.bias)
    if not width:
        return nn.Sequential(Dropout(dropout), logits)
    hidden = nn.Linear(n_features, width)
    return nn.Sequential(Dropout(dropout), hidden, nn.LeakyReLU(), Dropout(dropout), logits)
