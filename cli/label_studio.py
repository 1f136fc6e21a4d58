"""`ssld loop push`, `pull` and `backend`: a team that labels in Label Studio."""

from typing import TYPE_CHECKING, Annotated

import typer
from ssl_diffusion.cli.loop import JobArgument
from ssl_diffusion.cli.output import JsonOption, Output, QuietOption, needing

if TYPE_CHECKING:
    from ssl_diffusion.annotation.label_studio import LabelStudio

__all__ = ["backend", "pull", "push"]

UrlOption = Annotated[str, typer.Option("--label-studio", help="Address of the server, as http://localhost:8080.")]
ProjectOption = Annotated[int, typer.Option(help="Number of the project.", min=1)]
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
    url: UrlOption,
    project: ProjectOption,
    api_key: KeyOption,
    image_prefix: PrefixOption = None,
    blind: BlindOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make the queue of a job the queue of a Label Studio project."""
    output = Output(as_json, quiet)
    with output.running():
        with _server(url, api_key) as server:
            from ssl_diffusion.annotation import exchange
            from ssl_diffusion.annotation.job import open_job

            done = exchange.push(open_job(job), server, project, image_prefix=image_prefix, blind=blind)
        values = {"new": done.new, "ordered": done.ordered, "version": done.version, "notes": list(done.notes)}
        lines = [f"{done.ordered} tasks in order as {done.version}, {done.new} of them new", *done.notes]
        output.result(values, "\n".join(lines))


def pull(
    job: JobArgument,
    url: UrlOption,
    project: ProjectOption,
    api_key: KeyOption,
    add_class: Annotated[bool, typer.Option("--add-class", help="Take classes that the job does not have.")] = False,
    final: Annotated[bool, typer.Option("--final", help="These labels settle samples, whatever others say.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take over what the annotators of a Label Studio project said; what they deleted is taken back."""
    output = Output(as_json, quiet)
    with output.running():
        with _server(url, api_key) as server:
            from ssl_diffusion.annotation import exchange
            from ssl_diffusion.annotation.job import open_job

            done = exchange.pull(open_job(job), server, project, add_class=add_class, final=final)
        values = {"labeled": done.imported.labeled, "skipped": done.imported.skipped, "taken_back": done.taken_back}
        text = f"{done.imported.labeled} labels and {done.imported.skipped} skips taken over, {done.taken_back} taken back"
        output.result(values, text)


def backend(
    job: JobArgument,
    url: UrlOption,
    project: ProjectOption,
    api_key: KeyOption,
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

        from ssl_diffusion.annotation.job import open_job
        from ssl_diffusion.devices import bind_threads

        with needing("annotate"):
            import uvicorn

            from ssl_diffusion.annotation.backend import Backend, make_backend
        with _server(url, api_key) as server:
            bind_threads(threads)
            logging.basicConfig(level=logging.WARNING, format="%(message)s")
            opened = open_job(job)
            with opened.alone("serve"):
                made = Backend(opened, server, project, blind=blind, image_prefix=image_prefix, refit_every=refit_every)
                app = make_backend(made, host=host, token=token)
                server.project(project)
                typer.echo(f"model           http://{host}:{port}   (Ctrl-C ends it)", err=True)
                uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


def _server(url: str, api_key: str) -> "LabelStudio":
    with needing("annotate"):
        from ssl_diffusion.annotation.label_studio import LabelStudio
    return LabelStudio(url, api_key)
