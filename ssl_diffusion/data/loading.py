"""From the data section of a recipe to a pool, wherever the images come from."""

from pathlib import Path
from typing import Any

from ssl_diffusion.data.folders import load_csv, load_folder
from ssl_diffusion.data.label_choice import hold_out_test
from ssl_diffusion.data.listings import check_folder
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.data.settings import LARGEST_SIDE, DataSettings
from ssl_diffusion.data.shards.loading import load_shards
from ssl_diffusion.data.shards.places import is_sharded
from ssl_diffusion.data.tables import read_table
from ssl_diffusion.data.unlabeled import with_unlabeled
from ssl_diffusion.errors import DataError, RecipeError
from ssl_diffusion.outputs import shown_path
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["check_there", "check_used", "image_folder", "input_paths", "is_table", "load_pool", "settled_as", "with_size_of"]

_OF_TABLES: tuple[str, ...] = ("image_root", "image_column", "label_column", "label_columns", "multilabel", "separator")
_OF_FILES: tuple[str, ...] = ("size", "aspect", "color", "skip_bad")
_OF_SHARDS: tuple[str, ...] = ("labels", "id_column", "stream")
_NOT_OF_SHARDS: tuple[str, ...] = ("image_root", "label_columns", "multilabel", "separator", "unlabeled")
_OF_DATASETS: tuple[str, ...] = ("data_dir",)


def input_paths(data: DataSettings) -> list[Path]:
    """What a recipe reads and no output may replace: the folder of images, or the CSV file that lists them, and the folder of
    unlabeled images.

    Example:
        >>> input_paths(DataSettings(path="photos"))
        [PosixPath('photos')]
    """
    return [Path(path) for path in (data.path, data.unlabeled) if path]


def image_folder(data: DataSettings) -> Path:
    """The folder that the ids of a folder or CSV file are paths relative to."""
    if not is_table(Path(data.path)):
        return Path(data.path)
    return Path(data.image_root) if data.image_root else Path(data.path).parent


def is_table(path: Path) -> bool:
    """Whether a path names a CSV file that lists images, by its ending, rather than a folder of them.

    Example:
        >>> is_table(Path("labels.csv")), is_table(Path("photos"))
        (True, False)
    """
    return path.suffix.lower() in (".csv", ".tsv")


def check_used(data: DataSettings) -> None:
    """Refuse settings that say nothing about these images.

    Args:
        data: Section [data] of a recipe that is about to be used for the first time.

    Raises:
        RecipeError: If a setting that differs from its default has no effect, or the separator is empty.
    """
    if not data.separator:
        raise RecipeError("--separator (data.separator) must not be empty: name the text between labels, such as |")
    if not data.dataset and not data.path:
        return  # load_pool asks for one of them
    if data.dataset:
        what, unused = f"the data set {data.dataset!r}", _OF_TABLES + _OF_FILES + _OF_SHARDS
    elif is_sharded(data.path):
        what, unused = f"the shards {shown_path(data.path)}", _OF_DATASETS + _NOT_OF_SHARDS
    elif is_table(Path(data.path)):
        what, unused = f"the CSV file {shown_path(data.path)}", _OF_DATASETS + _OF_SHARDS
        if not data.multilabel or data.label_columns:
            unused += ("separator",)
    else:
        what, unused = f"the folder {shown_path(data.path)}", _OF_TABLES + _OF_DATASETS + _OF_SHARDS
    # What runs on data sets have is 0, and recipes for files are used for some of them.
    chosen: dict[str, Any] = {name: value for name in ("aspect", "color") if (value := getattr(data, name)) == "auto"}
    default = DataSettings(size=min(data.size, 0), **chosen)
    for name in unused:
        if getattr(data, name) != getattr(default, name):
            option = f"--{name.replace('_', '-')}"
            raise RecipeError(f"{option} (data.{name}) has no effect on {what}: leave it out")


def check_there(data: DataSettings) -> None:
    """Raise :class:`DataError` if the folder or CSV file of images that a recipe names cannot be opened.

    Nothing else is read, so that a mistyped path is told at once. Data sets and shards, which may lie elsewhere, pass.

    Args:
        data: Section [data] of a recipe.
    """
    if data.dataset or not data.path or is_sharded(data.path):
        return
    path = Path(data.path)
    if not is_table(path):
        check_folder(path)
    elif not path.is_file():
        read_table(path)


