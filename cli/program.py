"""The program around all commands: whatever is raised anywhere in it, even while options are parsed, ends in one sentence."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from .failures import ARGUMENTS, Failure, debugging, failure_of, usage_failure

__all__ = ["ASKS_TO_EXIT", "Program", "end_quietly", "report"]

_UsageError: Any = typer.BadParameter.__base__
# What Typer raises to end a program; no failures.
ASKS_TO_EXIT: tuple[type[BaseException], ...] = (typer.Exit, typer.Abort, _UsageError)


class Program(TyperGroup):
    """The group of all commands; as :class:`typer.core.TyperGroup`, but every end has its sentence and its exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program and leave the process; see `click.Command.main`."""
        words = list(sys.argv[1:] if args is None else args)
        token = ARGUMENTS.set(tuple(words))
        try:
            done = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            if not standalone_mode:
                raise
            code = _ended_by(error, words)
        else:
            if not standalone_mode:
                return done
            code = done if isinstance(done, int) else 0  # the code of a typer.Exit, or what the command returned
        finally:
            ARGUMENTS.reset(token)
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run the group's callbacks and the command; Ctrl-C, which Typer ends in silence or as "Aborted.", is said."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(report(failure_of(error), "--json" in ARGUMENTS.get())) from None


def report(failure: Failure, as_json: bool) -> int:
    """Print a failure, with --json also as an object on stdout; returns its exit code."""
    typer.echo(failure.line, err=True)
    if as_json:
        typer.echo(json.dumps({"error": failure.message, "kind": failure.kind}))
    return failure.code


def end_quietly() -> None:
    """Send what is still to be printed nowhere: its reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):  # a stream without a file, as in tests
            continue


def _ended_by(error: Exception, words: Sequence[str]) -> int:
    """Exit code of a program that an error ended, after its sentence."""
    if isinstance(error, BrokenPipeError):
        end_quietly()
        return 1
    if isinstance(error, typer.Abort) and error.__context__ is not None:  # Typer's word for the end of what is read
        error = error.__context__ if isinstance(error.__context__, Exception) else error
    if isinstance(error, _UsageError):
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            return 2
        return report(usage_failure(error), "--json" in words)  # type: ignore[arg-type]
    if debugging(words):
        import traceback

        traceback.print_exception(error)
    return report(failure_of(error), "--json" in words)
