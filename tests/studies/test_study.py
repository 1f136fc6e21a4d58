"""Studies: trials are paired, whole or absent, the same with any engine, and what cannot be studied is said first."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import processes
from support.commands import ok, ssld

from ssl_diffusion.acquisition.adapters.from_activeml import foreign_strategy
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, RecipeError, RunError, SSLDError
from ssl_diffusion.studies import StudyFolder, StudySettings, load_study, run_study
from ssl_diffusion.studies import trial as running
from ssl_diffusion.studies.trial import Trial, TrialResult, balance, eligible_positions, trials_of
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions
from ssl_diffusion.training.recipe import Recipe, load_recipe

TIMES = ["train_seconds", "query_seconds"]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> FitOptions:
    return FitOptions(cache=DenoiserCache(tmp_path_factory.mktemp("denoisers")))


@pytest.fixture(scope="module")
def settings(tiny_recipe: Recipe) -> StudySettings:
    return StudySettings(recipe=tiny_recipe, strategies=("random", "margin", "typiclust"), budgets=(10, 20), seeds=2)


@pytest.fixture(scope="module")
def finished(settings: StudySettings, options: FitOptions, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return run_study(settings, tmp_path_factory.mktemp("finished") / "study", options=options)


@pytest.fixture
def study(finished: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A finished study of this test's own."""
    return StudyFolder(Path(shutil.copytree(finished.path, tmp_path / "study")))


def rounds_of(study: StudyFolder) -> pd.DataFrame:
    return study.results()[0].drop(columns=TIMES).sort_values(["refit", "strategy", "seed", "n_labeled"], ignore_index=True)


# ---- what a study finds


def test_every_trial_has_every_budget_and_distinct_labels(study: StudyFolder, digits_pool: Pool) -> None:
    rounds, picks, missing = study.results()
    assert not missing
    assert len(rounds) == 3 * 2 * 2
    assert rounds["accuracy"].between(0, 1).all()
    for _, part in picks.groupby(["strategy", "seed"]):
        assert len(part) == 20
        assert not part["id"].duplicated().any()
        positions = digits_pool.positions(part["id"])
        assert not digits_pool.is_test[positions].any()
        assert [digits_pool.classes[k] for k in digits_pool.labels[positions]] == part["label"].tolist()
    assert picks["selection_probability"].between(0, 1, inclusive="right").all()
    pd.testing.assert_frame_equal(pd.read_csv(study.path / "rounds.csv"), rounds)
    assert not (study.path / "representation.npy").exists()  # large, and no longer needed


def test_strategies_of_a_seed_start_alike_and_seeds_differ(study: StudyFolder) -> None:
    _, picks, _ = study.results()
    first = picks[picks["n_labeled"] == 10].groupby(["strategy", "seed"])["id"].apply(tuple)
    for seed in (0, 1):
        assert first["margin", seed] == first["random", seed]
        assert first["typiclust", seed] != first["random", seed]  # it needs no labels, and starts cold
    assert first["random", 0] != first["random", 1]


def test_same_start_for_all_without_the_cold_start(settings: StudySettings, options: FitOptions, tmp_path: Path) -> None:
    study = run_study(settings.replace(cold_start=False, seeds=1), tmp_path / "study", options=options)
    _, picks, _ = study.results()
    assert picks[picks["n_labeled"] == 10].groupby("strategy")["id"].apply(tuple).nunique() == 1


def test_the_other_ways_to_refit(settings: StudySettings, options: FitOptions, tmp_path: Path) -> None:
    refits = ("warm", "scratch", "self-training")
    names = ("random", "activeml:UncertaintySampling")
    study = run_study(settings.replace(strategies=names, refits=refits, seeds=1), tmp_path / "study", options=options)
    rounds, _, missing = study.results()
    assert not missing, [study.failure(t) for t in missing]
    assert rounds.groupby("refit")["n_labeled"].count().to_dict() == dict.fromkeys(refits, 4)
    wide = rounds.pivot(index=["strategy", "n_labeled"], columns="refit", values="nll")
    first, second = wide.loc[("random", 10)], wide.loc[("random", 20)]
    assert first["warm"] == first["scratch"]  # there is nothing to go on from yet
    assert second["warm"] != second["scratch"]


def test_a_trial_does_not_depend_on_what_ran_before(study: StudyFolder, settings: StudySettings, options: FitOptions) -> None:
    alone = run_study(settings.replace(strategies=("random", "typiclust")), study.path.with_name("alone"), options=options)
    whole = rounds_of(study)
    expected = whole[whole["strategy"] != "margin"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rounds_of(alone), expected)


