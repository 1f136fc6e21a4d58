"""`ssld`: the entry point and the table of commands."""

import typer
from ssl_diffusion.cli import evaluate, explain, fit, info, label_studio, loop, predict, query, sample, study

__all__ = ["app", "run"]

app = typer.Typer(
    name="ssld",
    help="Semi-supervised and active learning on one joint diffusion model: many images, few labels.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("fit")(fit.fit)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("sample")(sample.sample)
app.command("explain")(explain.explain)
app.command("query")(query.query)
app.command("strategies")(query.strategies)
app.command("study")(study.study)
loop.app.command("push")(label_studio.push)
loop.app.command("pull")(label_studio.pull)
loop.app.command("backend")(label_studio.backend)
app.add_typer(loop.app, name="loop")
app.command("recipes")(info.recipes)
app.command("datasets")(info.datasets)
app.command("doctor")(info.doctor)


def _version(value: bool) -> None:
    if value:
        from ssl_diffusion import __version__

        typer.echo(f"ssld {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Semi-supervised and active learning on one joint diffusion model: many images, few labels."""


def run() -> None:
    """Console script."""
    app()
