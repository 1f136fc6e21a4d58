"""Wrong values of every option and every setting: exit code 2 and one sentence that names what is wrong, nothing written.

The cases are made by :mod:`support.wrong_values` from the options' types and the settings' schema. A part of them, chosen by a
checksum, runs by default; `-m "slow or not slow"` runs all, and pytest says at its end how many were tried.
"""

import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.commands import ssld
from support.tried import tried
from support.wrong_values import leaves, options, wrong_texts, wrong_toml, wrong_words
from support.wrong_words import check_refused, words_of

from ssl_diffusion.annotation.loop.settings import JobSettings
from ssl_diffusion.studies.settings import StudySettings
from ssl_diffusion.training.recipe import Recipe

BY_DEFAULT = 12  # one case of so many

# What a command, or one of its options, needs besides the option that is tried.
NEEDS = {
    "fit --dataset": "",
    "fit --label-columns": "--data table.csv",
    "fit --image-column": "--data table.csv",
    "fit --label-column": "--data table.csv",
    "fit --separator": "--data table.csv --multilabel",
    "fit": "--data photos",
    "pack": "photos",
    "check": "photos",
    "predict": "run photos",
    "evaluate": "run",
    "sample": "run",
    "explain": "run --id test/00000",
    "embed": "run",
    "query": "run",
    "study": "--out s",
    "loop init": "j --data photos",
    "loop next": "job",
    "loop import": "job table.csv",
    "loop export": "job",
    "loop fit": "job",
    "loop status": "job",
    "loop serve": "job --no-open",
    "loop accounts add": "team.json ada",
    "loop accounts list": "team.json",
    "loop accounts remove": "team.json ada",
    "loop accounts role": "team.json ada owner",
    "loop accounts password": "team.json ada",
    "loop move": "job --data photos",
    "loop push": "job --api-key k --label-studio http://127.0.0.1:9 --project 1",
    "loop pull": "job --api-key k --label-studio http://127.0.0.1:9 --project 1",
    "loop backend": "job --api-key k --label-studio http://127.0.0.1:9 --project 1",
}


def some(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Cases as parameters; those that do not run by default are marked as slow."""
    made = []
    for case in cases:
        name = " ".join(map(str, case[:-1]))
        marks = [] if zlib.crc32(name.encode()) % BY_DEFAULT == 0 else [pytest.mark.slow]
        made.append(pytest.param(*case, marks=marks, id=name[:70]))
    return made


def of_options() -> list[tuple[str, str]]:
    """Command lines with a wrong option, and patterns of the messages."""
    found = []
    for option in options():
        command = " ".join(option.command)
        needs = NEEDS.get(f"{command} {option.flag}", NEEDS.get(command, ""))
        for words, said in wrong_words(option).items():
            found.append((f"{command} --quiet {needs} {words}", said))
        if option.kind is not bool:
            found.append((f"{command} --quiet {needs} {option.flag}", option.flag))
    return found


def of_settings() -> list[tuple[str, str]]:
    return [
        (f"fit --quiet --data photos --set '{key}={value}'", key)
        for key, entry in leaves(Recipe)
        for value in wrong_texts(entry)
    ]


def of_files() -> list[tuple[type, str, str]]:
    kinds = (Recipe, StudySettings, JobSettings)
    return [(kind, key, value) for kind in kinds for key, entry in leaves(kind) for value in wrong_toml(entry)]


@pytest.fixture(autouse=True)
def _nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts is a failure at once."""

    def served(*_: object, **__: object) -> None:
        raise AssertionError("the wrong option was taken: a server has started")

    monkeypatch.setattr("uvicorn.run", served)


@pytest.mark.timeout(60, func_only=True)  # without the folder of cases, which the first of them makes
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("command", "words"), some([*of_options(), *of_settings()]))
def test_a_wrong_value_is_one_sentence(command: str, words: str) -> None:
    with tried("generated command lines"):
        check_refused(ssld(*words_of(command)), words)


@pytest.fixture(scope="module")
def job(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of which only job.toml is changed."""
    return Path(shutil.copytree(world / "job", tmp_path_factory.mktemp("jobs") / "job"))


@pytest.mark.timeout(60, func_only=True)  # without the folder of cases, which the first of them makes
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("kind", "key", "value"), some(of_files()))
def test_a_wrong_value_in_a_file_is_one_sentence(kind: type, key: str, value: str, tmp_path: Path, job: Path) -> None:
    file = job / "job.toml" if kind is JobSettings else tmp_path / "x.toml"
    section, _, name = key.rpartition(".")
    file.write_text(f"[{section}]\n{name} = {value}\n" if section else f"{name} = {value}\n", encoding="utf-8")
    commands = {
        Recipe: ("fit", "--data", "photos", "--recipe", file),
        StudySettings: ("study", "--out", "s", "--recipe", file),
        JobSettings: ("loop", "status", job),
    }
    with tried("generated files"):
        check_refused(ssld(*commands[kind], "--quiet"), key)
