"""What a fit is given, whatever its objective."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.conditions import RunConditions
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.pace import Pace
from ssl_diffusion.training.phases import pretraining_job, training_job
from ssl_diffusion.training.recipe import Recipe

__all__ = ["FitOptions", "FitTask", "Pretrained", "Replan"]


@dataclass(frozen=True)
class FitOptions:
    """Options that do not change the result of a fit.

    Args:
        cache:            cache of pretrained denoisers; None neither reads nor writes one
        cache_dir:        folder of data sets, for those that are downloaded; None is the default
        checkpoint_every: seconds between checkpoints
        max_memory:       bytes of images above which the pool is memory-mapped; None keeps any pool in memory
        progress:         callback for the state of long-running work
    """

    cache: DenoiserCache | None = None
    cache_dir: Path | None = None
    checkpoint_every: float = 60.0
    max_memory: int | None = None
    progress: ProgressCallback | None = None

    @property
    def features(self) -> Path | None:
        """Cache directory for the features of a backbone, that of the denoisers; None keeps none."""
        return self.cache.folder.parent if self.cache is not None else None


Replan = Callable[[Sequence[dict[str, Any]]], Recipe]
"""The recipe with the training steps to take, from the rows of the pretraining that has just ended; none if it was not run."""


@dataclass(frozen=True)
class FitTask:
    """Everything that a fit depends on, whatever its objective; `phase` is the training from random weights."""

    recipe: Recipe
    pool: Pool
    labeled: LabeledSet | None
    phase: Phase
    fingerprint: str
    start: dict[str, Tensor] | None
    checkpoints: Path | None
    options: FitOptions
    conditions: RunConditions | None = None
    keep_better: bool = False
    backbone: Backbone | None = None
    replan: Replan | None = None
    paces: Callable[[str], Pace] | None = None

    def labels(self) -> LabeledSet:
        """The labels to use, for an objective that needs some."""
        if self.labeled is None:
            raise DataError(f"objective {self.recipe.training.objective!r} needs labels, but no labeled set was given")
        return self.labeled

    def pretraining(self) -> Phase | None:
        """The pretraining before the training; None if the recipe or the objective has none."""
        phase = pretraining_job(self.recipe, self.phase, self.fingerprint)
        return phase and replace(phase, pace=self.pace("pretraining"))

    def pretraining_key(self, replanned: tuple[int, ...]) -> str:
        """Key in the cache of the pretraining, whose number of steps was planned again at these steps."""
        recipe = self.recipe.replace(pretraining=self.recipe.pretraining.replace(replanned=replanned))
        phase = pretraining_job(recipe, self.phase, self.fingerprint)
        assert phase is not None
        return phase.key

    def pace(self, name: str) -> Pace | None:
        """What plans the steps of a phase again while it runs; None where nothing does."""
        return self.paces(name) if self.paces is not None and self.recipe.compute.devices == 1 else None

    def planned_again(self, pretrained: "Pretrained") -> "FitTask":
        """The task with the training steps that are planned when the pretraining is over."""
        if self.replan is None:
            return self
        recipe = self.replan([] if pretrained.facts["cached"] else pretrained.history)
        phase = training_job(recipe, self.pool, self.labeled)
        return replace(self, recipe=recipe, phase=replace(phase, checkpoint_every=self.phase.checkpoint_every))

    @property
    def cache_dir(self) -> Path | None:
        """Cache directory for the features of a backbone; None keeps none."""
        return self.options.features

    def checkpoint(self, name: str) -> Path | None:
        """File for the state of a phase."""
        return self.checkpoints / name if self.checkpoints is not None else None


@dataclass(frozen=True)
class Pretrained:
    """A denoiser, and what the metrics say of its pretraining."""

    weights: dict[str, Tensor]
    history: list[dict[str, Any]]
    facts: dict[str, Any]
