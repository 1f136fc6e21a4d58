"""The README and the docs say what the program does: every command line in them parses, every Python block runs or compiles."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from ssl_diffusion.cli.main import app

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
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(line)
    command = group.commands[name]  # type: ignore[attr-defined]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, arguments, parent=None)
    assert context.params is not None


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
