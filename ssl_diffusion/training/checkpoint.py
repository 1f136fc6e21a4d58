"""The state of the training loop as one file, from which it continues bit for bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ssl_diffusion.errors import CheckpointError, SSLDError, StateError
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.weights import load_tensors, prefixed, save_tensors, with_prefix
from ssl_diffusion.settings import State, parse_state
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.consistency import Match
from ssl_diffusion.training.result import TrainingResult

__all__ = ["TrainingState"]


_Count = Annotated[int, Field(ge=0)]


class _Counters(State):
    """What a checkpoint says of the steps so far; see :class:`TrainingResult`."""

    steps: _Count
    images_seen: _Count
    seconds: Annotated[float, Field(ge=0)]
    non_finite_steps: _Count
    history: list[dict[str, Any]]
    replanned: tuple[_Count, ...] = ()


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
        path = self._path()
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
            "replanned": list(result.replanned),
        }
        save_tensors(path, tensors, metadata)

    def load(self, result: TrainingResult) -> None:
        """Read the state from the file into model, averages, optimiser and `result`.

        Raises:
            CheckpointError: If the file is damaged, or belongs to another phase.
        """
        path = self._path()
        advice = f"remove it, and {self.phase.name} begins again when the run is resumed"
        tensors, metadata = load_tensors(path, advice)
        if metadata.get("job") != self.phase.name or metadata.get("identity") != self.phase.identity:
            raise CheckpointError(f"{path} was made with other settings, data or labels; use --overwrite to start again")
        try:
            counters = parse_state(json.dumps(metadata), _Counters, path, remedy=advice, nan=True)
            raw, averages = with_prefix("raw", tensors), with_prefix("ema", tensors)
            moments = self._moments(with_prefix("optimizer", tensors))
            self.model.load_state_dict(raw)
            for (name, _), average in zip(self.model.named_parameters(), self.ema, strict=True):
                if averages[name].shape != average.shape:
                    raise ValueError(f"ema.{name} has shape {tuple(averages[name].shape)}, not {tuple(average.shape)}")
                average.copy_(averages[name])
            if self.match is not None:
                self.match.load_state_dict(with_prefix("consistency", tensors))
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        except StateError as error:
            raise CheckpointError(str(error)) from None
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path} is damaged or of another version ({reason}); {advice}") from error
        for key, value in counters:
            setattr(result, key, value)

    def _path(self) -> Path:
        if self.phase.checkpoint is None:
            raise SSLDError(f"the phase {self.phase.name} keeps no checkpoint: give it a file")
        return self.phase.checkpoint

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Moments of the optimiser by the index of their parameter."""
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            entries.setdefault(int(index), {})[key] = value
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for at, entry in entries.items():
            for kind, moment in entry.items():
                if not 0 <= at < len(parameters) or moment.shape not in (parameters[at].shape, ()):
                    raise ValueError(f"optimizer.{at}.{kind} belongs to no parameter")
                if moment.ndim:  # a fused step takes the memory of a parameter and its moments to be in the same order
                    entry[kind] = torch.empty_like(parameters[at]).copy_(moment).detach()
        return entries
