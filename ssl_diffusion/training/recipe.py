"""Recipes: the settings of a run as TOML, checked key by key.

A recipe has the sections below. `recipes/NAME.toml` holds the defaults of a data set, the command line overrides single
settings (`--set training.steps=500`), and the run folder keeps the resolved recipe, from which the run can be repeated.
"""

import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from ssl_diffusion.data.settings import DataSettings, LabelSettings
from ssl_diffusion.errors import RecipeError, nearest_names
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.settings import AugmentationSettings, ComputeSettings, PhaseSettings, TrainingSettings

__all__ = ["Recipe", "convert", "load_recipe", "recipe_for", "recipe_names"]


@dataclass(frozen=True)
class Recipe:
    """All settings of a run."""

    name: str = "custom"
    description: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    pretraining: PhaseSettings = field(default_factory=PhaseSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "recipe") -> "Recipe":
        """Build a recipe from nested mappings; unknown keys and wrong types raise :class:`RecipeError`."""
        recipe = cls()
        for section, content in values.items():
            if isinstance(content, Mapping):
                for key, value in content.items():
                    recipe = recipe.with_setting(f"{section}.{key}", value, source)
            else:
                recipe = recipe.with_setting(section, content, source)
        return recipe.checked(source)

    def with_setting(self, key: str, value: Any, source: str = "recipe") -> "Recipe":
        """A copy with one setting changed; `key` is "section.name", text values are converted to the setting's type."""
        section, _, name = key.partition(".")
        if not name:
            if section not in ("name", "description"):
                raise RecipeError(f"{source}: unknown setting {key!r}; {nearest_names(key, _all_keys())}")
            text: dict[str, Any] = {section: str(value)}
            return replace(self, **text)
        part = getattr(self, section, None) if section in _SECTIONS else None
        types_by_name = typing.get_type_hints(type(part)) if part is not None else {}
        if name not in types_by_name:
            raise RecipeError(f"{source}: unknown setting {key!r}; {nearest_names(key, _all_keys())}")
        converted = convert(value, types_by_name[name], f"{source}: {key}")
        changed: dict[str, Any] = {section: replace(part, **{name: converted})}  # type: ignore[type-var]
        return replace(self, **changed)

    def with_overrides(self, assignments: Iterable[str]) -> "Recipe":
        """A copy with "section.name=value" texts applied."""
        recipe = self
        for text in assignments:
            key, equals, value = text.partition("=")
            if not equals:
                raise RecipeError(f"a setting is given as section.name=value, not {text!r}")
            recipe = recipe.with_setting(key.strip(), value.strip(), "--set")
        return recipe.checked("--set")

    def checked(self, source: str) -> "Recipe":
        """Itself, if every value is in range; else :class:`RecipeError`."""
        from ssl_diffusion.training.augment import POLICIES
        from ssl_diffusion.training.objective import OBJECTIVES

        m, t, a = self.model, self.training, self.augmentation
        choices: list[tuple[str, str, Iterable[str]]] = [
            ("training.objective", t.objective, (*OBJECTIVES, "probe")),
            ("training.head_start", t.head_start, ("zero", "probe")),
            ("training.consistency", t.consistency, ("none", "match")),
            ("model.parameterisation", m.parameterisation, ("edm", "ddpm")),
            ("model.pool_maps", m.pool_maps, ("levels", "blocks")),
            ("labels.choice", self.labels.choice, ("balanced", "uniform")),
            ("augmentation.policy", a.policy, ("auto", *POLICIES)),
            ("augmentation.flip", a.flip, ("auto", "on", "off")),
            ("augmentation.labeled", a.labeled, ("none", "weak", "strong")),
            ("compute.precision", self.compute.precision, ("auto", "fp32", "bf16")),
            ("compute.accelerator", self.compute.accelerator, ("auto", "cpu", "cuda", "gpu", "mps")),
        ]
        for key, text, known in choices:
            if text not in known:
                raise RecipeError(f"{source}: {key} cannot be {text!r}; {nearest_names(text, known)}")
        inf = float("inf")
        ranges: list[tuple[str, float, float, float]] = [
            ("training.labeled_batch_size", t.labeled_batch_size, 1, inf),
            ("training.unlabeled_batch_size", t.unlabeled_batch_size, 1, inf),
            ("training.consistency_threshold", t.consistency_threshold, 0, 1),
            ("training.classification_weight", t.classification_weight, 0, 1e6),
            ("training.encoder_lr", t.encoder_lr, 0, 1e6),
            ("training.encoder_lr_labels", t.encoder_lr_labels, 0, inf),
            ("training.label_smoothing", t.label_smoothing, 0, 0.99),
            ("training.head_noise", t.head_noise, 0, 80),
            ("labels.budget", self.labels.budget, -1, inf),
            ("labels.val_fraction", self.labels.val_fraction, 0, 0.9),
            ("data.size", self.data.size, 0, 65_536),
            ("data.test_fraction", self.data.test_fraction, 0, 0.9),
            ("compute.devices", self.compute.devices, 1, 1024),
            ("compute.threads", self.compute.threads, 0, 65_536),
            ("model.channels", m.channels, 4, 4096),
            ("model.blocks", m.blocks, 1, 64),
            ("model.heads", m.heads, 1, 4096),
            ("model.groups", m.groups, 1, 4096),
            ("model.dropout", m.dropout, 0, 0.99),
            ("model.head_dropout", m.head_dropout, 0, 0.99),
            ("model.head_width", m.head_width, -1, 65_536),
            ("model.read_sigma", m.read_sigma, 0, 80),
            ("model.stem", m.stem, 1, 8),
            ("model.p_mean", m.p_mean, -20, 20),
            ("model.p_std", m.p_std, 0, 20),
            ("model.ddpm_steps", m.ddpm_steps, 21, 1_000_000),
        ]
        for phase, settings in (("pretraining", self.pretraining), ("training", t)):
            ranges += [
                (f"{phase}.steps", settings.steps, 0, inf),
                (f"{phase}.batch_size", settings.batch_size, 1, inf),
                (f"{phase}.learning_rate", settings.learning_rate, 1e-9, 10),
                (f"{phase}.warmup", settings.warmup, 0, 1),
                (f"{phase}.weight_decay", settings.weight_decay, 0, 1e6),
                (f"{phase}.clip", settings.clip, 1e-9, inf),
                (f"{phase}.ema", settings.ema, 0, 1),
                (f"{phase}.seed", settings.seed, 0, 2**63 - 1),
            ]
        for key, numbers, least in (
            ("multipliers", m.multipliers, 1),
            ("pool_grids", m.pool_grids, 1),
            ("attention", m.attention, 0),
        ):
            if not numbers and key != "attention":
                raise RecipeError(f"{source}: model.{key} is empty; it needs one whole number or more")
            ranges += [(f"model.{key}", number, least, 1024) for number in numbers]
        for key, value, low, high in ranges:
            if not low <= value <= high:
                raise RecipeError(f"{source}: {key} must be in [{low:g}, {high:g}], not {value:g}")
        if any(level >= len(m.multipliers) for level in m.attention):
            raise RecipeError(f"{source}: model.attention names a level that {len(m.multipliers)} multipliers do not have")
        if not 0 <= m.decoder_blocks <= m.blocks + 1:
            raise RecipeError(f"{source}: model.decoder_blocks must be in 0..{m.blocks + 1}, not {m.decoder_blocks}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for TOML and JSON; :meth:`from_dict` reverses it."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    def to_toml(self) -> str:
        """The recipe as the text of a TOML file."""
        return tomli_w.dumps(self.to_dict())

    def save(self, path: Path) -> None:
        """Write the recipe as TOML."""
        path.write_text(self.to_toml(), encoding="utf-8")

    def differences(self, other: "Recipe") -> list[str]:
        """Settings in which two recipes differ, as "section.name: mine -> other's"; how and where they compute left out."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [
            f"{section}.{key}: {value!r} -> {theirs[section][key]!r}"
            for section in _SECTIONS
            if section != "compute"
            for key, value in mine[section].items()
            if value != theirs[section][key]
        ]


_SECTIONS = tuple(f.name for f in fields(Recipe) if f.name not in ("name", "description"))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("ssl_diffusion.recipes")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def recipe_for(dataset: str, preset: str | None = None) -> str:
    """Name of the recipe of a data set, or of one of its presets; data sets without a recipe of their own use "images".

    Raises:
        RecipeError: if there is no such preset.
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
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}")
        source = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} cannot be read as text in UTF-8: {error}") from None
    else:
        known = recipe_names()
        if str(name_or_path) not in known:
            raise RecipeError(f"no recipe {str(name_or_path)!r}; {nearest_names(str(name_or_path), known)}")
        source = f"recipe {name_or_path}"
        text = resources.files("ssl_diffusion.recipes").joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}") from None
    return Recipe.from_dict(values, source)


