"""`@command`: what the commands of `ssld` have in common, written once.

A command is a function of a context and of its own options. The decorator adds the options that all commands share, binds
threads before anything imports torch, opens the run or job that the command works on, and turns the library's errors into one
sentence and an exit code. Typer reads the result's signature, in which all of those options appear.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, TypeVar, get_args

import typer

from .options import ACCELERATOR, PRECISION, DebugOption, JsonOption, QuietOption, ShardOptions, ThreadsOption
from .output import Output

if TYPE_CHECKING:
    from ssl_diffusion.annotation.loop.job import Job
    from ssl_diffusion.inference.run import Run

__all__ = ["JOB", "NOTHING", "RUN", "Context", "JobArgument", "JobContext", "RunContext", "command"]

JobArgument = Annotated[Path, typer.Argument(metavar="JOB", help="Job folder.")]


@dataclass(frozen=True)
class Context:
    """What every command is given.

    Args:
        output: Channel to the user.
    """

    output: Output


@dataclass(frozen=True)
class RunContext(Context):
    """What a command on a run is given.

    Args:
        run: Opened run.
        accelerator: Requested device, for runs that the command opens besides.
        precision: Requested precision, likewise.
    """

    run: "Run"
    accelerator: str
    precision: str


@dataclass(frozen=True)
class JobContext(Context):
    """What a command on an annotation job is given.

    Args:
        job: Opened job.
    """

    job: "Job"


def _with_nothing(output: Output) -> Context:
    return Context(output)


def _with_run(
    output: Output,
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    accelerator: Annotated[str, ACCELERATOR] = "auto",
    precision: Annotated[str, PRECISION] = "auto",
) -> RunContext:
    from ssl_diffusion.inference.run import load_run

    return RunContext(output, load_run(run, accelerator, precision), accelerator, precision)


def _with_job(output: Output, job: JobArgument) -> JobContext:
    from ssl_diffusion.annotation.loop.job import open_job

    return JobContext(output, open_job(job))


C = TypeVar("C", bound=Context)
Need = Callable[Concatenate[Output, ...], C]

# What a command needs is a function that makes its context; parameters of that function become options of the command.
NOTHING: Need[Context] = _with_nothing
RUN: Need[RunContext] = _with_run
JOB: Need[JobContext] = _with_job


def command(
    needs: Need[C], *, threads: int | None = None
) -> Callable[[Callable[Concatenate[C, ...], None]], Callable[..., None]]:
    """Turn a function into a command that Typer can register.

    The first parameter of the function is its context. A parameter whose type is a dataclass stands for a group of options,
    one per field; the class may name the panel of the help page that shows them in a class variable `panel`.

    Args:
        needs: Kind of folder that the command works on: :data:`NOTHING`, :data:`RUN` or :data:`JOB`.
        threads: Default of the option --threads; None leaves the option out.

    Returns:
        A decorator. The command takes the function's options, those of `needs`, --threads if asked for, --json, --quiet and
        --debug, all by keyword. Paths among them are judged before any work.
    """

    def decorate(body: Callable[Concatenate[C, ...], None]) -> Callable[..., None]:
        opening = _parameters(needs)
        own = _parameters(body)
        parameters = [
            *(p for p in opening if p.default is Parameter.empty),
            *(option for p in own for option in _options(p)),
            *(p for p in opening if p.default is not Parameter.empty),
            *([_option("threads", ThreadsOption, threads)] if threads is not None else []),
            _option("as_json", JsonOption, False),
            _option("quiet", QuietOption, False),
            _option("debug", DebugOption, False),
        ]

        def run(**values: Any) -> None:
            output = Output(values["as_json"], values["quiet"], values.get("debug", False))
            with output.running():
                _check_words(values)
                # With several devices the ranks share the cores, which binding all threads of one process would prevent.
                if "threads" in values and (values.get("devices") or 1) == 1:
                    from ssl_diffusion.machine import bind_threads

                    bind_threads(values["threads"] or 0)
                given = {p.name: _value(p, values) for p in own}
                if needs is RUN:
                    from ssl_diffusion.inference.run_path import model_file_of

                    model_file_of(values["run"])  # a wrong folder is an error before anything is started
                groups = [group for group in given.values() if isinstance(group, ShardOptions)]
                for group in groups:
                    group.begin()
                try:
                    body(needs(output, **{p.name: values[p.name] for p in opening}), **given)
                finally:
                    for group in groups:
                        group.end()

        run.__name__, run.__doc__, run.__module__ = body.__name__, body.__doc__, body.__module__
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _check_words(values: Mapping[str, Any]) -> None:
    """Refuse texts that are no text, paths that nothing can be read from, and places (`out`) that nothing can be written to."""
    from ssl_diffusion.errors import SSLDError
    from ssl_diffusion.outputs import path_fault, place_fault

    for name, value in values.items():
        for word in value if isinstance(value, list | tuple) else (value,):
            fault = None
            if isinstance(word, str):
                fault = _text_fault(word)
            elif isinstance(word, Path) and name == "out":
                fault = f"{said}; choose another --out" if (said := place_fault(word)) is not None else None
            elif isinstance(word, Path):
                fault = path_fault(word)
            if fault is not None:
                raise SSLDError(fault)


def _text_fault(text: str) -> str | None:
    """What is wrong with a text, whatever it is for; None if nothing is."""
    from ssl_diffusion.settings import shown

    if "\0" in text:
        return f"{shown(text)} holds a NUL character: leave it out"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{shown(text)} is not valid UTF-8: give it in the encoding of your terminal"
    return None


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a function after its first, as keywords."""
    return [p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(function).parameters.values()][1:]


def _option(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _options(parameter: Parameter) -> list[Parameter]:
    """The options that a parameter stands for: itself, or the fields of its dataclass."""
    group = parameter.annotation
    if not is_dataclass(group):
        return [parameter]
    panel = getattr(group, "panel", None)
    return [
        _option(f.name, _in_panel(f.type, panel), Parameter.empty if f.default is MISSING else f.default) for f in fields(group)
    ]


def _in_panel(annotation: Any, panel: str | None) -> Any:
    kind, info = get_args(annotation)
    shown = copy(info)
    shown.rich_help_panel = panel
    return Annotated[kind, shown]


def _value(parameter: Parameter, values: Mapping[str, Any]) -> Any:
    group = parameter.annotation
    if not is_dataclass(group):
        return values[parameter.name]
    assert isinstance(group, type)
    return group(**{f.name: values[f.name] for f in fields(group)})
