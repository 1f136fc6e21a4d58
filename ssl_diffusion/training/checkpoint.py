"""The state of the training loop as one file, from which it continues bit for bit."""

from typing import Any

from torch import Tensor

from ssl_diffusion.errors import CheckpointError
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.weights import load_tensors, prefixed, save_tensors, with_prefix
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.consistency import Match
from ssl_diffusion.training.result import TrainingResult

__all__ = ["TrainingState"]


class TrainingState:
    """State of the training loop as one checkpoint file.

    Args:
        model: Model that is trained.
        ema: Averages of its parameters, in the order of `model.parameters()`.
        optimizer: Optimiser, as set up by Fabric.
        match: Consistency term, whose averages belong to the state; None if the phase has none.
        phase: Phase, which names the file.
    """

    def __init__(self, model: JointDiffusion, ema: list[Tensor], optimizer: Any, match: Match | None, phase: Phase) -> None:
        self.model, self.ema, self.optimizer, self.match, self.phase = model, ema, optimizer, match, phase

    def save(self, result: TrainingResult) -> None:
        """Write weights, averages, optimiser moments and counters."""
        assert self.phase.checkpoint is not None
        names = [name for name, _ in self.model.named_parameters()]
        moments = {
            f"{index}.{key}": value
            for index, entry in self.optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        tensors = {
            **prefixed("raw", self.model.state_dict()),
            **prefixed("ema", dict(zip(names, self.ema, strict=True))),
            **prefixed("optimizer", moments),
            **prefixed("consistency", self.match.state_dict() if self.match is not None else {}),
        }
        metadata = {
            "job": self.phase.name,
            "identity": self.phase.identity,
            "steps": result.steps,
            "images_seen": result.images_seen,
            "seconds": result.seconds,
            "non_finite_steps": result.non_finite_steps,
            "history": result.history,
        }
        save_tensors(self.phase.checkpoint, tensors, metadata)

    def load(self, result: TrainingResult) -> None:
        """Read the state from the file into model, averages, optimiser and `result`.

        Raises:
            CheckpointError: If the file is damaged, or belongs to another phase.
        """
        assert self.phase.checkpoint is not None
        tensors, metadata = load_tensors(self.phase.checkpoint)
        if metadata.get("job") != self.phase.name or metadata.get("identity") != self.phase.identity:
            raise CheckpointError(
                f"{self.phase.checkpoint} was made with other settings, data or labels; use --overwrite to start again"
            )
        self.model.load_state_dict(with_prefix("raw", tensors))
        averages = with_prefix("ema", tensors)
        for (name, _), average in zip(self.model.named_parameters(), self.ema, strict=True):
            average.copy_(averages[name])
        if self.match is not None:
            self.match.load_state_dict(with_prefix("consistency", tensors))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in with_prefix("optimizer", tensors).items():
            index, _, key = name.partition(".")
            entries.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        for key in ("steps", "images_seen", "seconds", "non_finite_steps", "history"):
            setattr(result, key, metadata[key])