def load_pool(
    data: DataSettings,
    *,
    cache_dir: Path | None = None,
    max_memory: int | None = None,
    lazy: bool = False,
    progress: ProgressCallback | None = None,
) -> Pool:
    """Read the images that a recipe names.

    Args:
        data: Section [data] of a recipe: a data set by name, or the path of a folder, a CSV file or shards, and how to
            read it.
        cache_dir: Folder of named data sets, read from and downloaded to; None takes the user's cache.
        max_memory: Bytes of images beyond which the pool is memory-mapped; None keeps it in memory.
        lazy: Whether images of shards stay there, and are read when they are asked for, see :class:`~.shards.rows.ShardImages`;
            so do those that are streamed.
        progress: Callback for the number of images read.

    Raises:
        RecipeError: if not exactly one of data set and path is named.
        DataError: if the images cannot be used.

    Example:
        >>> pool = load_pool(DataSettings(dataset="digits"))
    """
    if bool(data.dataset) == bool(data.path):
        raise RecipeError("name either a data set (--dataset) or a folder or CSV file of images (--data)")
    size = data.size if data.size > 0 else None
    largest = LARGEST_SIDE if data.size < 0 else None

    def reading(done: int, total: int) -> None:
        if progress is not None:
            progress(ProgressUpdate("reading images", done, total))

    if data.dataset:
        data_dir = Path(data.data_dir) if data.data_dir else None
        pool = load_dataset(data.dataset, data_dir=data_dir, cache_dir=cache_dir, max_memory=max_memory)
    elif is_sharded(data.path):
        pool = load_shards(data, max_memory=max_memory, lazy=lazy or bool(data.stream), progress=reading)
    elif is_table(Path(data.path)):
        pool = load_csv(
            Path(data.path),
            root=Path(data.image_root) if data.image_root else None,
            image_column=data.image_column or None,
            label_column=data.label_column or None,
            label_columns=list(data.label_columns) or None,
            size=size,
            largest=largest,
            multilabel=data.multilabel,
            separator=data.separator,
            aspect=data.aspect,
            color=data.color,
            skip_bad=data.skip_bad,
            max_memory=max_memory,
            progress=reading,
        )
    else:
        pool = load_folder(
            Path(data.path),
            size=size,
            largest=largest,
            aspect=data.aspect,
            color=data.color,
            skip_bad=data.skip_bad,
            max_memory=max_memory,
            progress=reading,
        )
    if data.test_fraction:
        hold_out_test(pool, data.test_fraction)
    if data.unlabeled:
        pool = with_unlabeled(pool, data, image_folder(data) if data.path else None, max_memory=max_memory, progress=reading)
    if not len(pool.train):
        raise DataError(f"{pool.name!r} has no training images, only a test split")
    return pool


def settled_as(data: DataSettings, settled: DataSettings) -> DataSettings:
    """The section with another's size, aspect and color in the place of -1 and "auto".

    Args:
        data: Section [data] of a recipe.
        settled: Section whose images have been read, see :func:`with_size_of`.

    Example:
        >>> settled_as(DataSettings(path="photos"), DataSettings(path="photos", size=32)).size
        32
    """
    changes: dict[str, Any] = {"size": settled.size} if data.size < 0 else {}
    changes |= {name: getattr(settled, name) for name in ("aspect", "color") if getattr(data, name) == "auto"}
    return data.replace(**changes)


def with_size_of(pool: Pool, data: DataSettings) -> DataSettings:
    """The section with the size, the aspect and the color of a pool in the place of -1 and "auto": the files are read like that
    later, whatever is added.

    Args:
        pool: Images that were read as `data` says.
        data: Section [data] of a recipe. What it says already is left as it is.

    Returns:
        The section; its size is 0 for data sets, and for images that are not square, which keep the most common size.

    Example:
        >>> data = DataSettings(dataset="digits")
        >>> with_size_of(load_pool(data), data).size
        0
    """
    channels, height, width = pool.image_shape
    if data.aspect == "auto":
        data = data.replace(aspect=pool.aspect)
    if data.color == "auto":
        data = data.replace(color=("gray" if channels == 1 else "rgb") if data.path else "files")
    if data.size >= 0:
        return data
    return data.replace(size=height if data.path and height == width else 0)
