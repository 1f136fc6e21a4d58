"""Results of training: of one phase, and of a whole fit."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.training.starting_point import StartComparison

__all__ = ["Fitted", "TrainingResult"]


@dataclass
class TrainingResult:
    """Result of one phase.

    Attributes:
        raw: Final weights by name.
        ema: Moving averages of the weights by name; these are the ones to use.
        history: Rows of the history.
        steps: Number of steps that were taken.
        images_seen: Number of images that these steps read, over all ranks.
        seconds: Time of training, in seconds.
        non_finite_steps: Number of steps that were left out because their gradient was not finite.
        device: Device that was used, such as "cpu".
        precision: Precision that was used, "fp32" or "bf16".
        interrupted: Whether the phase was stopped before its last step.
        replanned: Steps at which the number of steps was planned again, each followed by the number from there on.
    """

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
    replanned: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """A fitted model.

    Attributes:
        config: Configuration of the model.
        ema: Moving averages of the weights by name; these are the ones to use.
        raw: Final weights by name; empty if no training steps followed the pretraining, whose cache keeps averages only.
        history: Rows of the history, pretraining first.
        pretraining: Facts about the pretraining: key, cached, steps, images_seen, seconds. None without one.
        training: Result of the training phase.
        start: Comparison with the probe of the pretrained denoiser, and whether that was kept instead of the trained model
            (:mod:`ssl_diffusion.training.starting_point`); None if they were not compared.
        backbone: Backbone of the model; None without one.
        backbone_facts: Facts about it for the metrics; None without one.

    Example:
        >>> logits = fitted.model().classify(x)
    """

    config: JointConfig
    ema: dict[str, Tensor]
    raw: dict[str, Tensor]
    history: list[dict[str, Any]]
    pretraining: dict[str, Any] | None
    training: TrainingResult
    start: StartComparison | None = None
    backbone: Backbone | None = None
    backbone_facts: dict[str, Any] | None = None

    def model(self) -> JointDiffusion:
        """The joint model with its averaged weights, on the CPU, in evaluation mode."""
        model = build_model(self.config, seed=0, backbone=self.backbone)
        model.load_state_dict(self.ema)
        return model.eval()
