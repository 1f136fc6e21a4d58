"""The README and the docs say what the program does: every command line in them parses, every Python block runs or compiles."""

import importlib.util
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from ssl_diffusion.cli.main import app

from ssl_diffusion.annotation import JobSettings
from ssl_diffusion.studies import StudySettings
from ssl_diffusion.training import Recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a page in a language ("" is none)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.splitlines():
                for part in re.split(r"&&|;", line):
                    words = shlex.split(re.sub(r"^\s*[A-Z_]+=\S+ ", "", part), comments=True)
                    if words and Path(words[0]).name == "ssld":
                        found.append((page.name, shlex.join(words[1:])))
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_parse(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "as the page says")
    command, arguments = command_of(line)
    params = command.make_context(command.name, list(arguments), parent=None).params
    said = values_of(command, arguments)
    assert set(said) <= set(params)
    for name, words in said.items():
        value = params[name]
        if isinstance(value, list | tuple):
            assert [str(each) for each in value] == [str(type(each)(word)) for each, word in zip(value, words, strict=True)]
        else:
            (word,) = words
            assert value == (word if isinstance(word, bool) else type(value)(word))


def command_of(line: str) -> tuple[Any, list[str]]:
    """The command that a line calls, and its arguments."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command, words


def values_of(command: Any, arguments: Sequence[str]) -> dict[str, list[str | bool]]:
    """What arguments say, read without the program's parser: parameter names and the words given for them."""
    options = {name: (option, True) for option in command.params for name in option.opts if name.startswith("-")}
    options |= {name: (option, False) for option in command.params for name in option.secondary_opts}
    found: dict[str, list[str | bool]] = {}
    positional: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in options:
            option, switched_on = options[word]
            found.setdefault(option.name, []).append(switched_on if option.is_flag else next(words))
        else:
            assert not word.startswith("-"), word
            positional.append(word)
    for argument in (p for p in command.params if p.param_type_name == "argument"):
        taken = positional if argument.nargs == -1 else positional[:1]
        positional = positional[len(taken) :]
        if taken:
            found[argument.name] = list(taken)
    assert not positional
    return found


def test_an_unknown_option_would_be_noticed() -> None:
    group = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option"):
        group.commands["fit"].make_context("fit", ["--labelled", "40"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile_and_links_lead_somewhere(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_estimator_page_runs() -> None:
    (example,) = blocks(ROOT / "docs" / "how-to" / "estimator.md", "python")
    names: dict[str, object] = {}
    exec(example, names)
    assert names["features"].shape[0] == 1797  # type: ignore[attr-defined]


def test_the_reference_of_settings_has_every_setting() -> None:
    spec = importlib.util.spec_from_file_location("settings_reference", ROOT / "docs" / "hooks" / "settings_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.reference()
    headings = re.split(r"^## \[(\w+)\]$", page, flags=re.MULTILINE)
    sections = dict(zip(["", *headings[1::2]], headings[::2], strict=True))
    for kind in (Recipe, StudySettings, JobSettings):
        for key in kind.setting_names():
            section, _, name = key.rpartition(".")
            assert f"| `{name}` |" in sections[section], key
    assert "| `warm_steps` | number in (0, 1] | `0.3` |" in sections["study"]
    assert '| `pool_maps` | `levels`, `blocks` | `"levels"` |' in sections["model"]
