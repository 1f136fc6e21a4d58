"""Settings of the sections [model] and [backbone] of a recipe: architecture and noise, and a pretrained network beside it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssl_diffusion.settings import Settings

__all__ = ["BackboneSettings", "ModelSettings"]

_Count = Annotated[int, Field(ge=1, le=1024)]
_Dropout = Annotated[float, Field(ge=0, le=0.99)]


class ModelSettings(Settings):
    """Architecture and noise of the joint model."""

    channels: Annotated[int, Field(ge=4, le=4096)] = 64
    """Width of the first level."""
    multipliers: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=16)] = (1, 2)
    """Width of each level as a multiple of `channels`; one number for each level."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    """Residual blocks in each encoder level."""
    decoder_blocks: Annotated[int, Field(ge=0, le=65)] = 0
    """Residual blocks in each decoder level, at most `blocks` + 1; 0 means `blocks` + 1."""
    attention: Annotated[tuple[Annotated[int, Field(ge=0, le=15)], ...], Field(max_length=16)] = ()
    """Levels (0 is the finest) whose blocks are followed by self-attention; the middle always is."""
    heads: Annotated[int, Field(ge=1, le=4096)] = 4
    """Attention heads."""
    groups: Annotated[int, Field(ge=1, le=4096)] = 32
    """Groups of every group normalisation; the largest common divisor with the width is used."""
    dropout: _Dropout = 0.0
    """Dropout inside residual blocks."""
    stem: Annotated[int, Field(ge=1, le=8)] = 1
    """Pixel-unshuffle factor: 2 turns (C, H, W) into (4C, H/2, W/2) before the first convolution."""
    parameterisation: Literal["edm", "ddpm"] = "edm"
    """Noise levels, preconditioning and loss weight."""
    p_mean: Annotated[float, Field(ge=-20, le=20)] = -1.2
    """Mean of ln sigma during training (edm)."""
    p_std: Annotated[float, Field(ge=0, le=20)] = 1.2
    """Standard deviation of ln sigma during training (edm)."""
    ddpm_steps: Annotated[int, Field(ge=21, le=1_000_000)] = 1000
    """Length of the linear schedule (ddpm)."""
    pool_maps: Literal["levels", "blocks"] = "levels"
    """Maps of the representation: "levels" pools the last map of every level and the middle one; "blocks" pools the maps of
    all blocks, as the official code does."""
    pool_grids: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=16)] = (1,)
    """Grids of the representation: each map is average-pooled to g x g cells for every g listed; 1 is global pooling."""
    read_sigma: Annotated[float, Field(ge=0, le=80)] = 0.0
    """Smallest nominal noise level at which images are read for classification."""
    head_width: Annotated[int, Field(ge=-1, le=65_536)] = -1
    """Hidden units of the head; -1 is half of the representation, 0 a linear head."""
    head_dropout: _Dropout = 0.0
    """Dropout before each of the head's linear layers."""

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if any(level >= len(self.multipliers) for level in self.attention):
            raise ValueError(f"attention names a level that {len(self.multipliers)} multipliers do not have")
        if self.decoder_blocks > self.blocks + 1:
            raise ValueError(f"decoder_blocks must be in [0, {self.blocks + 1}], not {self.decoder_blocks}")
        return self


class BackboneSettings(Settings):
    """A pretrained network whose features join the representation."""

    name: Annotated[str, Field(min_length=1)] = "none"
    """Name of the backbone, as `ssld backbones` lists them, or a file of torch.export (.pt2); "none" reads no backbone, "auto"
    the one of the extra `photos` for color images from files, where it is installed."""
    weights: str = ""
    """File of its weights, for those that need one; "" is what the name stands for."""
    pseudo_labels: bool = True
    """Whether up to 1,000 labels are spread over 5,000 images of the pool, and a probe is taught these pseudo-labels, where
    held-out labels favor it."""
