"""Models with seeded weights."""

import torch
from torch import Tensor, nn

from ssl_diffusion.errors import CheckpointError
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.seeding import derive_seed

__all__ = ["build_model", "count_parameters"]


def build_model(config: JointConfig, seed: int, initial: dict[str, Tensor] | None = None) -> JointDiffusion:
    """Build a model with random weights from a seed; the global random state is left alone.

    Args:
        config: Configuration of the model.
        seed: Random seed of the weights.
        initial: Weights by name that replace the random ones; those of the head may be missing. None replaces none.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        CheckpointError: If the initial weights do not fit the model.

    Example:
        >>> model = build_model(JointConfig(n_classes=10), seed=0)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        model = JointDiffusion(config)
    if initial is not None:
        missing, unexpected = model.load_state_dict(initial, strict=False)
        if unexpected or any(not name.startswith("head.") for name in missing):
            raise CheckpointError(f"weights do not fit the model: {len(missing)} missing, {len(unexpected)} unexpected")
    return model


def count_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(p.numel() for p in module.parameters())
