"""The ceiling of a study: it finds the best batch by the test labels, is reported as a ceiling, and needs a probe."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from ssl_diffusion.acquisition import Candidates, choose
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.studies import StudySettings, oracle, run_study, statistics, write_report
from ssl_diffusion.studies.summary import sentences, summary
from ssl_diffusion.testing.strategies import noise_candidates
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions
from ssl_diffusion.training.recipe import Recipe

POOL, TEST = 60, 20


class EvenIsGood:
    """A study whose probe is right on as many test images as there are even positions among the labels."""

    def __init__(self, blind: bool) -> None:
        self.whole, self.blind, self.refits = noise_candidates(POOL), blind, 0

    def candidates(self, open_: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        c = self.whole
        p = None if self.blind else c.p[open_]
        known = c.labeled_representation, c.labeled_classes
        return Candidates(c.x[open_], p, *known, 0 if self.blind else 3, rng)

    def test_logits(self, known: NDArray[np.int64]) -> NDArray[np.float32]:
        self.refits += 1
        right = int((known % 2 == 0).sum())
        logits = np.zeros((TEST, 2), dtype=np.float32)
        logits[:right, 0] = logits[right:, 1] = 3.0
        return logits


@pytest.mark.parametrize("blind", [True, False])
def test_the_best_of_a_hundred_batches_is_kept(blind: bool) -> None:
    study, truth = EvenIsGood(blind), np.zeros(TEST, dtype=np.int64)
    open_, known = np.arange(POOL), np.zeros(0, dtype=np.int64)
    choice, used = oracle.oracle_choice(study, open_, known, truth, 6, np.random.default_rng(0))
    assert study.refits == 100
    assert len(set(choice.picks.tolist())) == 6
    even = int((choice.picks % 2 == 0).sum())
    assert even >= 5  # chance has three
    name = used.removeprefix("oracle (").removesuffix(")")
    alone = choose(name, study.candidates(open_, np.random.default_rng(0)), 6)
    assert even >= int((alone.picks % 2 == 0).sum())
    assert choice.utilities.shape == (POOL,)


def test_a_batch_of_all_that_is_left() -> None:
    study, truth = EvenIsGood(blind=True), np.zeros(TEST, dtype=np.int64)
    choice, _ = oracle.oracle_choice(study, np.array([3, 8]), np.array([1]), truth, 2, np.random.default_rng(0))
    assert sorted(choice.picks.tolist()) == [0, 1]


@pytest.fixture(scope="module")
def rounds(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "_BATCHES", 10)
        settings = StudySettings(recipe=tiny_recipe, strategies=("random", "margin", "oracle"), budgets=(10, 20), seeds=2)
        study = run_study(settings, folder / "study", options=FitOptions(cache=DenoiserCache(folder / "denoisers")))
    write_report(study.path)
    text = (study.path / "report.html").read_text(encoding="utf-8")
    assert "of the oracle&#39;s gap" in text
    assert "a ceiling that no strategy reaches" in text
    return study.results()[0]


def test_a_study_has_a_ceiling(rounds: pd.DataFrame) -> None:
    of_oracle = rounds[rounds["strategy"] == "oracle"]
    assert of_oracle["used"].str.fullmatch(r"oracle \([a-z:]+\)").all()
    assert len(of_oracle) == 4
    table = summary(rounds, "random").set_index("strategy")
    assert np.isnan(table.loc["random", "gap"])
    assert np.isfinite(table.loc["margin", "gap"]) == (table.loc["oracle", "area"] > table.loc["random", "area"])
    lines = sentences(rounds, "random")
    assert any("It knows the test labels: a ceiling, no strategy." in line for line in lines)


def test_the_gap_is_the_part_of_the_way() -> None:
    values = pd.DataFrame({"random": [0.5, 0.6, 0.5], "margin": [0.6, 0.7, 0.6], "oracle": [0.7, 0.8, 0.7], "worse": 0.5})
    gaps = statistics.gap_closed(values, "random", "oracle").set_index("strategy")
    assert list(gaps.index) == ["margin", "worse"]
    np.testing.assert_allclose(gaps.loc["margin"], 0.5)  # on every seed, so in every resample
    assert gaps.loc["worse", "gap"] == pytest.approx(-1 / 6)
    assert gaps.loc["worse", "gap_low"] <= -1 / 6 <= gaps.loc["worse", "gap_high"]
    nothing = statistics.gap_closed(values.assign(oracle=values["random"]), "random", "oracle")
    assert nothing["gap"].isna().all()


def test_an_oracle_needs_a_probe_and_is_no_strategy(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the oracle refits a hundred times a round"):
        StudySettings(recipe=tiny_recipe, strategies=("random", "oracle"), refits=("probe", "scratch"))
    with pytest.raises(SSLDError, match="no strategy 'oracle'"):
        choose("oracle", noise_candidates(), 3)
