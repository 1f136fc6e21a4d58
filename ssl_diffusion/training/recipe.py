"""Recipes: the settings of a run as TOML, checked key by key.

A recipe has the sections below. `recipes/NAME.toml` holds the defaults of a data set, the command line overrides single
settings (`--set training.steps=500`), and the run folder keeps the resolved recipe, from which the run can be repeated.
"""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import Field

from ssl_diffusion.data.settings import DataSettings, LabelSettings
from ssl_diffusion.errors import RecipeError, nearest_names, unknown_setting
from ssl_diffusion.models.settings import BackboneSettings, ModelSettings
from ssl_diffusion.settings import Settings, parse_toml, read_toml, shown
from ssl_diffusion.training.settings import AugmentationSettings, ComputeSettings, PhaseSettings, TrainingSettings

__all__ = ["Recipe", "SettingsWithRecipe", "load_recipe", "recipe_for", "recipe_names"]


# Sections that stand beside a recipe's own in files of another kind, and where.
_BESIDE = {"study": "in a file for `ssld study --recipe`", "job": "in the job.toml of a job"}


class Recipe(Settings):
    """All settings of a run."""

    name: str = "custom"
    """Name of the recipe."""
    description: str = ""
    """What it is for."""
    data: DataSettings = Field(default_factory=DataSettings)
    labels: LabelSettings = Field(default_factory=LabelSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    backbone: BackboneSettings = Field(default_factory=BackboneSettings)
    augmentation: AugmentationSettings = Field(default_factory=AugmentationSettings)
    pretraining: PhaseSettings = Field(default_factory=PhaseSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    compute: ComputeSettings = Field(default_factory=ComputeSettings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """A recipe from nested mappings, as TOML has them; see :meth:`Settings.from_dict`."""
        for section, where in _BESIDE.items():
            if isinstance(values, Mapping) and section in values:
                said = f"a recipe has no section [{section}], which stands {where}"
                raise RecipeError(f"{source}: {said}" if source else said)
        return super().from_dict(values, source)

    def updated(self, values: Mapping[str, Any], source: str = "") -> "Recipe":
        """A copy with other values where `values` (nested, as for :meth:`from_dict`) has some.

        Raises:
            RecipeError: if a setting is unknown, of the wrong type or out of range; it names `source`.
        """
        merged: dict[str, Any] = self.to_dict()
        for key, value in values.items():
            both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
            if both and "steps" in value and "replanned" in merged[key]:  # which is about other steps
                del merged[key]["replanned"]
            merged[key] = {**merged[key], **value} if both else value
        return self.from_dict(merged, source)

    def with_settings(self, changes: Mapping[str, Any], source: str = "") -> "Recipe":
        """A copy with settings changed, all at once; keys are "section.name", texts are read as the setting's type.

        Raises:
            RecipeError: if a setting is unknown, of the wrong type or out of range; it names `source`.
        """
        nested: dict[str, Any] = {}
        for key, value in changes.items():
            section, dot, name = key.partition(".")
            if not dot:
                nested[section] = value
            elif isinstance(part := nested.setdefault(section, {}), dict):
                part[name] = value
        return self.updated(nested, source)

    def with_setting(self, key: str, value: Any, source: str = "") -> "Recipe":
        """A copy with one setting changed, see :meth:`with_settings`."""
        return self.with_settings({key: value}, source)

    def with_overrides(self, assignments: Iterable[str]) -> "Recipe":
        """A copy with "section.name=value" texts applied; of two for one setting the later holds."""
        changes = {}
        for text in assignments:
            key, equals, value = text.partition("=")
            if not equals:
                raise RecipeError(f"a setting is given as section.name=value, not {text!r}")
            changes[key.strip()] = value.strip()
        return self.with_settings(changes, "--set") if changes else self

    def to_toml(self) -> str:
        """The recipe as the text of a TOML file."""
        return tomli_w.dumps(self.to_dict())

    def save(self, path: Path) -> None:
        """Write the recipe as TOML."""
        path.write_text(self.to_toml(), encoding="utf-8")

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, as plain values: all but the name, the description and [compute]."""
        values = self.to_dict() | {"compute": None, "name": None, "description": None}
        for section in ("pretraining", "training"):
            if not values[section]["replanned"]:  # as recipes of earlier versions
                del values[section]["replanned"]
        if values["training"]["anchor"] == TrainingSettings().anchor:
            del values["training"]["anchor"]
        return values

    def differences(self, other: "Recipe") -> list[str]:
        """Settings in which two recipes differ, as "section.name: mine -> other's"; names and [compute] are left out."""
        mine, theirs = self.identity(), other.identity()
        found = []
        for section in (name for name, values in mine.items() if values is not None):
            for key in mine[section] | theirs[section]:  # defaults may be left out of either
                pair = [r[section].get(key, getattr(getattr(self.__class__(), section), key)) for r in (mine, theirs)]
                if pair[0] != pair[1]:
                    found.append(f"{section}.{key}: {pair[0]!r} -> {pair[1]!r}")
        return found


class SettingsWithRecipe(Settings):
    """Settings that share a file with a recipe: they are the section :attr:`section`, the recipe's sections stand beside it."""

    section: ClassVar[str]

    recipe: Recipe = Field(default_factory=Recipe)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """Settings from nested mappings, as TOML has them; see :meth:`Settings.from_dict`."""
        if not isinstance(values, Mapping):
            return super().from_dict(values, source)
        own = values.get(cls.section, {})
        if not isinstance(own, Mapping):
            raise RecipeError(f"{source}: {cls.section} is a section, not {shown(own)}")
        beside = {key: value for key, value in values.items() if key != cls.section}
        if unknown := next((key for key in beside if key not in Recipe.model_fields and key not in _BESIDE), None):
            key = ".".join((unknown, *list(inner)[:1])) if isinstance(inner := beside[unknown], Mapping) else unknown
            raise RecipeError(f"{source}: {unknown_setting(key, cls.setting_names())}")
        return super().from_dict({**own, "recipe": cls._recipe(own.get("recipe"), beside, source)}, source)

    @classmethod
    def _recipe(cls, base: Any, values: Mapping[str, Any], source: str) -> Recipe:
        """The recipe of a file, from the key `recipe` in the section and what stands beside the section."""
        if base is not None:
            raise RecipeError(f"{source}: {unknown_setting(f'{cls.section}.recipe', cls.setting_names())}")
        return Recipe.from_dict(values, source)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values: the recipe's sections, then :attr:`section`."""
        own = super().to_dict()
        del own["recipe"]
        return {**self.recipe.to_dict(), self.section: own}

    def to_toml(self) -> str:
        """The settings and the recipe as the text of a TOML file."""
        return tomli_w.dumps(self.to_dict())


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package.

    Example:
        >>> "digits" in recipe_names()
        True
    """
    folder = resources.files("ssl_diffusion.recipes")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def recipe_for(dataset: str, preset: str | None = None) -> str:
    """Name of the recipe of a data set, or of one of its presets; data sets without a recipe of their own use "images".

    Raises:
        RecipeError: if there is no such preset.

    Example:
        >>> recipe_for("fashion-mnist", "thorough")
        'fashion-mnist-thorough'
    """
    known = recipe_names()
    base = dataset if dataset in known else "images"
    presets = {"quick": f"{dataset}-quick", "thorough": f"{dataset}-thorough", "paper": f"paper-{dataset}"}
    if preset is None:
        return base
    available = [name for name, recipe in presets.items() if recipe in known]
    if preset not in available:
        there = f"it has: {', '.join(available)}" if available else "it has none"
        raise RecipeError(f"no preset {preset!r} for {dataset}; {there}")
    return presets[preset]


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a recipe by the name of a packaged one or the path of a TOML file.

    Raises:
        RecipeError: if there is no such recipe, the file is not TOML, or a setting is unknown or out of range.

    Example:
        >>> load_recipe("fashion-mnist").model.channels
        64
    """
    path = Path(name_or_path)
    try:
        there = path.is_file()
    except OSError:  # a name that is too long for a file
        there = False
    if path.suffix == ".toml" or there:
        if not there:
            raise RecipeError(f"no recipe file {path}")
        return Recipe.from_dict(read_toml(path), str(path))
    known = recipe_names()
    if str(name_or_path) not in known:
        raise RecipeError(f"no recipe {shown(str(name_or_path))}; {nearest_names(str(name_or_path), known)}")
    text = resources.files("ssl_diffusion.recipes").joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    source = f"recipe {name_or_path}"
    return Recipe.from_dict(parse_toml(text, source), source)
