"""What a study is: strategies x budgets x seeds, how models are refitted, and the recipe that all share.

A study file is a recipe with a section of its own, or names a recipe and what is different:

    [study]
    recipe = "digits"
    strategies = ["random", "margin", "counterfactual"]
    budgets = [10, 20, 40, 80]
    seeds = 10
    refits = ["probe"]
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssl_diffusion.acquisition.adapters.from_activeml import foreign_strategy, is_foreign
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.errors import RecipeError, SSLDError
from ssl_diffusion.settings import LARGEST_SEED, AtLeastOne, Seed, Trials, read_toml, shown
from ssl_diffusion.studies.oracle import ORACLE
from ssl_diffusion.training.recipe import Recipe, SettingsWithRecipe, load_recipe

__all__ = ["REFITS", "RefitName", "StudySettings", "load_study"]

RefitName = Literal["probe", "warm", "scratch", "self-training"]


# name: what it is, in words
REFITS: dict[str, str] = {
    "probe": "logistic regression on the frozen representation of the denoiser",
    "warm": "joint training that continues from the weights of the round before",
    "scratch": "joint training from the cached denoiser",
    "self-training": "scikit-learn's SelfTraining around logistic regression on the frozen representation",
}


class StudySettings(SettingsWithRecipe):
    """Settings of a study; its recipe says what data and model are, its labeled budget and seed are the trials' own."""

    section: ClassVar[str] = "study"

    strategies: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] = ("random", "auto")
    """Acquisition strategies, also with variants ("margin:diverse"); "activeml:CLASS" is a strategy of scikit-activeml on the
    representation, "oracle" the best of a hundred batches by the test labels, which is a ceiling and no strategy."""
    budgets: Annotated[tuple[AtLeastOne, ...], Field(min_length=2, max_length=1000)] = (10, 20, 40, 80, 160)
    """Numbers of labels at which a model is refitted and tested, increasing; the first is the size of the starting set."""
    seeds: Trials = 10
    """Number of trials of each strategy; their seeds are first_seed, first_seed + 1, ..."""
    first_seed: Seed = 0
    """Seed of the first trial."""
    refits: Annotated[tuple[RefitName, ...], Field(min_length=1, max_length=4)] = ("probe",)
    """Ways to refit; each makes trials of its own."""
    cold_start: bool = True
    """Whether strategies that need no labels choose the starting set themselves, on the denoiser's representation; the others
    start from a random set of the seed, as all do without it."""
    warm_steps: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Training steps of a warm refit, as a fraction of the recipe's."""
    pool_size: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Training images that labels can be asked of, drawn with the seed of the trial; 0 for all. The denoiser sees the others
    without labels."""
    foreign: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    """Classes whose images stay in the pool, but are none of the classes: the annotator says "none of these", and they are not
    tested. For probe and self-training refits."""
    long_tail: Annotated[float, Field(ge=1, le=100_000)] = 1.0
    """Ratio of the largest class of the pool to the smallest, with those between on an exponential curve; which are rare is
    drawn with the seed of the trial. 1 leaves the pool as it is. For probe and self-training refits."""
    label_noise: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Probability that the annotator takes an image for one of the other classes."""
    baseline: str = "random"
    """Strategy that the others are compared with."""

    @field_validator("strategies", "refits", "foreign")
    @classmethod
    def _check_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if double := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{double[0]!r} is named twice; name it once")
        return names

    @field_validator("strategies")
    @classmethod
    def _check_strategies(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                if is_foreign(name):
                    foreign_strategy(name)
                elif name != ORACLE:
                    strategy_for(name, 0, 0)
            except SSLDError as error:
                raise ValueError(str(error)) from None
        return names

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in pairwise(budgets)):
            raise ValueError(f"numbers of labels must be in increasing order, not {list(budgets)}")
        return budgets

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.baseline not in self.strategies:
            raise ValueError(f"baseline {shown(self.baseline)} is not among the strategies {', '.join(self.strategies)}")
        if ORACLE in self.strategies and (others := [name for name in self.refits if name != "probe"]):
            raise ValueError(
                f"the oracle refits a hundred times a round, which only a probe allows: leave it or refit {others[0]!r} out"
            )
        trained = sorted({"scratch", "warm"} & {*self.refits})
        if trained and (self.foreign or self.long_tail > 1):
            changed = "foreign" if self.foreign else "long_tail"
            raise ValueError(
                f"refit {trained[0]!r} trains on all images of the pool, which {changed} changes: leave out one of the two"
            )
        if self.recipe.backbone.name not in ("none", "auto") and trained:
            raise ValueError(f"refit {trained[0]!r} trains its own head, which reads no backbone yet: leave out one of the two")
        if self.first_seed + self.seeds - 1 > LARGEST_SEED:
            raise ValueError(f"first_seed is too large for {self.seeds} seeds; the last one may be {LARGEST_SEED}")
        return self

    @classmethod
    def _recipe(cls, base: Any, values: Mapping[str, Any], source: str) -> Recipe:
        if base is None:
            return Recipe.from_dict(values, source)
        if not isinstance(base, str):
            raise RecipeError(f"{source}: study.recipe is the name of a recipe or a file, not {shown(base)}")
        return load_recipe(base).updated(values, source)

    def differences(self, other: "StudySettings") -> list[str]:
        """Settings in which two studies differ, as "section.name: mine -> other's"."""
        mine, theirs = self.to_dict()["study"], other.to_dict()["study"]
        own = [f"study.{k}: {v!r} -> {theirs[k]!r}" for k, v in mine.items() if v != theirs[k]]
        return own + self.recipe.differences(other.recipe)


def load_study(path: Path) -> StudySettings:
    """Read a study file.

    Raises:
        RecipeError: if it cannot be read, or a setting is unknown, of the wrong type or out of range.

    Example:
        >>> load_study(Path("study.toml")).strategies  # doctest: +SKIP
        ('random', 'margin')
    """
    if not path.is_file():
        raise RecipeError(f"no study file {path}")
    return StudySettings.from_dict(read_toml(path), str(path))
