"""Settings of an annotation job: the recipe of its fits, and the section [job]."""

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import tomli_w

from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.training.recipe import Recipe, convert

__all__ = ["JobSettings"]


@dataclass(frozen=True)
class JobSettings:
    """Settings of a job.

    Args:
        recipe: the images, and how models are fitted to them.
        store: URL of the database; "" is SQLite in the job folder.
        agreement: annotators that a sample needs.
        audit: samples, drawn by chance, whose labels measure the models and train none.
        batch: samples that a round asks for.
        strategy: that chooses them.
        budget: labels that are wanted in all; 0 is no limit.
        refit_every: new labels after which the server fits a model; 0 leaves that to the user.
        seed: of the audit's draw, of rounds and of fits.
    """

    recipe: Recipe = field(default_factory=Recipe)
    store: str = ""
    agreement: int = 1
    audit: int = 0
    batch: int = 50
    strategy: str = "auto"
    budget: int = 0
    refit_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        strategy_for(self.strategy, 0, 0)
        for name, least in (("agreement", 1), ("audit", 0), ("batch", 1), ("budget", 0), ("refit_every", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"job.{name} is {least} or more, not {getattr(self, name)}")

    def to_toml(self) -> str:
        """The settings as the text of a TOML file."""
        own = {k: v for k, v in asdict(self).items() if k != "recipe"}
        return tomli_w.dumps({**self.recipe.to_dict(), "job": own})

    @classmethod
    def load(cls, path: Path) -> "JobSettings":
        """Read a file of settings.

        Raises:
            RecipeError: if it cannot be read, or a setting is unknown, of the wrong type or out of range.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{path} cannot be read ({error})") from None
        own = values.pop("job", {})
        kinds = {f.name: f.type for f in fields(cls) if f.name != "recipe"}
        if unknown := sorted(set(own) - set(kinds)):
            raise RecipeError(f"{path}: no setting job.{unknown[0]}; known: {', '.join(kinds)}")
        settings = {key: convert(value, kinds[key], f"{path}: job.{key}") for key, value in own.items()}
        return cls(recipe=Recipe.from_dict(values, str(path)), **settings)
