"""`ssld loop`: label what the model asks for, round after round."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ssl_diffusion.cli.output import JsonOption, Output, QuietOption, needing

if TYPE_CHECKING:
    from ssl_diffusion.annotation.loop.job import Job
    from ssl_diffusion.annotation.loop.status import JobStatus

__all__ = ["app"]

app = typer.Typer(help="Label what the model asks for: a durable job, a labeling page, Label Studio.", no_args_is_help=True)

JobArgument = Annotated[Path, typer.Argument(metavar="JOB", help="Job folder.")]


@app.command()
def init(
    job: JobArgument,
    data: Annotated[Path, typer.Option(help="Folder of images, or a CSV file that lists them.")],
    classes: Annotated[str | None, typer.Option(help="Names, comma-separated, besides those of the data.")] = None,
    image_root: Annotated[Path | None, typer.Option(help="Folder that the paths of a CSV file are relative to.")] = None,
    size: Annotated[int | None, typer.Option(help="Models see images of SIZE x SIZE pixels.", min=8)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out unreadable images.")] = False,
    test_fraction: Annotated[float, typer.Option(help="Share of the labels in the data that only test.", min=0, max=1)] = 0.0,
    audit: Annotated[int, typer.Option(help="Samples drawn by chance whose labels only measure the models.", min=0)] = 0,
    agreement: Annotated[int, typer.Option(help="Annotators that a sample needs.", min=1)] = 1,
    n: Annotated[int, typer.Option("--n", help="Samples of a round.", min=1)] = 50,
    strategy: Annotated[str, typer.Option(help="auto, or one of `ssld strategies`.")] = "auto",
    budget: Annotated[int, typer.Option(help="Labels wanted in all; 0 is no limit.", min=0)] = 0,
    refit_every: Annotated[int, typer.Option(help="New labels after which the server fits; 0: by hand.", min=0)] = 0,
    recipe: Annotated[str, typer.Option(help="Recipe of the fits.")] = "images",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Any recipe setting: section.name=value.")] = None,
    store: Annotated[str, typer.Option(help="Database URL, as postgresql://HOST/NAME. Default: SQLite in the job.")] = "",
    seed: Annotated[int, typer.Option(help="Of all chance.", min=0)] = 0,
    pretrain: Annotated[bool, typer.Option("--pretrain", help="Begin to pretrain without labels, in the background.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a job of a folder of images.

    Examples:

      ssld loop init job/ --data photos/ --classes cat,dog

      ssld loop init job/ --data photos/ --classes cat,dog --audit 100 --pretrain
    """
    output = Output(as_json, quiet)
    with output.running():
        from dataclasses import replace

        from ssl_diffusion.annotation.loop.job import create_job
        from ssl_diffusion.annotation.loop.settings import JobSettings
        from ssl_diffusion.training.recipe import load_recipe

        base = load_recipe(recipe)
        described = replace(
            base.data,
            dataset="",
            path=str(data.resolve()),
            image_root=str(image_root.resolve()) if image_root is not None else "",
            size=size or 0,
            skip_bad=skip_bad,
            test_fraction=test_fraction,
        )
        settings = JobSettings(
            recipe=replace(base, data=described).with_overrides(overrides or []).checked("command line"),
            store=store,
            agreement=agreement,
            audit=audit,
            batch=n,
            strategy=strategy,
            budget=budget,
            refit_every=refit_every,
            seed=seed,
        )
        names = [name.strip() for name in classes.split(",")] if classes else []
        made = create_job(job, settings, names, progress=output.bars)
        first = [f"job             {job}"]
        if pretrain:
            from ssl_diffusion.annotation.loop.fits import Background

            background = Background(made)
            background.start(pretrain=True)
            first.append(f"pretraining     goes on in the background; what it says is in {background.log}")
        _print_status(made, output, first=first)


