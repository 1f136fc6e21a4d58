"""The joint model with a pretrained backbone: what it sees in an image is the denoiser's and the backbone's, as one vector."""

import copy
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.errors import RunError, SSLDError
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.backbones.registry import load_backbone
from ssl_diffusion.models.joint import JointConfig, JointDiffusion, make_head
from ssl_diffusion.models.pixels import rounded
from ssl_diffusion.settings import Settings

__all__ = ["BackboneConfig", "FusedConfig", "FusedDiffusion", "Reads", "check_gradient", "gradient_fault", "open_backbone"]

Reads = Literal["images", "files", "ids"]


class BackboneConfig(Settings):
    """What a model file says of its backbone, whose weights it does not hold."""

    name: str
    """Name, as :func:`ssl_diffusion.models.load_backbone` takes it."""
    weights: str = ""
    """File of its weights; "" is what the name stands for."""
    identity: str
    """Identity that it had in the fit; features of another one mean something else."""
    n_features: Annotated[int, Field(ge=1)]
    """Number of features."""
    reads: Reads = "images"
    """What it reads: the images of the pool; the original files, which are larger; or nothing, as features are looked up by
    sample id."""
    weight: Annotated[float, Field(ge=0, le=1)]
    """Weight in the representation; that of the denoiser is 1 minus it."""


class FusedConfig(JointConfig):
    """Everything needed to build a :class:`FusedDiffusion` around a backbone."""

    backbone: BackboneConfig
    """Backbone."""


