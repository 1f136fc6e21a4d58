"""Settings of the section [model] of a recipe: architecture and noise."""

from dataclasses import dataclass

__all__ = ["ModelSettings"]


@dataclass(frozen=True)
class ModelSettings:
    """Architecture and noise; see :class:`ssl_diffusion.models.UNetConfig` and :class:`ssl_diffusion.models.JointConfig`.

    `decoder_blocks` 0 means one more than `blocks`; `head_width` -1 means half of the representation.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    decoder_blocks: int = 0
    attention: tuple[int, ...] = ()
    heads: int = 4
    groups: int = 32
    dropout: float = 0.0
    stem: int = 1
    parameterisation: str = "edm"
    p_mean: float = -1.2
    p_std: float = 1.2
    ddpm_steps: int = 1000
    pool_maps: str = "levels"
    pool_grids: tuple[int, ...] = (1,)
    read_sigma: float = 0.0
    head_width: int = -1
    head_dropout: float = 0.0