@app.command("next")
def next_(
    job: JobArgument,
    n: Annotated[int | None, typer.Option("--n", help="Samples. Default: the job's.", min=1)] = None,
    strategy: Annotated[str | None, typer.Option(help="auto, or one of `ssld strategies`. Default: the job's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws. Default: the job's and the round.", min=0)] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the batch there, as CSV.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose what to label next."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.annotation.loop.job import open_job
        from ssl_diffusion.annotation.loop.rounds import next_round

        opened = open_job(job)
        made = next_round(opened, n, strategy, seed=seed, progress=output.bars)
        written = opened.path / "batches" / f"round-{made.number:03d}.csv"
        if out is not None:
            from ssl_diffusion.storage import atomic_write_text

            atomic_write_text(out, written.read_text(encoding="utf-8"))
        ids = made.to_frame()["id"].tolist()
        values = {"round": made.number, "strategy": made.strategy, "reason": made.reason, "model": made.model, "ids": ids}
        lines = [
            f"round           {made.number}: {len(made)} samples" + (f", {len(made.audit)} of the audit" if made.audit else ""),
            f"strategy        {made.reason}",
            f"seen through    {made.model}",
            f"written to      {out or written}",
            f"label them      ssld loop serve {job}",
        ]
        output.result(values, "\n".join(lines))


@app.command("import")
def import_(
    job: JobArgument,
    labels: Annotated[Path, typer.Argument(help="CSV (id, label), JSON lines, Label Studio's JSON, or Prodigy's lines.")],
    annotator: Annotated[str | None, typer.Option(help="Who said so, where the file does not say.")] = None,
    add_class: Annotated[bool, typer.Option("--add-class", help="Take classes that the job does not have.")] = False,
    final: Annotated[bool, typer.Option("--final", help="These labels settle samples, whatever others say.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take over labels from a file: all of them, or none."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.annotation.files.imports import import_labels
        from ssl_diffusion.annotation.loop.job import open_job

        found = import_labels(open_job(job), labels, annotator=annotator, add_class=add_class, final=final)
        values = {"labeled": found.labeled, "skipped": found.skipped, "new_classes": list(found.new_classes)}
        new = f", new classes {', '.join(found.new_classes)}" if found.new_classes else ""
        output.result(values, f"{found.labeled} labels and {found.skipped} skips taken over{new}")


@app.command("export")
def export(
    job: JobArgument,
    form: Annotated[str, typer.Option("--format", help="csv, jsonl, coco, folder, label-studio or prodigy.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="File, or folder. Default: labels.FORMAT.")] = None,
    status: Annotated[
        str, typer.Option(help="labeled, disputed, skipped, partial, flagged or all (csv and jsonl).")
    ] = "labeled",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write labels for other programs."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.annotation.files.exports import export_labels
        from ssl_diffusion.annotation.loop.job import open_job

        endings = {"coco": "labels.json", "label-studio": "labels.json", "prodigy": "labels.jsonl", "folder": "labels"}
        place = out if out is not None else Path(endings.get(form, f"labels.{form}"))
        n = export_labels(open_job(job), place, form, status=status, overwrite=overwrite)
        output.result({"samples": n, "out": str(place)}, f"{n} samples written to {place}")


@app.command()
def fit(
    job: JobArgument,
    pretrain: Annotated[bool, typer.Option("--pretrain", help="Only pretrain, without labels.")] = False,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 is all cores.", min=0)] = 0,
    cache_dir: Annotated[Path | None, typer.Option(help="Cache of denoisers. Default: ~/.cache/ssld.")] = None,
    progress_every: Annotated[float, typer.Option(help="Seconds between lines of progress in a log.", hidden=True)] = 30.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit a model to the labels so far; it becomes the current model."""
    output = Output(as_json, quiet)
    with output.running():
        if output.bars is not None:
            output.bars.every = progress_every
        from ssl_diffusion.annotation.loop.job import open_job
        from ssl_diffusion.machine import bind_threads

        bind_threads(threads)
        opened = open_job(job)
        _fit(opened, output, pretrain=pretrain, cache_dir=cache_dir)
        _print_status(opened, output)


@app.command()
def status(job: JobArgument, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """How a job stands: labels, rounds, accuracy with its interval, labels per hour, what to do next."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.annotation.loop.job import open_job

        _print_status(open_job(job), output)


@app.command()
def serve(
    job: JobArgument,
    port: Annotated[int, typer.Option(help="Of the page.", min=1, max=65535)] = 8700,
    host: Annotated[str, typer.Option(help="Address to listen on; any other than this machine needs --token.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="SSLD_TOKEN", help="What others log in with, 16 characters or more.", show_envvar=True)
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Do not show what the model thinks.")] = False,
    refit_every: Annotated[int | None, typer.Option(help="New labels after which a fit starts. Default: the job's.")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 is all cores.", min=0)] = 1,
    quiet: QuietOption = False,
) -> None:
    """Serve the labeling page; Ctrl-C ends it."""
    output = Output(False, quiet)
    with output.running():
        from ssl_diffusion.annotation.loop.job import open_job
        from ssl_diffusion.machine import bind_threads

        with needing("annotate"):
            import uvicorn

            from ssl_diffusion.annotation.page.server import make_app
        bind_threads(threads)
        opened = open_job(job)
        with opened.alone("serve"):
            made = make_app(opened, host=host, token=token, blind=blind, refit_every=refit_every)
            url = f"http://{host if ':' not in host else f'[{host}]'}:{port}/"
            typer.echo(f"labeling page   {url}   (Ctrl-C ends it)", err=True)
            if open_browser and token is None:
                import threading
                import webbrowser

                threading.Timer(1.0, webbrowser.open, [url]).start()
            # Addresses may hold ids, and the log of a page is nobody's business.
            uvicorn.run(made, host=host, port=port, log_level="warning", access_log=False)


@app.command()
def move(
    job: JobArgument,
    data: Annotated[Path, typer.Option(help="Where the images, or the CSV file that lists them, are now.")],
    image_root: Annotated[Path | None, typer.Option(help="Folder that the paths of the CSV file are relative to.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell a job that its images are elsewhere now; ids and labels stay."""
    output = Output(as_json, quiet)
    with output.running():
        from ssl_diffusion.annotation.loop.job import move_images, open_job

        opened = open_job(job)
        move_images(opened, data, image_root)
        output.result({"images": str(opened.image_root)}, f"images are read from {opened.image_root}")


def _fit(job: "Job", output: Output, *, pretrain: bool, cache_dir: Path | None = None) -> None:
    from ssl_diffusion.annotation.loop.fits import fit_job
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions

    cache = DenoiserCache(cache_dir) if cache_dir is not None else None
    fit_job(job, pretrain=pretrain, options=FitOptions(cache=cache, progress=output.bars))


def _print_status(job: "Job", output: Output, first: list[str] | None = None) -> None:
    from ssl_diffusion.annotation.loop.status import job_status

    found = job_status(job, output.bars)
    output.result(found.to_dict(), "\n".join([*(first or []), *_status_lines(found)]))


def _status_lines(found: "JobStatus") -> list[str]:
    counts = found.counts
    others = ", ".join(f"{counts[key]} {key}" for key in ("partial", "disputed", "skipped", "flagged") if counts[key])
    lines = [
        f"samples         {counts['samples']}, {counts['labeled']} labeled" + (f" ({others})" if others else ""),
        "classes         " + (", ".join(f"{name} {n}" for name, n in found.labels.items()) or "none yet"),
        f"rounds          {found.rounds}, {found.waiting} samples are waiting",
        f"model           {found.model}" + (f", {found.new_labels} labels are new" if found.new_labels else ""),
    ]
    if found.fitting is not None:
        lines.append(f"fit             by {found.fitting}")
    drawn = "labels drawn in the last round, of the model that drew them"
    for estimate, where in ((found.audit, "labels of the audit"), (found.drawn, drawn)):
        if estimate is not None:
            interval = f"{estimate.low:.1%} to {estimate.high:.1%} at 95 %"
            lines.append(f"accuracy        {estimate.accuracy:.1%} ({interval}), from {estimate.n} {where}")
    if found.labels_per_hour is not None:
        lines.append(f"speed           {found.labels_per_hour:,.0f} labels an hour")
    return lines + [f"advice          {line}" for line in [found.next_step, *found.advice]]
