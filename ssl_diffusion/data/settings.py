"""Settings of the sections [data] and [labels] of a recipe."""

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from ssl_diffusion.settings import Budget, Count, HeldOut, ImageSide, Settings

__all__ = ["LARGEST_SIDE", "DataSettings", "LabelSettings"]

LARGEST_SIDE = 32
"""Height and width in pixels above which images are made smaller where nobody says their size."""


class DataSettings(Settings):
    """Where the images come from: either `dataset` or `path`."""

    dataset: str = ""
    """Name of a published data set."""
    path: str = ""
    """Folder of images, CSV file that lists them, or Parquet or tar shards: a folder, a pattern or a URL of fsspec."""
    labels: str = ""
    """CSV file with the labels of shards by sample id; "" takes those in the shards."""
    id_column: str = ""
    """Column of the sample ids in shards; "" finds it by its usual name."""
    unlabeled: str = ""
    """Folder of further images without labels, also of another domain; those in its `test/` are the test split."""
    image_root: str = ""
    """Folder that the paths in a CSV file are relative to; "" is the file's own."""
    image_column: str = ""
    """Column of the paths; "" finds it by its usual name."""
    label_column: str = ""
    """Column of the labels; "" finds it by its usual name."""
    label_columns: tuple[str, ...] = ()
    """Columns of 0 and 1, one for each class."""
    separator: str = "|"
    """Text between the labels of an image that has several."""
    multilabel: bool = False
    """Whether an image may have several labels."""
    size: ImageSide = -1
    """Side of the squares that images are scaled to, in pixels; 0 keeps the most common size, and so does -1, unless that is
    higher or wider than 32 pixels, which makes squares of 32."""
    test_fraction: HeldOut = 0.0
    """Fraction of the labeled samples that is held out for testing."""
    aspect: Literal["squeeze", "crop", "pad", "auto"] = "squeeze"
    """Treatment of images with another aspect ratio: distort them, take their middle, or pad them with their mean color; "auto"
    pads if their middle would leave out more than a third."""
    color: Literal["files", "gray", "rgb", "auto"] = "files"
    """Channels: one or three, or one if all images are gray by their files' color mode, or, with "auto", by their pixels."""
    skip_bad: bool = False
    """Whether images that cannot be read are left out; otherwise they are errors."""
    stream: Count = 0
    """Number of images of shards that are in memory at a time, while training reads them from there; 0 decodes all once."""
    data_dir: str = ""
    """Folder where published data sets are looked for first."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The settings; those that came later only where they are not what was done before, so that runs stay the same runs."""
        values: dict[str, Any] = handler(self)
        later = {"aspect": "squeeze", "color": "files", "unlabeled": "", "labels": "", "id_column": "", "stream": 0}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}


class LabelSettings(Settings):
    """The labeled budget."""

    budget: Budget = -1
    """Number of labels that are used; -1 takes all."""
    choice: Literal["balanced", "uniform"] = "balanced"
    """Way of drawing them: as many of each class as possible, or all alike."""
    val_fraction: HeldOut = 0.0
    """Fraction of them that is kept for validation."""
    allow_missing_classes: bool = False
    """Whether a class may be left without a label."""
