"""Settings of the sections [data] and [labels] of a recipe."""

from dataclasses import dataclass

__all__ = ["DataSettings", "LabelSettings"]


@dataclass(frozen=True)
class DataSettings:
    """Where the images come from: `dataset` (a name), or `path`: a folder, or a CSV file of paths relative to `image_root`."""

    dataset: str = ""
    path: str = ""
    image_root: str = ""
    image_column: str = ""
    label_column: str = ""
    label_columns: tuple[str, ...] = ()
    separator: str = "|"
    multilabel: bool = False
    size: int = 0
    test_fraction: float = 0.0
    skip_bad: bool = False
    data_dir: str = ""


@dataclass(frozen=True)
class LabelSettings:
    """The labeled budget; `budget` -1 takes every label there is."""

    budget: int = -1
    choice: str = "balanced"
    val_fraction: float = 0.0
    allow_missing_classes: bool = False
