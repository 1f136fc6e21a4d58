"""`ssld fit`: train a run, or continue one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ssl_diffusion.cli.output import JsonOption, Output, QuietOption

if TYPE_CHECKING:
    from ssl_diffusion.training.recipe import Recipe

__all__ = ["fit"]

_DATA = "Data"
_LABELS = "Labels"
_TRAINING = "Training"
_COMPUTE = "Compute"
_RUN = "Run folder"

# Command-line options that override one setting of the recipe, and which.
_SETTINGS = {
    "dataset": "data.dataset",
    "image_column": "data.image_column",
    "label_column": "data.label_column",
    "label_columns": "data.label_columns",
    "separator": "data.separator",
    "multilabel": "data.multilabel",
    "size": "data.size",
    "test_fraction": "data.test_fraction",
    "skip_bad": "data.skip_bad",
    "data_dir": "data.data_dir",
    "labeled": "labels.budget",
    "choice": "labels.choice",
    "val_fraction": "labels.val_fraction",
    "allow_missing_classes": "labels.allow_missing_classes",
    "objective": "training.objective",
    "consistency": "training.consistency",
    "steps": "training.steps",
    "pretrain_steps": "pretraining.steps",
    "seed": "training.seed",
    "flip": "augmentation.flip",
    "accelerator": "compute.accelerator",
    "devices": "compute.devices",
    "precision": "compute.precision",
    "threads": "compute.threads",
}


def fit(
    dataset: Annotated[
        str | None, typer.Option(help="Named data set; see `ssld datasets`. Default: fashion-mnist.", rich_help_panel=_DATA)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder a class, or a CSV file that lists images.", rich_help_panel=_DATA),
    ] = None,
    image_root: Annotated[
        Path | None,
        typer.Option(help="Folder that the paths of a CSV file are relative to. Default: its own.", rich_help_panel=_DATA),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="CSV column with image paths.", rich_help_panel=_DATA)] = None,
    label_column: Annotated[str | None, typer.Option(help="CSV column with labels.", rich_help_panel=_DATA)] = None,
    label_columns: Annotated[
        str | None, typer.Option(help="CSV columns with 0/1 labels, comma-separated (multi-label).", rich_help_panel=_DATA)
    ] = None,
    multilabel: Annotated[
        bool | None, typer.Option("--multilabel", help="An image may have several labels or none.", rich_help_panel=_DATA)
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between the labels of one cell (multi-label). Default: |", rich_help_panel=_DATA)
    ] = None,
    size: Annotated[int | None, typer.Option(help="Resize images to SIZE x SIZE pixels.", rich_help_panel=_DATA)] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Hold out this share of the labeled images as test split.", rich_help_panel=_DATA)
    ] = None,
    skip_bad: Annotated[
        bool | None,
        typer.Option("--skip-bad", help="Leave out unreadable images; lists them in skipped.csv.", rich_help_panel=_DATA),
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where files of named data sets are.", rich_help_panel=_DATA)] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(help="GiB of images beyond which the pool is memory-mapped. Default: 4.", rich_help_panel=_DATA),
    ] = None,
    labeled: Annotated[
        int | None, typer.Option(help="Labeled budget, validation included. Default: every label.", rich_help_panel=_LABELS)
    ] = None,
    choice: Annotated[
        str | None, typer.Option(help="How the budget is drawn: balanced (default) or uniform.", rich_help_panel=_LABELS)
    ] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the budget that only validates. Default: 0.", rich_help_panel=_LABELS)
    ] = None,
    allow_missing_classes: Annotated[
        bool | None, typer.Option("--allow-missing-classes", help="Go on if a class has no label.", rich_help_panel=_LABELS)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe name (see `ssld recipes`) or TOML file.", rich_help_panel=_TRAINING)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Another recipe of the data set: quick, thorough or paper.", rich_help_panel=_TRAINING)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="joint (default), labels-only, probe (logistic regression on the pretrained denoiser) or denoise-only.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    consistency: Annotated[
        str | None,
        typer.Option(help="match: pseudo-labels on unlabeled images, too. Default: none.", rich_help_panel=_TRAINING),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--time", help="How long the fit may take (90s, 10m, 1.5h): chooses the steps.", rich_help_panel=_TRAINING
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps after pretraining.", rich_help_panel=_TRAINING)] = None,
    pretrain_steps: Annotated[
        int | None, typer.Option(help="Steps of the label-free pretraining; 0 leaves it out.", rich_help_panel=_TRAINING)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the labeled budget and of training.", rich_help_panel=_TRAINING)
    ] = None,
    flip: Annotated[
        str | None, typer.Option(help="Mirror images: on, off, or auto (by data set).", rich_help_panel=_TRAINING)
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any recipe setting: section.name=value.", rich_help_panel=_TRAINING)
    ] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=_COMPUTE)] = None,
    devices: Annotated[int | None, typer.Option(help="Devices (ranks) to train on.", min=1, rich_help_panel=_COMPUTE)] = None,
    precision: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.", rich_help_panel=_COMPUTE)] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads. Default: all cores.", min=0, rich_help_panel=_COMPUTE)
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Cache of downloads and denoisers. Default: ~/.cache/ssld.", rich_help_panel=_COMPUTE)
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Pretrain afresh; neither read nor write cached denoisers.", rich_help_panel=_COMPUTE),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/DATASET-LABELS-sSEED.", rich_help_panel=_RUN)
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder.", rich_help_panel=_RUN)] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run in the same folder.", rich_help_panel=_RUN)
    ] = False,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints.", rich_help_panel=_RUN)] = 60.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train on all images, classify with few labels; writes a run folder.

    Examples:

      ssld fit --dataset digits --labeled 40

      ssld fit --labeled 4000                           (Fashion-MNIST)

      ssld fit --data photos/ --labeled 200 --test-fraction 0.2

      ssld fit --labeled 100 --consistency match --time 20m

      ssld fit --resume runs/fashion-mnist-4000-s0
    """
    options = dict(locals())
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.machine import bind_threads

        if (devices or 1) == 1:
            bind_threads(threads or 0)
        path = _fit(options, output)
        _print_result(path, output, cached=not no_cache)


