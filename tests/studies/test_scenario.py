"""Harder pools in studies: images of none of the classes, long tails, annotators who err; and what is recorded of them."""

from pathlib import Path

import numpy as np
import pytest

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, RecipeError, SSLDError
from ssl_diffusion.studies import StudySettings, run_study, write_report
from ssl_diffusion.studies.scenario import answers_again, metrics_of, round_facts, trial_pool
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions
from ssl_diffusion.training.recipe import Recipe


@pytest.fixture(scope="module")
def settings(tiny_recipe: Recipe) -> StudySettings:
    return StudySettings(recipe=tiny_recipe, strategies=("random", "auto"), budgets=(10, 20, 30, 40), seeds=2)


def train_counts(pool: Pool) -> list[int]:
    return np.bincount(pool.labels[pool.has_label & ~pool.is_test], minlength=len(pool.classes)).tolist()


def test_nothing_asked_nothing_changed(settings: StudySettings, digits_pool: Pool) -> None:
    assert trial_pool(digits_pool, settings, 0) is digits_pool


def test_foreign_classes_become_one_answer(settings: StudySettings, digits_pool: Pool) -> None:
    pool = trial_pool(digits_pool, settings.replace(foreign=("7", "2")), 0)
    assert pool.classes == ("0", "1", "3", "4", "5", "6", "8", "9", "none of these")
    for before, after in zip(digits_pool.labels, pool.labels, strict=True):
        name = digits_pool.classes[before]
        assert pool.classes[after] == ("none of these" if name in "72" else name)
    logits = np.zeros((len(pool.test), 9), dtype=np.float32)
    logits[np.arange(len(pool.test)), pool.labels[pool.test]] = 5
    logits[:, 8] += 50  # what is sure that nothing is of a class is not asked about that
    assert metrics_of(logits, pool)["accuracy"] == 1
    facts = round_facts(pool, np.flatnonzero(pool.labels == 8)[:3], settings)
    assert facts == {"foreign": 3}


@pytest.mark.parametrize("ratio", [4.0, 100.0])
def test_a_long_tail_is_exponential_and_drawn_by_the_seed(settings: StudySettings, digits_pool: Pool, ratio: float) -> None:
    long = settings.replace(long_tail=ratio)
    pools = [trial_pool(digits_pool, long, seed) for seed in range(2)]
    sizes = np.sort(train_counts(pools[0]))[::-1]
    most = min(train_counts(digits_pool))
    expected = [max(1, round(most * ratio ** (-rank / 9))) for rank in range(10)]
    assert sizes.tolist() == expected
    assert train_counts(pools[0]) != train_counts(pools[1])
    np.testing.assert_array_equal(trial_pool(digits_pool, long, 1).labels, pools[1].labels)
    np.testing.assert_array_equal(pools[0].labels[pools[0].test], digits_pool.labels[digits_pool.test])
    rarest = int(np.argmin(train_counts(pools[0])))
    known = np.flatnonzero((pools[0].labels == rarest) & ~pools[0].is_test)
    assert round_facts(pools[0], known, long)["rare_labels"] == len(known)


def test_a_smaller_pool_is_drawn_by_the_seed_and_tested_on_all(settings: StudySettings, digits_pool: Pool) -> None:
    small = settings.replace(pool_size=200)
    pools = [trial_pool(digits_pool, small, seed) for seed in (0, 0, 1)]
    asked = [np.flatnonzero(pool.has_label & ~pool.is_test) for pool in pools]
    assert [len(rows) for rows in asked] == [200, 200, 200]
    np.testing.assert_array_equal(asked[0], asked[1])
    assert len(np.intersect1d(asked[0], asked[2])) < 60  # 200 of 1,437 twice: 28 are expected
    for pool, rows in zip(pools, asked, strict=True):
        np.testing.assert_array_equal(pool.labels[rows], digits_pool.labels[rows])
        np.testing.assert_array_equal(pool.labels[pool.test], digits_pool.labels[digits_pool.test])
    assert trial_pool(digits_pool, settings.replace(pool_size=10_000), 0) is digits_pool
    both = trial_pool(digits_pool, settings.replace(pool_size=200, long_tail=10.0), 0)
    assert set(np.flatnonzero(both.has_label & ~both.is_test)) < set(asked[0])


def test_annotators_err_as_often_as_they_say(settings: StudySettings, digits_pool: Pool) -> None:
    pool = trial_pool(digits_pool, settings.replace(label_noise=0.3), 3)
    wrong = pool.labels != digits_pool.labels
    assert 0.2 < wrong[~pool.is_test].mean() < 0.4
    assert not wrong[pool.is_test].any()
    assert set(np.unique(pool.labels[wrong])) == set(range(10))  # they take it for any other class


