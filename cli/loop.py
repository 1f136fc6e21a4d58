"""`ssld loop`: label what the model asks for, round after round."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssl_diffusion.settings import AtLeastOne, Count, HeldOut, ImageSide, Port, Seconds, Seed

from .command import JOB, NOTHING, Context, JobArgument, JobContext, command
from .options import (
    BACKBONE,
    CACHE_DIR,
    FEATURES,
    IMAGE_ROOT,
    SETTINGS,
    SKIP_BAD,
    ImportOptions,
    OverwriteOption,
    SeedOption,
    ServerOptions,
    backbone_name,
    number,
)
from .output import Output, needing

if TYPE_CHECKING:
    from ssl_diffusion.annotation.loop.job import Folders, Job
    from ssl_diffusion.annotation.loop.status import JobStatus
    from ssl_diffusion.training.recipe import Recipe

__all__ = ["export", "fit", "import_", "init", "move", "next_", "serve", "status"]

_WORST = 8  # classes whose figures are shown


@command(NOTHING)
def init(
    context: Context,
    job: JobArgument,
    data: Annotated[
        str, typer.Option(help="Folder of images, CSV file that lists them, or Parquet or tar shards: folder, pattern or URL.")
    ],
    classes: Annotated[str | None, typer.Option(help="Class names, comma-separated, besides those in the data.")] = None,
    multilabel: Annotated[bool, typer.Option("--multilabel", help="Images may have several classes, or none.")] = False,
    folders: Annotated[
        str, typer.Option(help="Sub-folders of a folder of images: classes (labels of what is in them), or ignore.")
    ] = "ignore",
    image_root: Annotated[Path | None, IMAGE_ROOT] = None,
    size: Annotated[
        int | None,
        number(
            ImageSide,
            help="Models see images of SIZE x SIZE pixels; 0: of their most common size. Default: -1, that up to 32, else 32.",
        ),
    ] = None,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    test_fraction: Annotated[float, number(HeldOut, help="Fraction of the labels in the data used only for testing.")] = 0.0,
    audit: Annotated[int, number(Count, help="Randomly chosen samples whose labels only measure the models.")] = 0,
    agreement: Annotated[int, number(AtLeastOne, help="Annotators needed per sample.")] = 1,
    n: Annotated[int, number(AtLeastOne, "--n", help="Samples per round.")] = 50,
    strategy: Annotated[str, typer.Option(help="auto, or a strategy listed by `ssld strategies`.")] = "auto",
    budget: Annotated[int, number(Count, help="Total number of labels wanted; 0 is no limit.")] = 0,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Labels wanted of every class (50), or of one (cat=50); repeatable. Default: any number."),
    ] = None,
    refit_every: Annotated[int, number(Count, help="New labels that make the server refit; 0: never.")] = 0,
    recipe: Annotated[str, typer.Option(help="Recipe of the fits: a name (see `ssld recipes`) or TOML file.")] = "images",
    objective: Annotated[
        str | None,
        typer.Option(help="Objective of the fits: joint, labels-only or probe. Default: joint; probe with a backbone."),
    ] = None,
    backbone: Annotated[str | None, BACKBONE] = None,
    features: Annotated[Path | None, FEATURES] = None,
    overrides: Annotated[list[str] | None, SETTINGS] = None,
    store: Annotated[
        str, typer.Option(help="Database URL, such as postgresql://HOST/NAME. Default: SQLite in the job folder.")
    ] = "",
    seed: SeedOption = 0,
    pretrain: Annotated[bool, typer.Option("--pretrain", help="Start pretraining without labels in the background.")] = False,
) -> None:
    """Create an annotation job for images; those in shards are not copied.

    Examples:

      ssld loop init job/ --data photos/ --classes cat,dog

      ssld loop init job/ --data photos/ --classes cat,dog --audit 100 --pretrain

      ssld loop init job/ --data photos/ --classes cat,dog --backbone efficientnet-lite0

      ssld loop init job/ --data photos/ --classes person,dog,bicycle --multilabel

      ssld loop init job/ --data 'shards/*.parquet' --classes cat,dog
    """
    from ssl_diffusion.annotation.loop.class_targets import parsed_targets
    from ssl_diffusion.annotation.loop.job import create_job
    from ssl_diffusion.annotation.loop.settings import JobSettings
    from ssl_diffusion.data.shards.places import located
    from ssl_diffusion.errors import DataError, SSLDError, shown
    from ssl_diffusion.outputs import path_fault
    from ssl_diffusion.training.recipe import load_recipe

    if folders not in ("classes", "ignore"):
        raise SSLDError(f"--folders is classes or ignore, not {shown(folders)}")
    if "://" not in data and (fault := path_fault(Path(data))) is not None:
        raise DataError(fault)
    wanted, targets = parsed_targets(target or [])
    base = load_recipe(recipe)
    described = base.data.replace(
        dataset="",
        path=located(data),
        image_root=str(image_root.resolve()) if image_root is not None else "",
        size=base.data.size if size is None else size,
        skip_bad=skip_bad,
        test_fraction=test_fraction,
    )
    settings = JobSettings(
        recipe=_fits_of(base.replace(data=described), objective, backbone_name(backbone, features), overrides or [], recipe),
        store=store,
        multilabel=multilabel,
        agreement=agreement,
        audit=audit,
        batch=n,
        strategy=strategy,
        budget=budget,
        target=wanted,
        refit_every=refit_every,
        seed=seed,
    )
    names = [name.strip() for name in classes.split(",")] if classes else []
    meaning: Folders = "classes" if folders == "classes" else "ignore"
    made = create_job(job, settings, names, folders=meaning, targets=targets, progress=context.output.bars)
    first = [f"job             {job}"]
    if pretrain:
        from ssl_diffusion.annotation.loop.fits import Background

        background = Background(made)
        background.start(pretrain=True)
        first.append(f"pretraining     in the background; its log is {background.log}")
    _print_status(made, context.output, first)


@command(JOB)
def next_(
    context: JobContext,
    n: Annotated[int | None, number(AtLeastOne, "--n", help="Number of samples. Default: the job's.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="auto, or a strategy listed by `ssld strategies`. Default: the job's.")
    ] = None,
    seed: Annotated[int | None, number(Seed, help="Random seed. Default: derived from the job's seed and the round.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Additional CSV file to write the batch to; an earlier batch there is replaced.")
    ] = None,
) -> None:
    """Choose the samples to label next."""
    from ssl_diffusion.annotation.loop.rounds import next_round, round_file
    from ssl_diffusion.outputs import check_output_file, write_output

    job, output = context.job, context.output
    if out is not None:  # before a round is made
        check_output_file(out, overwrite=True, inputs=job.inputs)
    made = next_round(job, n, strategy, seed=seed, progress=output.bars)
    written = round_file(job, made.number)
    if out is not None:
        write_output(out, written.read_text(encoding="utf-8"), overwrite=True, inputs=job.inputs)
    ids = made.to_frame()["id"].tolist()
    values = {"round": made.number, "strategy": made.strategy, "reason": made.reason, "model": made.model, "ids": ids}
    lines = [
        f"round           {made.number}: {len(made)} samples" + (f", {len(made.audit)} for the audit" if made.audit else ""),
        f"strategy        {made.reason}",
        f"model           {made.model}",
        f"written to      {out or written}",
        f"label them      ssld loop serve {job.path}",
    ]
    output.result(values, "\n".join(lines))


@command(JOB)
def import_(
    context: JobContext,
    labels: Annotated[
        Path,
        typer.Argument(
            help="CSV file (id, label), JSON lines, an export of Label Studio or Prodigy, a folder per class (also YOLO's), a "
            "data set of FiftyOne, Parquet files of Hugging Face, or what was exported for cleanlab."
        ),
    ],
    options: ImportOptions,
    annotator: Annotated[str | None, typer.Option(help="Annotator of labels for which the file names none.")] = None,
) -> None:
    """Import labels from a file or folder: all of them, or none."""
    from ssl_diffusion.annotation.files.imports import import_labels

    found = import_labels(context.job, labels, annotator=annotator, add_class=options.add_class, final=options.final)
    values = {"labeled": found.labeled, "skipped": found.skipped, "new_classes": list(found.new_classes)}
    new = f", new classes {', '.join(found.new_classes)}" if found.new_classes else ""
    context.output.result(values, f"{found.labeled} labels and {found.skipped} skips imported{new}")


@command(JOB)
def export(
    context: JobContext,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="csv, jsonl, coco, label-studio, prodigy; folders: folder, yolo, huggingface, fiftyone, cleanlab, verdicts.",
        ),
    ] = "csv",
    out: Annotated[Path | None, typer.Option(help="File or folder to write. Default: labels.FORMAT.")] = None,
    status: Annotated[
        str,
        typer.Option(help="Samples to write (csv and jsonl): labeled, disputed, skipped, partial, flagged or all."),
    ] = "labeled",
    overwrite: OverwriteOption = False,
) -> None:
    """Write the labels in a format that other programs read."""
    from ssl_diffusion.annotation.files.exports import default_output, export_labels

    place = out if out is not None else default_output(form)
    n = export_labels(context.job, place, form, status=status, overwrite=overwrite)
    context.output.result({"samples": n, "out": str(place)}, f"{n} samples written to {place}")


@command(JOB, threads=0)
def fit(
    context: JobContext,
    pretrain: Annotated[bool, typer.Option("--pretrain", help="Only pretrain, without labels.")] = False,
    verdicts: Annotated[
        str | None, typer.Option(help="Learn counterfactuals with a verdict, too: on or off. Default: the job's (off).")
    ] = None,
    cache_dir: Annotated[Path | None, CACHE_DIR] = None,
    progress_every: Annotated[float, number(Seconds, help="Seconds between lines of progress in a log.", hidden=True)] = 30.0,
) -> None:
    """Fit a model to the labels so far; it becomes the current model."""
    from ssl_diffusion.annotation.loop.fits import fit_job
    from ssl_diffusion.errors import SSLDError, shown
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions

    if verdicts not in (None, "on", "off"):
        raise SSLDError(f"--verdicts is on or off, not {shown(verdicts)}")
    if verdicts is not None and pretrain:
        raise SSLDError("--pretrain learns no labels, and so no verdicts: leave out --verdicts")
    use: Literal["on", "off"] | None = None if verdicts is None else "on" if verdicts == "on" else "off"
    if context.output.bars is not None:
        context.output.bars.every = progress_every
    cache = DenoiserCache(cache_dir) if cache_dir is not None else None
    fit_job(context.job, pretrain=pretrain, use_verdicts=use, options=FitOptions(cache=cache, progress=context.output.bars))
    _print_status(context.job, context.output)


@command(JOB)
def status(context: JobContext) -> None:
    """Show the state of a job: labels, rounds, accuracy with its interval, labels per hour, and what to do next."""
    _print_status(context.job, context.output)


@command(NOTHING, threads=1)
def serve(
    context: Context,
    jobs: Annotated[list[Path], typer.Argument(metavar="JOB ...", help="Job folders, or folders that contain some.")],
    server: ServerOptions,
    accounts: Annotated[
        Path | None,
        typer.Option(
            help="File of accounts with roles (see `ssld loop accounts`), which people log in with instead of a token."
        ),
    ] = None,
    port: Annotated[int, number(Port, help="Port of the page.")] = 8700,
    map_: Annotated[str, typer.Option("--map", help="Projection of the map: pca, or umap (extra: umap).")] = "pca",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Serve the labeling page of a job, or of several jobs behind a start page, until Ctrl-C.

    Examples:

      ssld loop serve job/

      ssld loop serve jobs/          # every job in the folder, also those that are made there later

      ssld loop serve jobs/ --host 0.0.0.0 --accounts team.json
    """
    from ssl_diffusion.annotation.accounts import Accounts
    from ssl_diffusion.annotation.loop.job import open_job
    from ssl_diffusion.annotation.loop.several_jobs import Newcomers, find_jobs

    opened = {name: open_job(path) for name, path in find_jobs(jobs).items()}
    with needing("annotate"):
        from ssl_diffusion.annotation.page.server import make_app, make_jobs_app
    options: dict[str, Any] = {"blind": server.blind, "refit_every": server.refit_every, "map_method": map_}
    known = Accounts(accounts) if accounts is not None else None
    options |= {"host": server.host, "token": server.token, "accounts": known}
    with ExitStack() as locks:
        for job in opened.values():
            locks.enter_context(job.alone("serve"))
        alone = list(opened.values()) if [job.path for job in opened.values()] == jobs else []
        made = (
            make_app(alone[0], **options)
            if len(alone) == 1
            else make_jobs_app(opened, newcomers=Newcomers(jobs, opened, locks), **options)
        )
        what = "labeling page" if len(alone) == 1 else "start page"
        server.serve(made, port, what, context.output, browser=open_browser and not (server.token or known))


