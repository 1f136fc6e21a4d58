"""`ssld fit`: train a run, or continue one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from ssl_diffusion.settings import Budget, Count, Devices, GiB, HeldOut, ImageSide, Seconds, Seed, Steps

from .command import NOTHING, Context, command
from .fit_words import as_typed, start_words, test_lines
from .options import (
    ACCELERATOR,
    BACKBONE,
    CACHE_DIR,
    DATASET,
    FEATURES,
    IMAGE_ROOT,
    METRIC,
    OVERWRITE,
    PRECISION,
    SETTINGS,
    THREADS,
    backbone_name,
    number,
)
from .output import Output

if TYPE_CHECKING:
    from ssl_diffusion.training.recipe import Recipe

__all__ = ["fit"]

# Settings of a recipe by their keys, "section.name"; None where the command line says nothing.
Settings = dict[str, object]


@dataclass(frozen=True)
class DataOptions:
    """Options that change [data]."""

    panel: ClassVar[str] = "Data"

    dataset: Annotated[str | None, DATASET] = None
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with one folder per class, CSV file that lists images, or Parquet or tar shards: folder, pattern, URL."
        ),
    ] = None
    labels_file: Annotated[
        Path | None,
        typer.Option("--labels", help="CSV file with the labels of shards by sample id. Default: those in the shards."),
    ] = None
    id_column: Annotated[str | None, typer.Option(help="Column of sample ids in shards.")] = None
    unlabeled: Annotated[
        Path | None,
        typer.Option(help="Folder of further images without labels, also of another domain; its test/ is tested on."),
    ] = None
    image_root: Annotated[Path | None, IMAGE_ROOT] = None
    image_column: Annotated[str | None, typer.Option(help="CSV column with image paths; of shards, with images.")] = None
    label_column: Annotated[str | None, typer.Option(help="Column with labels.")] = None
    label_columns: Annotated[str | None, typer.Option(help="CSV columns of 0/1, comma-separated (multi-label).")] = None
    multilabel: Annotated[bool | None, typer.Option("--multilabel", help="Images may have several labels, or none.")] = None
    separator: Annotated[str | None, typer.Option(help="Separator of the labels in one cell (multi-label). Default: |")] = None
    size: Annotated[
        int | None,
        number(
            ImageSide,
            help="Resize images to SIZE x SIZE pixels; 0 keeps their most common size. Default: -1, that up to 32, else 32.",
        ),
    ] = None
    aspect: Annotated[
        str | None,
        typer.Option(help="Images of another aspect ratio: crop their middle, pad, squeeze, or auto (default: crop or pad)."),
    ] = None
    test_fraction: Annotated[
        float | None, number(HeldOut, help="Fraction of the labeled images to hold out as the test split.")
    ] = None
    skip_bad: Annotated[
        bool | None, typer.Option("--skip-bad", help="Skip unreadable images, and list them in skipped.csv.")
    ] = None
    data_dir: Annotated[str | None, typer.Option(help="Folder with the files of named data sets.")] = None
    stream: Annotated[
        int | None, number(Count, help="Stream shards, so many images in memory at a time. Default: 0, decode all.")
    ] = None
    max_memory: Annotated[
        float, number(GiB, help="GiB of images above which the pool is memory-mapped instead of held in memory.")
    ] = 4.0

    def settings(self) -> Settings:
        """The settings of the recipe that these options change."""
        from ssl_diffusion.data.shards.places import located
        from ssl_diffusion.errors import DataError
        from ssl_diffusion.outputs import path_fault

        if self.data is not None and "://" not in self.data and (fault := path_fault(Path(self.data))) is not None:
            raise DataError(fault)
        changed: Settings = {
            "data.dataset": self.dataset,
            "data.image_column": self.image_column,
            "data.id_column": self.id_column,
            "data.label_column": self.label_column,
            "data.label_columns": self.label_columns,
            "data.separator": self.separator,
            "data.multilabel": self.multilabel,
            "data.size": self.size,
            "data.aspect": self.aspect,
            "data.test_fraction": self.test_fraction,
            "data.skip_bad": self.skip_bad,
            "data.stream": self.stream,
            "data.data_dir": self.data_dir,
        }
        if self.data is not None:
            changed |= {"data.path": located(self.data), "data.dataset": ""}
        elif self.dataset is not None:
            changed["data.path"] = ""
        if self.labels_file is not None:
            changed["data.labels"] = str(self.labels_file.resolve())
        if self.unlabeled is not None:
            changed["data.unlabeled"] = str(self.unlabeled.resolve())
        if self.image_root is not None:
            changed["data.image_root"] = str(self.image_root.resolve())
        return changed


@dataclass(frozen=True)
class LabelOptions:
    """Options that change [labels]."""

    panel: ClassVar[str] = "Labels"

    labeled: Annotated[
        int | None, number(Budget, help="Number of labels to use, validation included. Default: -1, every label.")
    ] = None
    choice: Annotated[str | None, typer.Option(help="How the labels to use are sampled: balanced (default) or uniform.")] = None
    val_fraction: Annotated[
        float | None, number(HeldOut, help="Fraction of these labels used only for validation. Default: 0.")
    ] = None
    allow_missing_classes: Annotated[
        bool | None, typer.Option("--allow-missing-classes", help="Train even if some class has no label.")
    ] = None

    def settings(self) -> Settings:
        """The settings of the recipe that these options change."""
        return {
            "labels.budget": self.labeled,
            "labels.choice": self.choice,
            "labels.val_fraction": self.val_fraction,
            "labels.allow_missing_classes": self.allow_missing_classes,
        }


@dataclass(frozen=True)
class TrainingOptions:
    """The recipe to start from, and options that change [pretraining], [training], [augmentation] or any other section."""

    panel: ClassVar[str] = "Training"

    recipe: Annotated[str | None, typer.Option(help="Recipe name (see `ssld recipes`) or TOML file.")] = None
    preset: Annotated[str | None, typer.Option(help="Variant of the data set's recipe: quick, thorough or paper.")] = None
    objective: Annotated[
        str | None,
        typer.Option(
            help="joint, labels-only, probe (logistic regression on the pretrained denoiser) or denoise-only. "
            "Default: joint; with a backbone probe."
        ),
    ] = None
    backbone: Annotated[str | None, BACKBONE] = None
    features: Annotated[Path | None, FEATURES] = None
    consistency: Annotated[
        str | None, typer.Option(help="Consistency loss on unlabeled images: none (default) or match (pseudo-labels).")
    ] = None
    duration: Annotated[
        str | None,
        typer.Option(
            "--time", help="Time for the fit (90s, 10m, 1.5h): determines the steps, and whether joint training pays."
        ),
    ] = None
    steps: Annotated[int | None, number(Steps, help="Training steps after pretraining.")] = None
    pretrain_steps: Annotated[int | None, number(Steps, help="Steps of the label-free pretraining; 0 skips it.")] = None
    seed: Annotated[int | None, number(Seed, help="Random seed of the choice of labels and of training. Default: 0.")] = None
    metric: Annotated[str | None, METRIC] = None
    flip: Annotated[
        str | None,
        typer.Option(help="Horizontal flips: on, off, color (not of gray images), or auto (depends on the data set)."),
    ] = None
    overrides: Annotated[list[str] | None, SETTINGS] = None

    def settings(self) -> Settings:
        """The settings of the recipe that these options change, apart from --set."""
        return {
            "training.objective": self.objective,
            "backbone.name": backbone_name(self.backbone, self.features),
            "training.consistency": self.consistency,
            "training.steps": self.steps,
            "pretraining.steps": self.pretrain_steps,
            "training.seed": self.seed,
            "training.metric": self.metric,
            "augmentation.flip": self.flip,
        }

    def leaves_objective(self) -> bool:
        """Whether nothing on the command line says what to train: neither the objective, nor a term or a number of steps of it,
        nor a recipe."""
        named = {text.partition("=")[0].strip() for text in self.overrides or []}
        asked = self.objective, self.consistency, self.steps, self.recipe
        return asked == (None,) * len(asked) and not named & {"training.objective", "training.consistency"}


@dataclass(frozen=True)
class ComputeOptions:
    """Options that change [compute], and the cache."""

    panel: ClassVar[str] = "Compute"

    accelerator: Annotated[str | None, ACCELERATOR] = None
    devices: Annotated[int | None, number(Devices, help="Number of devices (ranks) to train on.")] = None
    precision: Annotated[str | None, PRECISION] = None
    threads: Annotated[int | None, THREADS] = None
    cache_dir: Annotated[Path | None, CACHE_DIR] = None
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Pretrain from scratch; neither read nor write cached denoisers.")
    ] = False

    def settings(self) -> Settings:
        """The settings of the recipe that these options change."""
        return {
            "compute.accelerator": self.accelerator,
            "compute.devices": self.devices,
            "compute.precision": self.precision,
            "compute.threads": self.threads,
        }


@dataclass(frozen=True)
class FolderOptions:
    """Where the run is written."""

    panel: ClassVar[str] = "Run folder"

    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/DATASET-LABELS-sSEED.")] = None
    resume: Annotated[Path | None, typer.Option(help="Run folder to continue.")] = None
    overwrite: Annotated[bool, OVERWRITE] = False
    checkpoint_every: Annotated[float, number(Seconds, help="Seconds between checkpoints.")] = 60.0


@command(NOTHING)
def fit(
    context: Context,
    data: DataOptions,
    labels: LabelOptions,
    training: TrainingOptions,
    compute: ComputeOptions,
    folder: FolderOptions,
) -> None:
    """Train on all images, classify with few labels; writes a run folder.

    Examples:

      ssld fit --dataset digits --labeled 40

      ssld fit --labeled 4000                           (Fashion-MNIST)

      ssld fit --data photos/ --labeled 200 --test-fraction 0.2

      ssld fit --data 's3://bucket/pool/*.parquet' --labels labels.csv --labeled 4000

      ssld fit --data photos/ --labeled 100 --backbone efficientnet-lite0

      ssld fit --labeled 100 --consistency match --time 20m

      ssld fit --resume runs/fashion-mnist-4000-s0
    """
    from ssl_diffusion.errors import RecipeError

    settings = data.settings() | labels.settings() | training.settings() | compute.settings()
    if training.duration is not None and (training.steps is not None or training.pretrain_steps is not None):
        raise RecipeError("--time determines the steps: leave out --steps and --pretrain-steps")
    made = None if folder.resume else _new_recipe(data, training, settings)  # before torch, which takes seconds
    import torch

    from ssl_diffusion.storage import default_cache_dir
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions, fit_run, resume_run
    from ssl_diffusion.training.planning import parse_duration
    from ssl_diffusion.training.run_folder import RunFolder

    if compute.threads:
        torch.set_num_threads(compute.threads)
    cache_dir = compute.cache_dir or default_cache_dir()
    options = FitOptions(
        cache=None if compute.no_cache else DenoiserCache(cache_dir),
        cache_dir=cache_dir,
        checkpoint_every=folder.checkpoint_every,
        max_memory=int(data.max_memory * 2**30),
        progress=context.output.bars,
    )
    if made is None:
        assert folder.resume is not None
        if folder.out or folder.overwrite:
            raise RecipeError("--resume continues a run in its own folder: leave out --out and --overwrite")
        if training.duration is not None or training.preset is not None:
            raise RecipeError("--resume continues a run with its own steps and recipe: leave out --time and --preset")
        if training.recipe is not None:
            raise RecipeError("--resume continues a run with its own recipe: leave out --recipe")
        if named := [text for text in training.overrides or [] if text.partition("=")[0].strip() in ("name", "description")]:
            raise RecipeError(f"--resume continues a run under its own name: leave out --set {named[0]}")
        existing = RunFolder(folder.resume)
        recipe = _changed(existing.recipe(), settings, training) if existing.path.is_dir() else None
        path = resume_run(folder.resume, recipe, options=options)
    else:
        seconds = parse_duration(training.duration) if training.duration is not None else None
        may_probe = training.leaves_objective()
        path = fit_run(made, folder.out, overwrite=folder.overwrite, seconds=seconds, may_probe=may_probe, options=options)
    _print_result(path, context.output, cached=not compute.no_cache)


def _new_recipe(data: DataOptions, training: TrainingOptions, settings: Settings) -> "Recipe":
    from ssl_diffusion.data.loading import check_there, check_used

    recipe = _changed(_base_recipe(data, training), settings, training)
    check_used(recipe.data)
    check_there(recipe.data)
    return recipe


def _base_recipe(data: DataOptions, training: TrainingOptions) -> "Recipe":
    """The named recipe; else that of the data set, or the one for users' own images."""
    from ssl_diffusion.errors import RecipeError
    from ssl_diffusion.training.recipe import load_recipe, recipe_for

    if data.dataset is not None and data.data is not None:
        raise RecipeError("give either --dataset or --data, not both")
    if training.recipe is not None and training.preset is not None:
        raise RecipeError("give either --recipe or --preset, not both")
    if training.recipe is not None:
        return load_recipe(training.recipe)
    name = "images"
    if data.data is None:
        from ssl_diffusion.data.published.datasets import dataset_info

        name = "fashion-mnist" if data.dataset is None else data.dataset
        dataset_info(name)  # an unknown data set is reported before an unknown recipe
    return load_recipe(recipe_for(name, training.preset))


