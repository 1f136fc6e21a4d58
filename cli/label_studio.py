"""`ssld loop push`, `pull` and `backend`: annotators who work in Label Studio."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_diffusion.settings import AtLeastOne, Port

from .command import JOB, JobContext, command
from .options import ImportOptions, ServerOptions, number
from .output import needing

if TYPE_CHECKING:
    from ssl_diffusion.annotation.label_studio.client import LabelStudio
    from ssl_diffusion.annotation.loop.job import Job

__all__ = ["backend", "pull", "push"]

PrefixOption = Annotated[
    str | None,
    typer.Option(help="Text before an id in the address of an image. Default: images are embedded in the tasks."),
]


@dataclass(frozen=True)
class ProjectOptions:
    """The Label Studio project of a job."""

    api_key: Annotated[
        str,
        typer.Option("--api-key", envvar="LABEL_STUDIO_API_KEY", help="Access token of a Label Studio user.", show_envvar=True),
    ]
    url: Annotated[
        str | None,
        typer.Option("--label-studio", help="Server address, such as http://localhost:8080. Default: the one used last."),
    ] = None
    project: Annotated[int | None, number(AtLeastOne, help="Project number. Default: the one used last.")] = None

    def open(self, job: "Job") -> "tuple[LabelStudio, int]":
        """The server and the project's number; what is not given is what the job used last.

        Raises:
            SSLDError: If nothing is given, and the job has not been used with a project before.
        """
        from ssl_diffusion.errors import SSLDError

        with needing("annotate"):
            from ssl_diffusion.annotation.label_studio.client import LabelStudio
            from ssl_diffusion.annotation.label_studio.sync import remembered
        before = remembered(job)
        url = before[0] if self.url is None else self.url
        project = before[1] if self.project is None else self.project
        if url is None or project is None:
            raise SSLDError(
                f"{job.path} has no Label Studio project yet: give --label-studio URL --project NUMBER once; it is remembered"
            )
        return LabelStudio(url, self.api_key), project


@command(JOB)
def push(
    context: JobContext,
    at: ProjectOptions,
    image_prefix: PrefixOption = None,
    blind: Annotated[bool, typer.Option("--blind", help="Hide the model's predictions from annotators.")] = False,
) -> None:
    """Push the queue of a job to a Label Studio project."""
    server, project = at.open(context.job)
    with server:
        from ssl_diffusion.annotation.label_studio import sync

        done = sync.push(context.job, server, project, image_prefix=image_prefix, blind=blind)
        sync.remember(context.job, server.url, project)
    values = {"new": done.new, "ordered": done.ordered, "version": done.version, "notes": list(done.notes)}
    lines = [f"{done.ordered} tasks in order, as version {done.version}; {done.new} of them are new", *done.notes]
    context.output.result(values, "\n".join(lines))


@command(JOB)
def pull(context: JobContext, at: ProjectOptions, options: ImportOptions) -> None:
    """Import the annotations of a Label Studio project; annotations deleted there are withdrawn here."""
    server, project = at.open(context.job)
    with server:
        from ssl_diffusion.annotation.label_studio import sync

        done = sync.pull(context.job, server, project, add_class=options.add_class, final=options.final)
        sync.remember(context.job, server.url, project)
    found = done.imported
    values = {"labeled": found.labeled, "skipped": found.skipped, "withdrawn": done.withdrawn}
    text = f"{found.labeled} labels and {found.skipped} skips imported, {done.withdrawn} votes withdrawn"
    context.output.result(values, text)


@command(JOB, threads=1)
def backend(
    context: JobContext,
    at: ProjectOptions,
    server: ServerOptions,
    port: Annotated[int, number(Port, help="Port of the model server.")] = 9090,
    image_prefix: PrefixOption = None,
) -> None:
    """Serve the model of a job to Label Studio, and follow its project, until Ctrl-C."""
    import logging

    with needing("annotate"):
        from ssl_diffusion.annotation.label_studio.backend import Backend, make_backend
    studio, project = at.open(context.job)
    with studio:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        with context.job.alone("serve"):
            made = Backend(
                context.job,
                studio,
                project,
                blind=server.blind,
                image_prefix=image_prefix,
                refit_every=server.refit_every,
            )
            app = make_backend(made, host=server.host, token=server.token)
            studio.project(project)
            server.serve(app, port, "model server", context.output)
