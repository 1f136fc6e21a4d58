"""The optimiser, and the learning rate of the encoder beside that of the head."""

import torch

from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.settings import PhaseSettings

__all__ = ["encoder_scale", "make_optimizer"]


def make_optimizer(
    model: JointDiffusion, s: PhaseSettings, device: torch.device, encoder_scale: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW for the parameters of a model that are trained.

    Args:
        model: Model to train.
        s: Settings of the phase; weight decay is on matrices only.
        device: Device that the model will be on.
        encoder_scale: Learning rate of encoder and decoder relative to the head's.
    """
    groups = []
    for part, parameters in model.parameter_groups().items():
        scale = encoder_scale if part != "head" else 1.0
        trained = [p for p in parameters if p.requires_grad]
        groups.append({"params": [p for p in trained if p.ndim > 1], "weight_decay": s.weight_decay, "scale": scale})
        groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "scale": scale})
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=s.learning_rate, fused=device.type in ("cpu", "cuda"))


def encoder_scale(phase: Phase) -> float:
    """Learning rate of encoder and decoder relative to the head's: lower for pretrained ones, the more so with few labels."""
    s = phase.supervision
    if phase.initial is None or s is None:
        return 1.0
    return s.encoder_lr * min(1.0, len(phase.data.labeled) / max(1, s.encoder_lr_labels))
