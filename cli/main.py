"""`ssld`: the entry point and the table of commands."""

import typer

from . import (
    accounts,
    backbones,
    check,
    embed,
    evaluate,
    explain,
    fit,
    info,
    label_studio,
    loop,
    pack,
    predict,
    query,
    sample,
    study,
)
from .program import Program

__all__ = ["app", "run"]

_HELP = "Semi-supervised and active learning on one joint diffusion model: many images, few labels."

app = typer.Typer(
    name="ssld",
    cls=Program,
    help=_HELP,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("fit")(fit.fit)
app.command("pack")(pack.pack)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("sample")(sample.sample)
app.command("explain")(explain.explain)
app.command("embed")(embed.embed)
app.command("check")(check.check)
app.command("query")(query.query)
app.command("strategies")(query.strategies)
app.command("study")(study.study)

_loop = typer.Typer(help="Annotation jobs: label what the model asks for, on a page or in Label Studio.", no_args_is_help=True)
_loop.command("init")(loop.init)
_loop.command("next")(loop.next_)
_loop.command("import")(loop.import_)
_loop.command("export")(loop.export)
_loop.command("fit")(loop.fit)
_loop.command("status")(loop.status)
_loop.command("serve")(loop.serve)
_loop.command("move")(loop.move)
_loop.command("push")(label_studio.push)
_loop.command("pull")(label_studio.pull)
_loop.command("backend")(label_studio.backend)
_accounts = typer.Typer(help="Accounts of the people who use a server: names, roles and passwords.", no_args_is_help=True)
_accounts.command("add")(accounts.add)
_accounts.command("list")(accounts.list_)
_accounts.command("remove")(accounts.remove)
_accounts.command("role")(accounts.role)
_accounts.command("password")(accounts.password)
_loop.add_typer(_accounts, name="accounts")
app.add_typer(_loop, name="loop")

app.command("recipes")(info.recipes)
app.command("datasets")(info.datasets)
app.command("backbones")(backbones.backbones)
app.command("doctor")(info.doctor)


def _version(value: bool) -> None:
    if value:
        from ssl_diffusion import __version__

        typer.echo(f"ssld {__version__}")
        raise typer.Exit()


@app.callback(help=_HELP)
def main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Options of the program itself."""


def run() -> None:
    """Console script."""
    app()