@pytest.mark.parametrize(("counts", "expected"), [([5, 5, 5], 1.0), ([9, 0, 0], 0.0), ([2, 2, 0, 0], 0.5)])
def test_balance(counts: list[int], expected: float) -> None:
    assert balance(np.array(counts)) == pytest.approx(expected)


# ---- interruptions and failures


def test_what_is_missing_is_run_again(study: StudyFolder, settings: StudySettings, options: FitOptions) -> None:
    before = rounds_of(study)
    shutil.rmtree(study.trial(Trial("probe", "margin", 1)))
    damaged = study.trial(Trial("probe", "random", 0)) / "rounds.csv"
    damaged.write_text(damaged.read_text().splitlines()[0])
    kept = study.trial(Trial("probe", "typiclust", 0)) / "rounds.csv"
    modified = kept.stat().st_mtime_ns
    run_study(None, study.path, resume=True, options=options)
    pd.testing.assert_frame_equal(rounds_of(study), before)
    assert kept.stat().st_mtime_ns == modified


def test_a_trial_that_fails_is_kept_and_the_others_go_on(
    settings: StudySettings, options: FitOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = running.run_trial

    def failing(trial: Trial, *rest: object) -> TrialResult:
        if trial == Trial("probe", "margin", 0):
            raise ValueError("the disk is full")
        return real(trial, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(running, "run_trial", failing)
        study = run_study(settings, tmp_path / "study", options=options)
    rounds, _, missing = study.results()
    assert missing == [Trial("probe", "margin", 0)]
    assert study.failure(missing[0]) == "ValueError: the disk is full"
    assert len(rounds) == 5 * 2
    run_study(None, study.path, resume=True, options=options)
    assert not study.results()[2]


def test_ctrl_c_says_how_to_go_on(
    settings: StudySettings, options: FitOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ssl_diffusion.errors import Interrupted

    real, calls = running.run_trial, []

    def interrupted(trial: Trial, *rest: object) -> TrialResult:
        calls.append(trial)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(trial, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "run_trial", interrupted)
    with pytest.raises(Interrupted, match=r"2 of 6 trials; continue with: ssld study .*study --resume"):
        run_study(settings, tmp_path / "study", options=options)


def test_kill_9_loses_at_most_the_trial_in_flight(tiny: list[str], tmp_path: Path) -> None:
    arguments = ["--dataset", "digits", "--strategies", "random,coreset", "--budgets", "10,20", "--seeds", "2", *tiny]
    trials, log = tmp_path / "killed" / "trials", tmp_path / "log.txt"
    process = processes.start(["study", *arguments, "--out", str(trials.parent), "--quiet"], log)
    processes.wait_for(
        lambda: trials.is_dir() and len([t for t in trials.iterdir() if not t.name.startswith(".")]) >= 2, process, 120
    )
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    killed = StudyFolder(tmp_path / "killed")
    ok("study", killed.path, "--resume", "--quiet")
    whole = tmp_path / "whole"
    ok("study", *arguments, "--out", whole, "--quiet")
    pd.testing.assert_frame_equal(rounds_of(killed), rounds_of(StudyFolder(whole)))


# ---- engines


@pytest.mark.slow
def test_two_workers_find_the_same(study: StudyFolder, settings: StudySettings, options: FitOptions) -> None:
    other = run_study(settings, study.path.with_name("workers"), workers=2, options=options)
    pd.testing.assert_frame_equal(rounds_of(other), rounds_of(study))


@pytest.mark.slow
def test_ray_finds_the_same_when_a_worker_is_killed(
    study: StudyFolder, settings: StudySettings, options: FitOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'ssld[ray]'")
    import psutil

    killed: list[int] = []

    def kill_one(update: object) -> None:
        workers = [
            p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::") and "attempt" in p.name()
        ]
        if workers and not killed:
            killed.append(workers[0].pid)
            workers[0].kill()

    other = study.path.with_name("ray")
    run_study(settings, other, engine="ray", workers=2, options=replace(options, progress=kill_one))
    assert killed
    pd.testing.assert_frame_equal(rounds_of(StudyFolder(other)), rounds_of(study))


# ---- the command


def test_the_command_says_what_was_found(tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "study"
    arguments = ["--dataset", "digits", "--strategies", "random,margin:diverse", "--budgets", "10,20", "--seeds", 5, *tiny]
    result = ok("study", *arguments, "--out", out, "--json")
    values = json.loads(result.stdout)
    assert values["missing"] == []
    table = pd.DataFrame(values["summary"]["probe"]).set_index("strategy")
    rounds = pd.read_csv(out / "rounds.csv")
    mean = rounds[rounds["strategy"] == "random"].groupby("n_labeled")["accuracy"].mean()
    assert table.loc["random", "20"] == pytest.approx(mean[20])
    text = ok("study", out, "--resume").stdout
    assert "margin:diverse" in text
    assert "n = 5" in text
    again = ssld("study", *arguments, "--out", out)
    assert again.exit_code == 2
    assert "--resume" in again.output
    other = ssld("study", "--dataset", "digits", "--budgets", "10,30", "--out", out, "--resume")
    assert other.exit_code == 2
    assert "study.budgets: [10, 20] -> [10, 30]" in other.output


def test_a_study_file(tmp_path: Path, settings: StudySettings) -> None:
    path = tmp_path / "study.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    assert load_study(path) == settings
    assert not settings.differences(load_study(path))
    path.write_text('[study]\nrecipe = "digits"\nseeds = 3\n\n[pretraining]\nsteps = 7\n', encoding="utf-8")
    assert load_study(path).recipe == load_recipe("digits").with_setting("pretraining.steps", 7)
    assert load_study(path).seeds == 3
    path.write_text('[study]\nstrategy = ["random"]\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"unknown setting 'study.strategy'; did you mean study.strategies"):
        load_study(path)
    path.write_text("study = 3\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="study is a section"):
        load_study(path)
    with pytest.raises(RecipeError, match="no study file"):
        load_study(tmp_path / "none.toml")


# ---- what cannot be studied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ("random", "magrin")}, "no strategy 'magrin'; did you mean margin"),
        ({"strategies": ("random", "activeml:UncertaintySamplin")}, "did you mean UncertaintySampling"),
        ({"strategies": ()}, "study.strategies needs 1 to 100 entries, not 0"),
        ({"strategies": ("random", "random")}, "study.strategies: 'random' is named twice"),
        ({"strategies": ("margin",)}, "study.baseline 'random' is not among"),
        ({"budgets": (20, 10)}, "increasing order"),
        ({"budgets": (10,)}, "study.budgets needs 2 to 1000 entries, not 1"),
        ({"budgets": (0, 10)}, "study.budgets must be in"),
        ({"seeds": 0}, "study.seeds must be in"),
        ({"refits": ("prob",)}, "did you mean probe"),
        ({"warm_steps": 0.0}, r"study.warm_steps must be in \(0, 1\], not 0.0"),
    ],
)
def test_settings_that_make_no_sense(settings: StudySettings, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SSLDError, match=message):
        settings.replace(**changes)  # type: ignore[arg-type]


def test_pools_that_cannot_be_studied(small_pool: Pool, settings: StudySettings, options: FitOptions, tmp_path: Path) -> None:
    assert len(eligible_positions(small_pool)) == 42  # 6 of 48 have no label that could be revealed
    with pytest.raises(DataError, match="needs a test split with labels"):
        eligible_positions(replace(small_pool, is_test=np.zeros(60, dtype=bool)))
    with pytest.raises(DataError, match="a budget of 9999 labels is larger than the 1437"):
        run_study(settings.replace(budgets=(10, 9999)), tmp_path / "study", options=options)
    assert not (tmp_path / "study").exists()


def test_folders_that_are_something_else(settings: StudySettings, options: FitOptions, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(RunError, match="not empty and no study"):
        run_study(settings, tmp_path, options=options)
    with pytest.raises(RunError, match="no study to resume in"):
        run_study(None, tmp_path / "none", resume=True, options=options)
    with pytest.raises(RunError, match="no engine 'spark'"):
        run_study(settings, tmp_path / "new", engine="spark", options=options)
    with pytest.raises(RunError, match="one worker or more"):
        run_study(settings, tmp_path / "new", workers=0, options=options)
    for arguments, message in ((["--budgets", "10,x"], "whole numbers"), ([], "give --out")):
        result = ssld("study", *arguments, *(["--out", tmp_path / "new"] if arguments else []))
        assert result.exit_code == 2
        assert message in result.output
    assert not (tmp_path / "new").exists()


def test_trials_come_seed_by_seed(settings: StudySettings) -> None:
    names = [t.name for t in trials_of(settings.replace(refits=("probe", "warm")))]
    assert names[:4] == ["probe-random-s0", "probe-margin-s0", "probe-typiclust-s0", "probe-random-s1"]
    assert names[6].startswith("warm")


def test_foreign_strategies_are_asked_for_by_class() -> None:
    assert foreign_strategy("activeml:UncertaintySampling").needs == "labels"
    assert foreign_strategy("activeml:CoreSet").needs == "images"
    with pytest.raises(SSLDError, match="no strategy 'Quir'"):
        foreign_strategy("activeml:Quir")