def test_the_mean_over_classes_counts_all_alike(settings: StudySettings, digits_pool: Pool) -> None:
    labels = digits_pool.labels[digits_pool.test]
    logits = np.tile(np.eye(10, dtype=np.float32)[0], (len(labels), 1))
    found = metrics_of(logits, digits_pool, tail=True)
    assert found["macro_accuracy"] == pytest.approx(1 / len(np.unique(labels)))
    assert found["accuracy"] == pytest.approx((labels == 0).mean())


def test_a_study_of_all_three(settings: StudySettings, tmp_path: Path) -> None:
    hard = settings.replace(foreign=("1", "4", "8"), long_tail=5.0, label_noise=0.05, refits=("probe", "self-training"))
    study = run_study(hard, tmp_path / "study", options=FitOptions(cache=DenoiserCache(tmp_path / "denoisers")))
    rounds, picks, missing = study.results()
    assert not missing
    assert rounds["foreign"].between(0, rounds["n_labeled"]).all()
    assert rounds["macro_accuracy"].between(0, 1).all()
    assert rounds["rare_labels"].between(0, rounds["n_labeled"]).all()
    assert not {"1", "4", "8"} & set(picks["label"])
    of_random = picks[picks["strategy"] == "random"]
    said = of_random["label"].eq("none of these").groupby([of_random["refit"], of_random["seed"]]).sum()
    last = rounds[(rounds["strategy"] == "random") & (rounds["n_labeled"] == 40)].set_index(["refit", "seed"])["foreign"]
    assert said.sort_index().tolist() == last.sort_index().tolist()
    text = write_report(study.path).read_text(encoding="utf-8")
    wanted = (
        "are none of the classes",
        "5 times the images",
        "5 % of the labels are wrong",
        "after round 3, %",
        "rare classes",
    )
    for words in wanted:
        assert words in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"foreign": ("7", "7")}, "named twice"),
        ({"long_tail": 0.5}, "long_tail"),
        ({"label_noise": 1.0}, "label_noise"),
        ({"pool_size": -1}, "pool_size"),
        ({"foreign": ("7",), "refits": ("scratch",)}, "'scratch' trains on all images of the pool, which foreign changes"),
        ({"long_tail": 10.0, "refits": ("probe", "warm")}, "which long_tail changes"),
    ],
)
def test_settings_that_cannot_be(settings: StudySettings, changes: dict[str, object], words: str) -> None:
    with pytest.raises((RecipeError, ValueError), match=words):
        settings.replace(**changes)  # type: ignore[arg-type]


def test_classes_that_are_not_there(settings: StudySettings, digits_pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no class 'zebra'"):
        trial_pool(digits_pool, settings.replace(foreign=("zebra",)), 0)
    with pytest.raises(DataError, match="leaves 1 classes"):
        trial_pool(digits_pool, settings.replace(foreign=tuple("012345678")), 0)
    with pytest.raises(SSLDError, match=r"larger than the \d+ labeled training images"):
        run_study(settings.replace(long_tail=1000.0, budgets=(10, 1000)), tmp_path / "study")
    with pytest.raises(SSLDError, match="larger than the 30 labeled training images"):
        run_study(settings.replace(pool_size=30), tmp_path / "study")


def test_asking_again_costs_a_label_and_mends_what_is_wrong(settings: StudySettings, tmp_path: Path, digits_pool: Pool) -> None:
    noisy = settings.replace(label_noise=0.4, strategies=("random", "margin:relabel"), budgets=(20, 40, 60), seeds=1)
    study = run_study(noisy, tmp_path / "study", options=FitOptions(cache=DenoiserCache(tmp_path / "denoisers")))
    rounds, picks, missing = study.results()
    assert not missing
    twice = rounds.set_index(["strategy", "n_labeled"])["asked_again"]
    assert twice["random"].tolist() == [0, 0, 0]
    assert 0 < twice["margin:relabel", 40] <= 4  # a fifth of a batch of 20
    assert len(picks[picks["strategy"] == "margin:relabel"]) == 60 - twice["margin:relabel", 60]
    rng = np.random.default_rng(0)
    truth = np.arange(2000) % 10
    again = answers_again(truth, 10, 0.1, rng)
    assert 0.08 < (again != truth).mean() < 0.12
    assert set(again.tolist()) == set(range(10))