@command(JOB)
def move(
    context: JobContext,
    data: Annotated[str, typer.Option(help="New place of the images, of the CSV file that lists them, or of the shards.")],
    image_root: Annotated[Path | None, IMAGE_ROOT] = None,
) -> None:
    """Tell a job that its images have moved; ids and labels stay."""
    from ssl_diffusion.annotation.loop.job import move_images

    job = context.job
    move_images(job, data, image_root)
    place = job.settings.recipe.data.path if job.shards is not None else str(job.image_root)
    context.output.result({"images": place}, f"images are read from {place}")


def _fits_of(recipe: "Recipe", objective: str | None, backbone: str | None, overrides: list[str], name: str) -> "Recipe":
    """The recipe of the fits of a job.

    Args:
        recipe: Recipe with the images of the job.
        objective: Objective that was asked for; None leaves it to the recipe or, with a backbone, takes the probe.
        backbone: Backbone that was asked for; None leaves it to the recipe.
        overrides: Settings that were asked for.
        name: Name or file of the recipe.
    """
    asked = {"training.objective": objective, "backbone.name": backbone}
    made = recipe.with_settings({key: value for key, value in asked.items() if value is not None}).with_overrides(overrides)
    said = objective is not None or any(text.partition("=")[0].strip() == "training.objective" for text in overrides)
    if said or name != "images" or made.backbone.name in ("none", "auto"):
        return made
    return made.with_setting("training.objective", "probe")  # which takes seconds, once the denoiser is pretrained