def _fit(options: dict[str, Any], output: Output) -> Path:
    import torch

    from ssl_diffusion.errors import RecipeError
    from ssl_diffusion.storage import default_cache_dir
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions, fit_run, resume_run
    from ssl_diffusion.training.planning import parse_duration
    from ssl_diffusion.training.run_folder import RunFolder

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    cache_dir = options["cache_dir"] or default_cache_dir()
    max_memory = options["max_memory"]
    fit_options = FitOptions(
        cache=None if options["no_cache"] else DenoiserCache(cache_dir),
        cache_dir=cache_dir,
        checkpoint_every=options["checkpoint_every"],
        max_memory=int((4 if max_memory is None else max_memory) * 2**30),
        progress=output.bars,
    )
    if options["resume"] is not None:
        if options["out"] or options["overwrite"]:
            raise RecipeError("--resume continues a run where it is: leave out --out and --overwrite")
        if options["duration"] or options["preset"]:
            raise RecipeError("--resume continues a run with its own steps and recipe: leave out --time and --preset")
        folder = RunFolder(options["resume"])
        requested = _with_settings(folder.recipe(), options) if folder.path.is_dir() else None
        return resume_run(options["resume"], requested, options=fit_options)
    seconds = parse_duration(options["duration"]) if options["duration"] is not None else None
    if seconds is not None and (options["steps"] is not None or options["pretrain_steps"] is not None):
        raise RecipeError("--time chooses the steps: leave out --steps and --pretrain-steps")
    recipe = _with_settings(_base_recipe(options), options)
    return fit_run(recipe, options["out"], overwrite=options["overwrite"], seconds=seconds, options=fit_options)


def _base_recipe(options: dict[str, Any]) -> "Recipe":
    """The recipe that was named, else the one of the data set, else the one for images of one's own."""
    from ssl_diffusion.errors import RecipeError
    from ssl_diffusion.training.recipe import load_recipe, recipe_for

    if options["dataset"] and options["data"]:
        raise RecipeError("give either --dataset or --data, not both")
    if options["recipe"] and options["preset"]:
        raise RecipeError("give either --recipe or --preset, not both")
    if options["recipe"]:
        return load_recipe(options["recipe"])
    name = "images"
    if not options["data"]:
        from ssl_diffusion.data.published.datasets import dataset_info

        name = options["dataset"] or "fashion-mnist"
        dataset_info(name)  # an unknown data set is named before an unknown recipe
    return load_recipe(recipe_for(name, options["preset"]))


def _with_settings(recipe: "Recipe", options: dict[str, Any]) -> "Recipe":
    for option, key in _SETTINGS.items():
        if options[option] is not None:
            recipe = recipe.with_setting(key, options[option], f"--{option.replace('_', '-')}")
    if options["data"] is not None:
        recipe = recipe.with_setting("data.path", options["data"].resolve()).with_setting("data.dataset", "")
    elif options["dataset"] is not None:
        recipe = recipe.with_setting("data.path", "")
    if options["image_root"] is not None:
        recipe = recipe.with_setting("data.image_root", options["image_root"].resolve())
    return recipe.with_overrides(options["setting"] or []).checked("command line")


def _print_result(path: Path, output: Output, *, cached: bool) -> None:
    from ssl_diffusion.training.run_folder import load_metrics

    m = load_metrics(path)
    lines = [f"run folder      {path}"]
    if m["test_accuracy"] is not None:
        lines.insert(
            0,
            f"test accuracy   {m['test_accuracy']:.2%} of {m['n_test']} images   "
            f"(NLL {m['test_nll']:.3f}, calibration error {m['test_ece']:.3f})",
        )
    elif m["n_labeled"]:
        lines.insert(0, "test accuracy   not measured: the data has no test split (see --test-fraction)")
    if m["val_accuracy"] is not None:
        lines.append(f"validation      {m['val_accuracy']:.2%}")
    if (pretraining := m["pretraining"]) is not None:
        how = "from the cache" if pretraining["cached"] else f"{pretraining['seconds']:.0f} s"
        if cached and not pretraining["cached"]:
            how += ", now in the cache"
        lines.append(f"pretraining     {pretraining['images_seen']:,} images, {how}")
    rate = f", {m['images_per_second']:,.0f} images/s" if m["images_per_second"] else ""
    lines.append(f"training        {m['seconds']:.0f} s{rate}, {m['device']}, {m['precision']}")
    lines.append(f"labels          {m['n_labeled']} labeled, {m['n_unlabeled']} unlabeled")
    lines.append(f"pictures        {', '.join(sorted(p.name for p in path.glob('*.png')))}")
    output.result({"run": str(path), **m}, "\n".join(lines))
