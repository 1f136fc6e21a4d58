"""Whatever a command raises: a sentence, an exit code, and for what nobody foresaw a report that can be sent."""

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from ssl_diffusion.cli import failures
from ssl_diffusion.cli.program import Program
from support.commands import ssld
from typer.testing import CliRunner, Result

SECRET = "c0rrect-h0rse-battery"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of reports."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "ssld" / "reports"


Raising = Callable[..., Result]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """A command during which an error is raised."""

    def run(error: BaseException, *arguments: str) -> Result:
        def recipe_names() -> list[str]:
            raise error

        monkeypatch.setattr("ssl_diffusion.training.recipe.recipe_names", recipe_names)
        return ssld("recipes", *arguments)

    return run


def test_a_bug_is_one_sentence_and_a_report(raising: Raising, state: Path) -> None:
    result = raising(ZeroDivisionError("three\nlines\nof it"))
    (report,) = state.iterdir()
    assert (result.exit_code, result.stdout) == (70, "")
    (line,) = result.stderr.splitlines()
    assert (
        line == f"ssld: error: this is a bug of ssld (ZeroDivisionError: three lines of it); a report to send us is in {report}"
    )
    text = report.read_text()
    assert "command    ssld recipes\n" in text
    assert "Traceback (most recent call last)" in text
    assert "recipe_names" in text
    assert "python 3" in text
    assert "torch" in text
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) & 0o077 == 0


def test_a_bug_is_a_json_object_too(raising: Raising) -> None:
    result = raising(EOFError(), "--json")
    assert result.exit_code == 70
    assert '"kind": "EOFError"' in result.stdout
    assert "Abort" not in result.stderr


def test_the_traceback_is_shown_if_asked_for(raising: Raising, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in raising(KeyError("x")).stderr
    assert "Traceback" in raising(KeyError("x"), "--debug").stderr
    monkeypatch.setenv("SSLD_DEBUG", "1")
    assert "Traceback" in raising(KeyError("x")).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("loop", "push", "job", "--api-key", SECRET),
        ("loop", "pull", "job", f"--api-key={SECRET}"),
        ("loop", "serve", "job", "--token", SECRET),
        ("loop", "init", "job", "--data", "x", "--store", f"postgresql://me:{SECRET}@host/db"),
        ("loop", "push", "job", "--api-key", "other", "--label-studio", f"http://host/?token={SECRET}"),
    ],
)
def test_a_report_holds_no_secret(words: tuple[str, ...], state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"no answer for {words}")

    monkeypatch.setattr("ssl_diffusion.annotation.loop.job.open_job", fails)
    monkeypatch.setattr("ssl_diffusion.annotation.loop.job.create_job", fails)
    result = ssld(*words)
    assert result.exit_code == 70, result.output
    (report,) = state.iterdir()
    assert SECRET not in result.output + report.read_text()
    assert "***" in report.read_text()


def test_a_report_holds_no_secret_of_the_environment(raising: Raising, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLD_TOKEN", SECRET)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", f"{SECRET}-2")
    result = raising(ValueError(f"{SECRET} {SECRET}-2"))
    (report,) = state.iterdir()
    assert SECRET not in result.output + report.read_text()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "ssld: interrupted"),
        (MemoryError(), 2, "the memory is used up"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "the memory is used up"),
        (OSError(errno.ENOSPC, "x", "run/log.txt"), 2, r"the disk is full.*\(run/log\.txt\)"),
        (OSError(errno.EDQUOT, "x"), 2, "your quota"),
        (OSError(errno.EROFS, "x"), 2, "the disk is read-only"),
        (OSError(errno.EMFILE, "x"), 2, "too many files are open"),
        (OSError(errno.EIO, "x"), 70, "this is a bug of ssld"),
    ],
)
def test_what_a_machine_runs_out_of_has_its_own_sentence(raising: Raising, error: BaseException, code: int, words: str) -> None:
    result = raising(error)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert re.search(words, line), line


def test_a_reader_that_has_gone_hears_nothing(raising: Raising) -> None:
    result = raising(BrokenPipeError())
    assert (result.exit_code, result.output) == (1, "")


def test_without_a_place_for_the_report(raising: Raising, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(failures, "_report_folders", lambda: [tmp_path / "file" / "below"])
    result = raising(ValueError("x"))
    assert result.exit_code == 70
    assert "no report could be saved; --debug shows where" in result.stderr


def test_what_is_raised_outside_of_a_command(state: Path) -> None:
    program = typer.Typer(cls=Program)

    @program.callback()
    def main(n: int = typer.Option(0)) -> None:
        raise {0: LookupError("in the group"), 1: KeyboardInterrupt(), 2: MemoryError()}[n]

    @program.command()
    def nothing() -> None:
        pass

    ended = [CliRunner().invoke(program, ["--n", str(n), "nothing"]) for n in range(3)]
    assert [each.exit_code for each in ended] == [70, 130, 2]
    assert "LookupError: in the group" in ended[0].stderr
    assert [len(each.stderr.splitlines()) for each in ended] == [1, 1, 1]
    assert len(list(state.iterdir())) == 1


def test_reports_of_one_second_have_names_of_their_own(raising: Raising, state: Path) -> None:
    for _ in range(3):
        assert "a report to send us is in" in raising(ValueError("x")).stderr
    assert len(os.listdir(state)) == 3