def _all_keys() -> list[str]:
    defaults = Recipe()
    return ["name", "description", *(f"{s}.{f.name}" for s in _SECTIONS for f in fields(getattr(defaults, s)))]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def convert(value: Any, wanted: Any, where: str) -> Any:
    """`value` (from TOML, or text from the command line) as the type `wanted`."""
    origin = typing.get_origin(wanted)
    if origin is tuple:
        item = typing.get_args(wanted)[0]
        parts = value
        if isinstance(value, str):
            parts = [p.strip() for p in value.replace("[", "").replace("]", "").split(",") if p.strip()]
        if not isinstance(parts, list | tuple):
            raise RecipeError(f"{where} is a list, not {value!r}")
        return tuple(convert(p, item, where) for p in parts)
    if origin is types.UnionType:
        raise TypeError(f"{where}: union types are not used in recipes")
    if wanted is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise RecipeError(f"{where} is true or false, not {value!r}")
    if wanted is str:
        return str(value)
    if isinstance(value, bool):
        raise RecipeError(f"{where} is a number, not {value!r}")
    try:
        if wanted is int and (isinstance(value, int) or str(value).isdecimal()):
            return int(value)  # not by way of float, which would round large seeds
        number = float(value)
        if wanted is int and number != int(number):
            raise ValueError
        return wanted(number)
    except (TypeError, ValueError, OverflowError):
        kind = "whole number" if wanted is int else "number"
        raise RecipeError(f"{where} is a {kind}, not {value!r}") from None