def _of(n: int, target: int | None) -> str:
    return str(n) if target is None else f"{n} of {target}"


def _print_status(job: "Job", output: Output, first: list[str] | None = None) -> None:
    from ssl_diffusion.annotation.loop.status import status_of

    found = status_of(job, progress=output.bars)
    output.result(found.to_dict(), "\n".join([*(first or []), *_status_lines(found)]))


def _status_lines(found: "JobStatus") -> list[str]:
    counts, (height, width) = found.counts, found.image_size
    others = ", ".join(f"{counts[key]} {key}" for key in ("partial", "disputed", "skipped", "flagged") if counts[key])
    lines = [
        f"images          {height} x {width} pixels for models (see --size of `loop init`); the page shows them as stored",
        f"samples         {counts['samples']}, {counts['labeled']} labeled" + (f" ({others})" if others else ""),
        "classes         "
        + (", ".join(f"{name} {_of(n, found.targets.get(name))}" for name, n in found.labels.items()) or "none yet")
        + (f"; none of them {found.without_class}" if found.without_class else ""),
        f"rounds          {found.rounds}, {found.waiting} samples are waiting",
        f"model           {found.model}" + (f", not fitted to {found.new_labels} new labels" if found.new_labels else ""),
    ]
    if found.fit.state == "running":
        how = f", {found.fit.task} {found.fit.done:.0%}" if found.fit.task else ""
        left = f", {found.fit.seconds_left / 60:.1f} min left" if found.fit.seconds_left is not None else ""
        lines.append(f"fit             in progress{how}{left}, by {found.fit.process}")
    elif found.fit.state in ("failed", "stopped"):
        lines.append(f"fit             {found.fit.state}: {found.fit.message}")
    sampled = "labels sampled in the last round (accuracy of the model that sampled them)"
    audit = "labels of the audit"
    for estimate, where in ((found.audit_metric, audit), (found.audit, audit), (found.drawn, sampled)):
        if estimate is not None:
            interval = f"95 % interval {estimate.low:.1%} to {estimate.high:.1%}"
            lines.append(f"{estimate.figure:15} {estimate.accuracy:.1%} ({interval}), from {estimate.n} {where}")
    if found.audit_majority is not None:
        lines.append(
            f"baseline        {found.audit_majority:.1%}, the accuracy of always saying what is most frequent in the audit"
        )
    if known := {name: facts["f1"] for name, facts in found.audit_by_class.items() if facts["f1"] is not None}:
        worst = sorted(known.items(), key=lambda pair: pair[1] or 0.0)
        more = " ..." if len(worst) > _WORST else ""
        lines.append(f"F1 by class     {', '.join(f'{name} {value:.2f}' for name, value in worst[:_WORST])}{more}")
    if precise := [value for facts in found.audit_by_class.values() if (value := facts["average_precision"]) is not None]:
        lines.append(f"mean AP         {sum(precise) / len(precise):.1%}, of {len(precise)} classes")
    lines.append(f"forecast        {found.forecast}")
    if found.labels_per_hour is not None:
        lines.append(f"speed           {found.labels_per_hour:,.0f} labels per hour")
    return lines + [f"advice          {line}" for line in [found.next_step, *found.advice]]