class FusedDiffusion(JointDiffusion):
    """Encoder, decoder, a frozen backbone, and a classifier head on the fused representation.

    Denoising is that of :class:`JointDiffusion`. The backbone is no part of :meth:`state_dict`.

    Args:
        config: Configuration, backbone included.
        backbone: Backbone; None leaves it out, so that representations cannot be computed.

    Example:
        >>> model = FusedDiffusion(config, load_backbone("efficientnet-lite0"))  # doctest: +SKIP
        >>> logits = model.classify(torch.zeros(2, 3, 32, 32))  # doctest: +SKIP
    """

    config: FusedConfig
    mean: Tensor
    factor: Tensor

    def __init__(self, config: FusedConfig, backbone: Backbone | None = None) -> None:
        super().__init__(config)
        self.denoiser_features = self.n_features
        self.n_features += config.backbone.n_features
        self.head = make_head(self.n_features, config) if config.n_classes else None
        self.register_buffer("mean", torch.zeros(self.n_features))
        self.register_buffer("factor", torch.ones(self.n_features))
        self._held = (backbone,)  # in a tuple it is no module of this one, and stays out of state_dict()
        self._anchor: tuple[Tensor, Tensor] | None = None

    @property
    def backbone(self) -> Backbone:
        """The backbone; raises :class:`SSLDError` if the model was built without."""
        if (backbone := self._held[0]) is None:
            raise SSLDError(f"the model was built without its backbone {self.config.backbone.name}")
        return backbone

    def representation(self, x: Tensor, sigma: Tensor | float = 0.0, features: Tensor | None = None) -> Tensor:
        """Fused representation of images of noise level `sigma`, (B, n_features), float32.

        Args:
            x: Images, (B, C, H, W).
            sigma: Noise level; the backbone reads the images as they are.
            features: Features of the images by the backbone, (B, Fb). None computes them from `x`.

        Raises:
            SSLDError: If the backbone reads something else than these images and features are missing.
        """
        if features is None:
            with torch.autocast(x.device.type, enabled=False):
                features = self.backbone.features(self._seen(x.float()))
        return self.fuse(super().representation(x, sigma), features)

    def fuse(self, denoiser: Tensor, features: Tensor) -> Tensor:
        """Fused representations, float32 (B, n_features), of both blocks of features.

        Args:
            denoiser: Representations by the denoiser alone, (B, Fa).
            features: Features by the backbone, (B, Fb).
        """
        return (torch.cat([denoiser, features.float()], dim=1) - self.mean) * self.factor

    def anchored(self, x: Tensor, originals: Tensor) -> "FusedDiffusion":
        """This model for changed versions of some images, whose backbone sees the changes in the original files.

        A change is enlarged and added to the original. Gradients run through it.

        Args:
            x: Images before the change, (B, C, H, W).
            originals: The files that they come from, as the backbone reads them, (B, C, S, S).

        Returns:
            Model that shares everything with this one, for batches of B images in the same order.
        """
        made = copy.copy(self)
        made._anchor = (x, originals)
        return made

    def _seen(self, x: Tensor) -> Tensor:
        """What the backbone sees where it is given images (B, C, H, W): these, or the originals with their changes."""
        if self._anchor is not None:
            base, originals = self._anchor
            change = functional.interpolate(x - base, tuple(originals.shape[2:]), mode="bilinear")
            changed = (originals + change).clamp(-1, 1)
            return changed if torch.is_grad_enabled() else rounded(changed)
        if (reads := self.config.backbone.reads) != "images":
            what = {"files": "the original files", "ids": "features by sample id"}[reads]
            raise SSLDError(f"the backbone of this model reads {what}, not images of {x.shape[-1]} pixels")
        return x

    def classify_representation(self, z: Tensor) -> Tensor:
        """See :meth:`JointDiffusion.classify_representation`; z is the fused representation."""
        if z.shape[1] != self.n_features:
            raise SSLDError("the head of a model with a backbone reads both its blocks, not the denoiser's alone")
        return super().classify_representation(z)

    def set_fusion(self, mean: NDArray[np.float32], factor: NDArray[np.float32]) -> None:
        """Set the map from the two blocks to the representation; see :class:`ssl_diffusion.models.fusion.Fusion`."""
        self.mean.copy_(torch.from_numpy(mean))
        self.factor.copy_(torch.from_numpy(factor))

    def with_linear_head(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> "FusedDiffusion":
        """See :meth:`JointDiffusion.with_linear_head`."""
        made = super().with_linear_head(weight, bias)
        assert isinstance(made, FusedDiffusion)
        return made

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FusedDiffusion":
        """The backbone follows the model to its device."""
        if (backbone := self._held[0]) is not None:
            backbone._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def gradient_fault(model: JointDiffusion, *, with_originals: bool = False) -> str:
    """Why no gradient runs from the classes of a model to the pixels of its images; empty if one does.

    Args:
        model: Joint model.
        with_originals: Whether the original files are at hand (:meth:`FusedDiffusion.anchored`).
    """
    if not isinstance(model, FusedDiffusion):
        return ""
    reads = model.config.backbone.reads
    if reads == "files" and not with_originals:
        return "its backbone reads the original files, which are not at hand"
    if reads == "ids":
        return "its features are looked up by sample id, and no gradient runs through them"
    return "" if model.backbone.differentiable else "no gradient runs through its backbone"


def check_gradient(model: JointDiffusion, *, with_originals: bool = False) -> None:
    """Raise :class:`RunError` if no gradient runs from the classes of a model to its images; see :func:`gradient_fault`."""
    if fault := gradient_fault(model, with_originals=with_originals):
        raise RunError(f"the images of this model cannot be moved towards a class: {fault}; fit with --backbone none for that")


def open_backbone(config: BackboneConfig, backbone: Backbone | None = None) -> Backbone:
    """The backbone of a model.

    Args:
        config: Description of the backbone in the model file.
        backbone: Backbone that the caller holds already; None loads it.

    Raises:
        RunError: If it is not installed, or is not the one that the model was fitted with.
    """
    if backbone is None:
        try:
            backbone = load_backbone(config.name, **({"weights": config.weights} if config.weights else {}))
        except SSLDError as error:
            raise RunError(f"the model was fitted with a backbone that is not to be had here: {error}") from error
    if backbone.identity != config.identity:
        raise RunError(
            f"the model was fitted with the backbone {config.identity!r}, and {config.name} is {backbone.identity!r} here: "
            "its features would mean something else; install that one, or fit again"
        )
    return backbone
