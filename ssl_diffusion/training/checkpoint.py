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
    """The loop's state as one checkpoint file."""

    def __init__(self, model: JointDiffusion, ema: list[Tensor], optimizer: Any, match: Match | None, job: Phase) -> None:
        self.model, self.ema, self.optimizer, self.match, self.job = model, ema, optimizer, match, job

    def save(self, result: TrainingResult) -> None:
        """Write weights, averages, optimiser moments and counters."""
        assert self.job.checkpoint is not None
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
            "job": self.job.name,
            "identity": self.job.identity,
            "steps": result.steps,
            "images_seen": result.images_seen,
            "seconds": result.seconds,
            "non_finite_steps": result.non_finite_steps,
            "history": result.history,
        }
        save_tensors(self.job.checkpoint, tensors, metadata)

    def load(self, result: TrainingResult) -> None:
        """Continue from the file: fills model, averages, optimiser and `result`."""
        assert self.job.checkpoint is not None
        tensors, metadata = load_tensors(self.job.checkpoint)
        if metadata.get("job") != self.job.name or metadata.get("identity") != self.job.identity:
            raise CheckpointError(
                f"{self.job.checkpoint} was made with other settings, data or labels; use --overwrite to start again"
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
