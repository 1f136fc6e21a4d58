"""`ssld loop push`, `pull` and `backend`: a team that labels in Label Studio."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ssl_diffusion.cli.loop import JobArgument
from ssl_diffusion.cli.output import JsonOption, Output, QuietOption, needing

if TYPE_CHECKING:
    from ssl_diffusion.annotation.label_studio.client import LabelStudio
    from ssl_diffusion.annotation.loop.job import Job

__all__ = ["backend", "pull", "push"]

UrlOption = Annotated[
    str | None,
    typer.Option("--label-studio", help="Address, as http://localhost:8080. Default: as the last time."),
]
ProjectOption = Annotated[int | None, typer.Option(help="Number of the project. Default: as the last time.", min=1)]
KeyOption = Annotated[
    str,
    typer.Option("--api-key", envvar="LABEL_STUDIO_API_KEY", help="Access token of a Label Studio user.", show_envvar=True),
]
PrefixOption = Annotated[
    str | None,
    typer.Option(help="What comes before an id in the address of an image. Default: images are put into the tasks."),
]
BlindOption = Annotated[bool, typer.Option("--blind", help="Do not show what the model thinks.")]


def push(
    job: JobArgument,
    api_key: KeyOption,
    url: UrlOption = None,
    project: ProjectOption = None,
    image_prefix: PrefixOption = None,
    blind: BlindOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make the queue of a job the queue of a Label Studio project."""
    output = Output(as_json, quiet)
    with output.running():
        opened, server, number = _opened(job, url, project, api_key)
        with server:
            from ssl_diffusion.annotation.label_studio import sync

            done = sync.push(opened, server, number, image_prefix=image_prefix, blind=blind)
            sync.remember(opened, server.url, number)
        values = {"new": done.new, "ordered": done.ordered, "version": done.version, "notes": list(done.notes)}
        lines = [f"{done.ordered} tasks in order as {done.version}, {done.new} of them new", *done.notes]
        output.result(values, "\n".join(lines))


def pull(
    job: JobArgument,
    api_key: KeyOption,
    url: UrlOption = None,
    project: ProjectOption = None,
    add_class: Annotated[bool, typer.Option("--add-class", help="Take classes that the job does not have.")] = False,
    final: Annotated[bool, typer.Option("--final", help="These labels settle samples, whatever others say.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take over what the annotators of a Label Studio project said; what they deleted is taken back."""
    output = Output(as_json, quiet)
    with output.running():
        opened, server, number = _opened(job, url, project, api_key)
        with server:
            from ssl_diffusion.annotation.label_studio import sync

            done = sync.pull(opened, server, number, add_class=add_class, final=final)
            sync.remember(opened, server.url, number)
        values = {"labeled": done.imported.labeled, "skipped": done.imported.skipped, "taken_back": done.taken_back}
        text = f"{done.imported.labeled} labels and {done.imported.skipped} skips taken over, {done.taken_back} taken back"
        output.result(values, text)


def backend(
    job: JobArgument,
    api_key: KeyOption,
    url: UrlOption = None,
    project: ProjectOption = None,
    port: Annotated[int, typer.Option(help="Of the model.", min=1, max=65535)] = 9090,
    host: Annotated[str, typer.Option(help="Address to listen on; any other than this machine needs --token.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="SSLD_TOKEN", help="Password that Label Studio sends, 16 characters or more.")
    ] = None,
    image_prefix: PrefixOption = None,
    blind: BlindOption = False,
    refit_every: Annotated[int | None, typer.Option(help="New labels after which a fit starts. Default: the job's.")] = None,
    threads: Annotated[int, typer.Option(help="Processor threads; 0 is all cores.", min=0)] = 1,
    quiet: QuietOption = False,
) -> None:
    """Serve the model of a job to Label Studio and follow its project; Ctrl-C ends it."""
    output = Output(False, quiet)
    with output.running():
        import logging

        from ssl_diffusion.machine import bind_threads

        with needing("annotate"):
            import uvicorn

            from ssl_diffusion.annotation.label_studio.backend import Backend, make_backend
        opened, server, number = _opened(job, url, project, api_key)
        with server:
            bind_threads(threads)
            logging.basicConfig(level=logging.WARNING, format="%(message)s")
            with opened.alone("serve"):
                made = Backend(opened, server, number, blind=blind, image_prefix=image_prefix, refit_every=refit_every)
                app = make_backend(made, host=host, token=token)
                server.project(number)
                typer.echo(f"model           http://{host}:{port}   (Ctrl-C ends it)", err=True)
                uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


def _opened(path: Path, url: str | None, project: int | None, api_key: str) -> "tuple[Job, LabelStudio, int]":
    """The job, the server and the project: what is not given is as the last time."""
    from ssl_diffusion.annotation.loop.job import open_job
    from ssl_diffusion.errors import SSLDError

    with needing("annotate"):
        from ssl_diffusion.annotation.label_studio.client import LabelStudio
        from ssl_diffusion.annotation.label_studio.sync import remembered
    job = open_job(path)
    before = remembered(job)
    url, project = url or before[0], project or before[1]
    if not url or not project:
        raise SSLDError(f"which project is {path} for? Say --label-studio URL --project NUMBER; later commands remember it")
    return job, LabelStudio(url, api_key), project
