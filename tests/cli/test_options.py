"""What commands have in common: --json, --quiet, one help text per shared option, threads bound before torch is imported."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import pytest
import typer
from ssl_diffusion.cli.command import JOB, NOTHING, RUN, Context, command
from ssl_diffusion.cli.main import app
from support.commands import ssld
from typer.testing import CliRunner

from ssl_diffusion.settings import Seed, bounds

# Arguments that each command refuses, apart from those that take none.
REFUSED = {
    "fit": ["--dataset", "nothing"],
    "pack": ["nowhere"],
    "predict": ["nowhere", "nowhere"],
    "evaluate": ["nowhere"],
    "sample": ["nowhere"],
    "explain": ["nowhere", "--id", "a"],
    "query": ["nowhere"],
    "embed": ["nowhere"],
    "check": ["nowhere"],
    "study": ["--dataset", "digits"],
    "loop init": ["job", "--data", "nowhere"],
    "loop next": ["nowhere"],
    "loop import": ["nowhere", "labels.csv"],
    "loop export": ["nowhere"],
    "loop fit": ["nowhere"],
    "loop status": ["nowhere"],
    "loop serve": ["nowhere", "--no-open"],
    "loop accounts add": ["team.json", "ada", "--role", "king"],
    "loop accounts list": ["nowhere"],
    "loop accounts remove": ["nowhere", "ada"],
    "loop accounts role": ["nowhere", "ada", "king"],
    "loop accounts password": ["nowhere", "ada"],
    "loop move": ["nowhere", "--data", "elsewhere"],
    "loop push": ["nowhere", "--api-key", "a"],
    "loop pull": ["nowhere", "--api-key", "a"],
    "loop backend": ["nowhere", "--api-key", "a"],
    "recipes": ["nothing"],
    "backbones": ["nothing"],
}
WITHOUT_ARGUMENTS = ("strategies", "datasets", "doctor")


def leaves(group: Any, words: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a program by the words that call them."""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from leaves(each, f"{words}{name} ")
        else:
            yield f"{words}{name}", each


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_every_command_is_tried_here() -> None:
    assert set(COMMANDS) == {*REFUSED, *WITHOUT_ARGUMENTS}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_json_object_or_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = ssld(*name.split(), *REFUSED[name], "--json")
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = result.stdout.splitlines()
    printed = json.loads(line)
    assert set(printed) == {"error", "kind"}
    assert result.stderr.endswith(f"ssld: error: {printed['error']}\n")
    quiet = ssld(*name.split(), *REFUSED[name], "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (2, "")
    assert quiet.stderr == f"ssld: error: {printed['error']}\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", WITHOUT_ARGUMENTS)
