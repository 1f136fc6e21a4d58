"""Models with seeded weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_diffusion.errors import CheckpointError
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.fused import FusedConfig, FusedDiffusion, open_backbone
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.unet import flatten_pointwise
from ssl_diffusion.seeding import derive_seed

__all__ = ["build_model", "count_parameters", "read_config", "weights_fault"]


def read_config(values: Mapping[str, Any], source: str = "") -> JointConfig:
    """A configuration from the header of a model file, with a backbone if it names one; see :meth:`JointConfig.from_dict`.

    Example:
        >>> read_config(JointConfig(n_classes=3).to_dict()).n_classes
        3
    """
    kind = FusedConfig if isinstance(values, Mapping) and "backbone" in values else JointConfig
    return kind.from_dict(values, source)


def build_model(
    config: JointConfig,
    seed: int,
    initial: dict[str, Tensor] | None = None,
    backbone: Backbone | None = None,
    *,
    without_backbone: bool = False,
) -> JointDiffusion:
    """Build a model with random weights from a seed; the global random state is left alone.

    Args:
        config: Configuration of the model.
        seed: Random seed of the weights.
        initial: Weights by name that replace the random ones; those of the head may be missing. None replaces none.
        backbone: Backbone of the configuration that the caller holds already; None loads it.
        without_backbone: Whether it is left out, for a caller that has its features.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        CheckpointError: If the initial weights do not fit the model.
        RunError: If the backbone is not installed, or is another one than in the fit.

    Example:
        >>> model = build_model(JointConfig(n_classes=10), seed=0)
    """
    found = None
    if isinstance(config, FusedConfig) and not without_backbone:
        found = open_backbone(config.backbone, backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        model = FusedDiffusion(config, found) if isinstance(config, FusedConfig) else JointDiffusion(config)
    if initial is not None:
        missing, unexpected = model.load_state_dict(initial, strict=False)
        if unexpected or any(not name.startswith("head.") for name in missing):
            raise CheckpointError(f"weights do not fit the model: {len(missing)} missing, {len(unexpected)} unexpected")
    return model


def weights_fault(config: JointConfig, weights: Mapping[str, Tensor], *, head: bool = True) -> str:
    """What is wrong with weights for a model, as part of a sentence; empty if nothing is.

    Args:
        config: Configuration of the model; no memory is taken for it, so that an absurd one is found out, too.
        weights: Weights by name.
        head: Whether the weights of the head must be there; else they may be missing.
    """
    try:
        with torch.device("meta"):
            made = FusedDiffusion(config) if isinstance(config, FusedConfig) else JointDiffusion(config)
            expected = made.state_dict()
    except (ValueError, TypeError, RuntimeError, OverflowError, ZeroDivisionError) as error:
        return f"there is no such model ({error})"
    weights = flatten_pointwise(weights)
    for name in dict.fromkeys([*expected, *weights]):
        if name not in weights and not head and name.startswith("head."):
            continue
        there, wanted = _described(weights.get(name)), _described(expected.get(name))
        if there != wanted:
            return f"the weights {name!r} are {there}, not {wanted}"
        if not torch.isfinite(weights[name]).all():
            return f"the weights {name!r} are not finite"
    return ""


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def count_parameters(module: nn.Module) -> int:
    """Number of parameters of a module.

    Example:
        >>> count_parameters(torch.nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in module.parameters())