def _changed(recipe: "Recipe", settings: Settings, training: TrainingOptions) -> "Recipe":
    """A recipe with the settings that the command line gives; --set comes last."""
    from ssl_diffusion.errors import RecipeError

    given = {key: value for key, value in settings.items() if value is not None}
    try:
        changed = recipe.with_settings(given)
    except RecipeError as error:
        raise RecipeError(as_typed(str(error), settings)) from None
    return changed.with_overrides(training.overrides or [])


def _print_result(path: Path, output: Output, *, cached: bool) -> None:
    from ssl_diffusion.generation.readiness import LARGEST_RATIO
    from ssl_diffusion.training.run_folder import RunFolder, load_metrics

    m = load_metrics(path)
    recipe = RunFolder(path).recipe()
    lines = [f"run folder      {path}"]
    if size := recipe.data.size:
        lines.append(f"images          {size} x {size} pixels (see --size)")
    if m["test_accuracy"] is not None:
        lines = test_lines(m, recipe.training.metric) + lines
    elif m["n_labeled"]:
        lines.insert(0, "test accuracy   not measured: the data has no test split (see --test-fraction)")
    if m["val_accuracy"] is not None:
        lines.append(f"validation      {m['val_accuracy']:.2%}")
    if (pretraining := m["pretraining"]) is not None:
        how = "from the cache" if pretraining["cached"] else f"{pretraining['seconds']:.0f} s"
        if cached and not pretraining["cached"]:
            how += ", now in the cache"
        lines.append(f"pretraining     {pretraining['images_seen']:,} images, {how}")
    if (denoiser := m.get("denoiser")) is not None:
        learned = "" if denoiser["ratio"] <= LARGEST_RATIO else ": what it draws is still noise"
        lines.append(f"denoiser        {denoiser['ratio']:.2f} of the error of a linear filter{learned}")
    if (start := m.get("start")) is not None:
        lines.append(f"start           {start_words(start)}")
    rate = f", {m['images_per_second']:,.0f} images/s" if m["images_per_second"] else ""
    if (backbone := m.get("backbone")) is not None:
        lines.append(f"weights         {backbone['choice']}")
        if (taught := backbone.get("pseudo_labels")) is not None:
            lines.append(f"pseudo-labels   {taught['choice']}")
    lines.append(f"training        {m['seconds']:.0f} s{rate}, {m['device']}, {m['precision']}")
    lines.append(f"labels          {m['n_labeled']} labeled, {m['n_unlabeled']} unlabeled")
    lines.append(f"pictures        {', '.join(sorted(p.name for p in path.glob('*.png')))}")
    output.result({"run": str(path), **m}, "\n".join(lines))
