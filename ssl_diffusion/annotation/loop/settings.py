"""Settings of an annotation job: the recipe of its fits, and the section [job]."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.settings import AtLeastOne, Count, Seed, read_toml
from ssl_diffusion.training.recipe import SettingsWithRecipe

__all__ = ["JobSettings"]


class JobSettings(SettingsWithRecipe):
    """Settings of a job; its recipe says what the images are and how models are fitted to them."""

    section: ClassVar[str] = "job"

    store: str = Field("", repr=False)  # it may hold a password
    """URL of the database; "" is SQLite in the job folder."""
    multilabel: bool = False
    """Whether an image may have several classes, or none; the labels are sets then."""
    agreement: AtLeastOne = 1
    """Number of annotators that a sample needs."""
    audit: Count = 0
    """Number of samples, drawn at random, whose labels measure the models and train none."""
    batch: AtLeastOne = 50
    """Number of samples that a round asks for."""
    strategy: str = "auto"
    """Acquisition strategy that chooses them."""
    budget: Count = 0
    """Number of labels that are wanted in all; 0 is no limit."""
    target: Count = 0
    """Number of labels that are wanted of each class, where none is set for the class itself; 0 is no limit."""
    verdicts: Literal["on", "off"] = "off"
    """Whether models also learn the counterfactuals on which verdicts were given."""
    refit_every: Count = 0
    """Number of new labels after which the server fits a model; 0 leaves that to the user."""
    seed: Seed = 0
    """Seed of the audit's draw, of rounds and of fits."""

    @field_validator("strategy")
    @classmethod
    def _check_strategy(cls, name: str) -> str:
        try:
            strategy_for(name, 0, 0)
        except SSLDError as error:
            raise ValueError(str(error)) from None
        return name

    @classmethod
    def load(cls, path: Path) -> "JobSettings":
        """Read a file of settings.

        Raises:
            RecipeError: if it cannot be read, or a setting is unknown, of the wrong type or out of range.
        """
        return cls.from_dict(read_toml(path), str(path))
