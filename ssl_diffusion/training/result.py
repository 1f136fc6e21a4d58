"""What a training gives back."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig, JointDiffusion

__all__ = ["Fitted", "TrainingResult"]


@dataclass
class TrainingResult:
    """Final weights (`ema` is the one to use), the history as a list of rows, and what it cost."""

    raw: dict[str, Tensor] = field(default_factory=dict)
    ema: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    non_finite_steps: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    interrupted: bool = False


@dataclass(frozen=True)
class Fitted:
    """A fitted model: its configuration, both sets of weights, and how it came about.

    `raw` is empty for a denoise-only fit: the cache, from which it comes, keeps averaged weights only.
    """

    config: JointConfig
    ema: dict[str, Tensor]
    raw: dict[str, Tensor]
    history: list[dict[str, Any]]
    pretraining: dict[str, Any] | None
    training: TrainingResult

    def model(self) -> JointDiffusion:
        """The joint model with its EMA weights, on the CPU, in evaluation mode."""
        model = build_model(self.config, seed=0)
        model.load_state_dict(self.ema)
        return model.eval()
