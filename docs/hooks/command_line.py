"""The reference of the command line, from the help texts that the program itself prints."""

from typing import Any

import typer
from ssl_diffusion.cli.main import app

__all__ = ["reference"]


def reference() -> str:
    """Every command with its usage, description and parameters, as one Markdown page."""
    root: Any = typer.main.get_command(app)
    context = root.make_context("ssld", [], resilient_parsing=True)
    lines = ["# Command line", "", *_description(root)]
    for name, command in root.commands.items():
        lines += _section(f"ssld {name}", command, context)
    return "\n".join(lines)


def _section(name: str, command: Any, parent: Any, level: int = 2) -> list[str]:
    """A command; of a group its commands, one level below."""
    context = command.make_context(name.rpartition(" ")[2], [], parent=parent, resilient_parsing=True)
    lines = [f"{'#' * level} {name}", "", *_description(command)]
    if commands := getattr(command, "commands", None):
        for below, each in commands.items():
            lines += _section(f"{name} {below}", each, context, level + 1)
        return lines
    lines += ["```text", command.get_usage(context).removeprefix("Usage: "), "```", ""]
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and "--help" not in parameter.opts:
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel = getattr(parameter, "rich_help_panel", None) or kind
            panels.setdefault(panel, []).append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
    for panel, rows in panels.items():
        lines += [f"| {panel} | |", "| --- | --- |", *rows, ""]
    return lines


def _description(command: Any) -> list[str]:
    """The help text; examples, which are paragraphs that begin with `ssld`, as one block of code."""
    lines: list[str] = []
    examples: list[str] = []
    for paragraph in [part.strip() for part in (command.help or "").split("\n\n")] + [""]:
        if paragraph.startswith("ssld "):
            examples.append(paragraph)
            continue
        if examples:
            lines += ["```text", *examples, "```", ""]
            examples = []
        lines += [paragraph, ""]
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
