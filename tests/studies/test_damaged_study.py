"""A damaged study: what is whole is reported as it was, what is not counts as missing, and nothing is a traceback."""

import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from support.damage import DAMAGES, Damage, damages, json_damages

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.storage import CHECKSUMS
from ssl_diffusion.studies import StudyFolder, StudySettings
from ssl_diffusion.studies.report import _versions
from ssl_diffusion.studies.trial import Trial, TrialResult, save_failure, trials_of
from ssl_diffusion.training.recipe import load_recipe

SETTINGS = StudySettings(recipe=load_recipe("digits"), strategies=("random", "margin"), budgets=(2, 4), seeds=2)
FAILED = Trial("probe", "margin", 1)
WHOLE = [trial for trial in trials_of(SETTINGS) if trial != FAILED]
FILES = [
    "study.toml",
    "about.json",
    f"trials/{FAILED.name}/error.json",
    *(f"trials/{WHOLE[0].name}/{name}" for name in ("rounds.csv", "picks.csv", CHECKSUMS)),
]
FILE_DAMAGES = st.tuples(st.sampled_from(FILES), damages()) | st.tuples(st.sampled_from(FILES[1:3]), json_damages())


def made_up(trial: Trial) -> TrialResult:
    key = {"refit": trial.refit, "strategy": trial.strategy, "seed": trial.seed}
    figures = {"nll": 1.25, "ece": 0.1, "missing_classes": 8, "balance": 0.9, "train_seconds": 0.1, "query_seconds": 0.2}
    rounds = [{**key, "n_labeled": n, "accuracy": 0.1 * n + 0.01 * trial.seed, **figures, "used": "random"} for n in (2, 4)]
    facts = {"label": "NA", "utility": float("nan"), "selection_probability": 0.5}
    picks = [{**key, "n_labeled": 2 + 2 * (i > 1), "rank": i % 2 + 1, "id": name, **facts} for i, name in enumerate("abcd")]
    return TrialResult(pd.DataFrame(rounds), pd.DataFrame(picks))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = StudyFolder(tmp_path_factory.mktemp("studies") / "whole")
    folder.path.mkdir()
    folder.settings_file.write_text(SETTINGS.to_toml(), encoding="utf-8")
    (folder.path / "about.json").write_text('{"torch": "2.0", "commit": null, "cores": 2}', encoding="utf-8")
    for trial in WHOLE:
        made_up(trial).save(folder.trial(trial))
    save_failure(folder.trial(FAILED), FAILED, "Traceback\nValueError: no\n")
    return folder.path


def copied(original: Path, to: Path) -> StudyFolder:
    shutil.rmtree(to, ignore_errors=True)
    return StudyFolder(Path(shutil.copytree(original, to)))


def one_sentence(error: SSLDError, folder: Path) -> None:
    assert str(folder) in str(error)
    assert "\n" not in str(error)


def use(study: StudyFolder) -> set[Trial]:
    """Read a study; the trials that were found whole, each as it was written."""
    try:
        rounds, picks, missing = study.results()
    except SSLDError as error:
        one_sentence(error, study.path)
        return set()
    _versions(study.path)
    for trial in missing:
        failure = study.failure(trial)
        assert failure is None or "\n" not in failure
    found = {Trial(*key) for key in rounds[["refit", "strategy", "seed"]].itertuples(index=False)} if len(rounds) else set()
    for trial in found:
        expected = made_up(trial)
        for table, wanted in ((rounds, expected.rounds), (picks, expected.picks)):
            mine = table[(table["strategy"] == trial.strategy) & (table["seed"] == trial.seed)].reset_index(drop=True)
            pd.testing.assert_frame_equal(mine, wanted)
    return found


def test_a_whole_study_is_read_as_it_was_written(original: Path) -> None:
    assert use(StudyFolder(original)) == set(WHOLE)
    assert StudyFolder(original).failure(FAILED) == "ValueError: no"
    assert _versions(original) == "torch 2.0, commit None, cores 2"


@pytest.mark.parametrize("name", FILES)
def test_what_may_stand_in_the_place_of_a_file(
    original: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    for damage in DAMAGES:
        study = copied(original, tmp_path / "study")
        damage.apply(study.path / name)
        with caplog.at_level(logging.WARNING):
            found = use(study)
        if name == FILES[0]:
            assert not found
        elif name.endswith(".csv"):
            assert found == set(WHOLE[1:])
            assert "counts as missing until the study is resumed" in caplog.text
        else:
            assert found >= set(WHOLE[1:])
        caplog.clear()


@profile(max_examples=60, deadline=None)
@given(change=FILE_DAMAGES)
def test_any_damage(original: Path, tmp_path_factory: pytest.TempPathFactory, change: tuple[str, Damage]) -> None:
    study = copied(original, tmp_path_factory.getbasetemp() / "any-study")
    change[1].apply(study.path / change[0])
    use(study)


@pytest.mark.slow
def test_any_damage_ten_times_as_often(original: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    inner = test_any_damage.hypothesis.inner_test  # type: ignore[attr-defined]

    @profile(max_examples=600, deadline=None)
    @given(change=FILE_DAMAGES)
    def many(change: tuple[str, Damage]) -> None:
        inner(original, tmp_path_factory, change)

    many()


def test_a_trial_of_an_earlier_version_has_no_checksums(original: Path, tmp_path: Path) -> None:
    study = copied(original, tmp_path / "study")
    (study.trial(WHOLE[0]) / CHECKSUMS).unlink()
    assert use(study) == set(WHOLE)
    (study.trial(WHOLE[0]) / "rounds.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert use(study) == set(WHOLE[1:])