def test_an_answer_is_one_json_object_or_text_alone(name: str) -> None:
    result = ssld(name, "--json")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert json.loads(line)
    quiet = ssld(name, "--quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert len(quiet.stdout.splitlines()) > 1


@pytest.mark.parametrize(
    "option",
    [
        *("--json", "--quiet", "--debug", "--accelerator", "--precision", "--threads", "--set", "--cache-dir", "--image-root"),
        *("--overwrite", "--host", "--token", "--blind", "--add-class", "--final", "--api-key", "--label-studio"),
    ],
)
def test_shared_options_have_one_help_text(option: str) -> None:
    texts = [p.help for each in COMMANDS.values() for p in each.params if option in p.opts]
    assert len(texts) > 1
    assert len(set(texts)) == 1, set(texts)
    assert texts[0].endswith(".")
    if option in ("--json", "--quiet"):
        assert len(texts) == len(COMMANDS)


def test_commands_on_a_run_choose_their_device() -> None:
    on_runs = {name for name, each in COMMANDS.items() if any(p.name == "run" for p in each.params)}
    assert on_runs == {"predict", "evaluate", "sample", "explain", "embed", "query"}
    for name in (*on_runs, "fit"):
        assert {"--accelerator", "--precision", "--threads"} <= {o for p in COMMANDS[name].params for o in p.opts}, name


def test_threads_are_bound_before_torch_is_imported() -> None:
    names = [name for name, each in COMMANDS.items() if any("--threads" in p.opts for p in each.params)]
    assert len(names) == 12
    lines = [[*name.split(), *REFUSED[name], "--threads", "3"] for name in names]
    code = f"""
import sys
from ssl_diffusion import errors, machine
from ssl_diffusion.cli.main import app

def bind(threads):
    raise errors.SSLDError(f"{{threads}} threads, torch imported: {{'torch' in sys.modules}}")

machine.bind_threads = bind
for arguments in {lines!r}:
    try:
        app(arguments)
    except SystemExit as end:
        assert end.code == 2, (arguments, end.code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines() == ["ssld: error: 3 threads, torch imported: False"] * len(names)


def test_ranks_are_not_bound_to_the_same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[int] = []
    monkeypatch.setattr("ssl_diffusion.machine.bind_threads", bound.append)
    ssld("fit", "--dataset", "nothing", "--devices", 2)
    assert bound == []
    ssld("fit", "--dataset", "nothing", "--devices", 1)
    assert bound == [0]


def test_every_number_has_a_range() -> None:
    """Also in options that do not exist yet: a number without bounds is a traceback in somebody's hands."""
    seen = []
    for name, each in COMMANDS.items():
        for parameter in signature(each.callback).parameters.values():
            kinds, info = get_args(parameter.annotation)[:2] if get_args(parameter.annotation) else (None, None)
            if {int, float} & {kinds, *get_args(kinds)}:
                seen.append(f"{name} {parameter.name}")
                assert info.min is not None, seen[-1]
                assert info.max is not None, seen[-1]
                if parameter.name == "seed":
                    assert (info.min, info.max) == bounds(Seed), seen[-1]
    assert len(seen) > 40


# ---- the decorator


@dataclass(frozen=True)
class Paint:
    """A group of options."""

    panel: ClassVar[str] = "Paint"

    color: Annotated[str, typer.Option(help="A color.")]
    coats: Annotated[int, typer.Option(help="Layers.", min=1)] = 2


def test_a_group_of_options_arrives_as_its_dataclass() -> None:
    seen: list[tuple[Path, Paint, bool]] = []

    @command(NOTHING)
    def paint(
        context: Context,
        wall: Annotated[Path, typer.Argument()],
        paint: Paint,
        twice: Annotated[bool, typer.Option("--twice")] = False,
    ) -> None:
        """Paint a wall."""
        seen.append((wall, paint, twice))
        context.output.result({"wall": wall}, f"painted {wall}")

    program = typer.Typer()
    program.command()(paint)
    done = CliRunner().invoke(program, ["north", "--color", "red", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"wall": "north"})
    assert CliRunner().invoke(program, ["south", "--color", "blue", "--coats", "3", "--twice"]).stdout == "painted south\n"
    assert seen == [(Path("north"), Paint("red", 2), False), (Path("south"), Paint("blue", 3), True)]
    assert CliRunner().invoke(program, ["north"]).exit_code == 2  # --color has no default
    assert CliRunner().invoke(program, ["north", "--color", "red", "--coats", "0"]).exit_code == 2
    parameters = {p.name: p for p in typer.main.get_command(program).params}
    assert list(parameters)[:6] == ["wall", "color", "coats", "twice", "as_json", "quiet"]
    panels = {name: getattr(p, "rich_help_panel", None) for name, p in parameters.items()}
    assert (panels["color"], panels["coats"], panels["twice"]) == ("Paint", "Paint", None)


def test_a_command_is_given_what_it_needs(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.machine.bind_threads", lambda threads: None)
    seen: list[Any] = []
    opened = command(RUN, threads=0)(seen.append)
    opened(run=tiny_run, accelerator="cpu", precision="bf16", threads=0, as_json=False, quiet=True)
    (context,) = seen
    assert (context.run.path, context.run.precision, context.accelerator) == (tiny_run, "bf16", "cpu")
    assert context.output.bars is None
    with pytest.raises(typer.Exit) as ended:
        command(JOB)(seen.append)(job=tiny_run, as_json=False, quiet=True)
    assert ended.value.exit_code == 2
    assert len(seen) == 1
