"""What a study is: strategies x budgets x seeds, how models are refitted, and the recipe that all share.

A study file is a recipe with a section of its own, or names a recipe and what is different:

    [study]
    recipe = "digits"
    strategies = ["random", "margin", "counterfactual"]
    budgets = [10, 20, 40, 80]
    seeds = 10
    refits = ["probe"]
"""

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from ssl_diffusion.acquisition.adapters.from_activeml import foreign_strategy, is_foreign
from ssl_diffusion.errors import RecipeError, SSLDError, nearest_names
from ssl_diffusion.training.recipe import Recipe, convert, load_recipe

__all__ = ["REFITS", "StudySettings", "load_study"]

# name: what it is, in words
REFITS = {
    "probe": "logistic regression on the frozen representation of the denoiser",
    "warm": "joint training that goes on from the weights of the round before",
    "scratch": "joint training from the cached denoiser",
    "self-training": "scikit-learn's SelfTraining around logistic regression on the frozen representation",
}


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study.

    Args:
        recipe: data and model; the labels of its own budget are not used, and its seed is replaced by the trial's.
        strategies: names of acquisition strategies, also with variants ("margin:diverse"); "activeml:CLASS" is a strategy of
            scikit-activeml on the representation.
        budgets: labels at which a model is refitted and tested, increasing; the first is the starting set.
        seeds: trials of each strategy: seeds first_seed, first_seed + 1, ...
        first_seed: see seeds.
        refits: of :data:`REFITS`; each makes trials of its own.
        cold_start: strategies that need no labels choose the starting set themselves, on the denoiser's representation; the
            others start from a random set of the seed, as all do without it.
        warm_steps: training steps of a warm refit, as a share of the recipe's.
        baseline: strategy that the others are compared with.
    """

    recipe: Recipe = field(default_factory=Recipe)
    strategies: tuple[str, ...] = ("random", "auto")
    budgets: tuple[int, ...] = (10, 20, 40, 80, 160)
    seeds: int = 10
    first_seed: int = 0
    refits: tuple[str, ...] = ("probe",)
    cold_start: bool = True
    warm_steps: float = 0.3
    baseline: str = "random"

    def __post_init__(self) -> None:
        from ssl_diffusion.acquisition.names import strategy_for

        for name in self.strategies:
            if is_foreign(name):
                foreign_strategy(name)
            elif name != "auto":
                strategy_for(name, 0, 0)
        _distinct("strategies", self.strategies)
        _distinct("refits", self.refits)
        if unknown := [r for r in self.refits if r not in REFITS]:
            raise SSLDError(f"no way to refit {unknown[0]!r}; {nearest_names(unknown[0], REFITS)}")
        if self.baseline not in self.strategies:
            raise RecipeError(f"the baseline {self.baseline!r} is not among the strategies {', '.join(self.strategies)}")
        if len(self.budgets) < 2 or any(b <= a for a, b in zip((0, *self.budgets), self.budgets, strict=False)):
            raise RecipeError(f"budgets are two or more numbers of labels in increasing order, not {list(self.budgets)}")
        if self.seeds < 1 or self.first_seed < 0:
            raise RecipeError(f"a study needs one seed or more, from 0 on, not {self.seeds} from {self.first_seed}")
        if not 0 < self.warm_steps <= 1:
            raise RecipeError(f"warm_steps is a share in (0, 1], not {self.warm_steps}")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values for TOML: the recipe's sections, and "study"."""
        own = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k != "recipe"}
        return {**self.recipe.to_dict(), "study": own}

    def to_toml(self) -> str:
        """The study as the text of a TOML file."""
        return tomli_w.dumps(self.to_dict())

    def differences(self, other: "StudySettings") -> list[str]:
        """Settings in which two studies differ, as "section.name: mine -> other's"."""
        mine, theirs = self.to_dict()["study"], other.to_dict()["study"]
        own = [f"study.{k}: {v!r} -> {theirs[k]!r}" for k, v in mine.items() if v != theirs[k]]
        return own + self.recipe.differences(other.recipe)


def load_study(path: Path) -> StudySettings:
    """Read a study file.

    Raises:
        RecipeError: if it cannot be read, or a setting is unknown, of the wrong type or out of range.
        SSLDError: if a strategy does not exist.
    """
    if not path.is_file():
        raise RecipeError(f"no study file {path}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as text in UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
    own = values.pop("study", {})
    if not isinstance(own, dict):
        raise RecipeError(f"{path}: study is a section, not {own!r}")
    base = own.pop("recipe", None)
    kinds = {f.name: f.type for f in fields(StudySettings) if f.name != "recipe"}
    settings: dict[str, Any] = {}
    for key, value in own.items():
        if key not in kinds:
            raise RecipeError(f"{path}: no setting study.{key}; {nearest_names(key, [*kinds, 'recipe'])}")
        settings[key] = convert(value, kinds[key], f"{path}: study.{key}")
    if base is None:
        return StudySettings(recipe=Recipe.from_dict(values, str(path)), **settings)
    recipe = load_recipe(str(base))
    for section, table in values.items():
        if not isinstance(table, dict):
            raise RecipeError(f"{path}: {section} is a section, not {table!r}")
        for key, value in table.items():
            recipe = recipe.with_setting(f"{section}.{key}", value, str(path))
    return StudySettings(recipe=recipe, **settings)


def _distinct(what: str, names: tuple[str, ...]) -> None:
    if not names:
        raise RecipeError(f"{what} is empty; name one or more")
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise RecipeError(f"{what} names {sorted(double)[0]!r} twice")
