"""Wrong words of a command line, and the answer that every one of them must get."""

import os
import re
import shlex

from typer.testing import Result

__all__ = ["STANDS_FOR", "check_refused", "words_of"]

STANDS_FOR = {
    "{nul}": "a\0b",
    "{long}": "n" * 300,
    "{bytes}": os.fsdecode(b"caf\xe9"),
    "{400 digits}": "9" * 400,
}


def words_of(command: str) -> list[str]:
    """The words of a command line, with what the placeholders stand for."""
    names = {name: f"@{i}@" for i, name in enumerate(STANDS_FOR)}
    for name, mark in names.items():
        command = command.replace(name, mark)
    words = shlex.split(command)
    for name, mark in names.items():
        words = [word.replace(mark, STANDS_FOR[name]) for word in words]
    return words


def check_refused(result: Result, words: str) -> None:
    """Fail unless a command ended with exit code 2 and one sentence.

    Args:
        result: End of the command.
        words: Pattern of the sentence, which is compared in lower case.
    """
    said = result.stderr
    assert result.exit_code == 2, (result.exit_code, said, result.exception)
    assert result.stdout == ""
    assert said.count("ssld: error: ") == 1, said
    assert said.startswith("ssld: error: "), said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3, said
    assert len(said) < 700, said
    assert re.search(words, said.lower()), said
