"""The report of a study: self-contained, complete, and honest about what is missing or not significant."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import ssld

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError
from ssl_diffusion.studies import StudyFolder, StudySettings
from ssl_diffusion.studies.figures import curves_figure
from ssl_diffusion.studies.report import write_report
from ssl_diffusion.studies.summary import sentences, summary
from ssl_diffusion.studies.trial import Trial, TrialResult, save_failure, trials_of
from ssl_diffusion.training.recipe import Recipe

ACCURACY = {"random": (0.5, 0.6, 0.7), "margin": (0.6, 0.7, 0.8), "entropy": (0.5, 0.6, 0.7)}
BUDGETS = (10, 20, 40)


def made_up(trial: Trial, pool: Pool) -> TrialResult:
    """A trial whose accuracy is known: margin is ten points above random, entropy the same but for noise."""
    rng = np.random.default_rng([trial.seed, len(trial.strategy)])
    key = {"refit": trial.refit, "strategy": trial.strategy, "seed": trial.seed}
    fixed = {"nll": 1.0, "ece": 0.1, "missing_classes": 0, "balance": 0.9, "train_seconds": 0.1, "query_seconds": 0.2}
    noise = 0.01 * rng.standard_normal(3)
    rounds = [
        {**key, "n_labeled": n, "accuracy": a + e, **fixed, "used": trial.strategy}
        for n, a, e in zip(BUDGETS, ACCURACY[trial.strategy], noise, strict=True)
    ]
    chosen = rng.permutation(pool.train)[:40]
    picks = [
        {**key, "n_labeled": next(b for b in BUDGETS if i < b), "rank": i, "id": str(pool.ids[at]), "label": "7"}
        | {"utility": 1.0, "selection_probability": 0.5}
        for i, at in enumerate(chosen)
    ]
    return TrialResult(pd.DataFrame(rounds), pd.DataFrame(picks))


@pytest.fixture
def study(tiny_recipe: Recipe, tmp_path: Path, digits_pool: Pool) -> StudyFolder:
    settings = StudySettings(tiny_recipe, tuple(ACCURACY), budgets=BUDGETS, seeds=6)
    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    folder.settings_file.write_text(settings.to_toml(), encoding="utf-8")
    for trial in trials_of(settings):
        made_up(trial, digits_pool).save(folder.trial(trial))
    return folder


class Page(HTMLParser):
    """Text, and what is loaded, of a page; asserts that elements are closed in order."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [v or "" for k, v in attrs if k in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def test_the_page_needs_nothing_else_and_says_what_was_found(study: StudyFolder) -> None:
    page = Page(write_report(study.path).read_text(encoding="utf-8"))
    assert page.loaded
    assert all(link.startswith("data:image/webp;base64,") for link in page.loaded)
    assert "margin is above random: +10." in page.text
    assert "entropy: no significant difference from random at n = 6" in page.text
    assert "missing" not in page.text.split("What was chosen")[0]
    assert 'strategies = [ "random", "margin", "entropy", ]' in page.text
    assert (study.path / "curves-probe.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(study.path / "summary.csv").set_index("strategy")
    assert table.loc["margin", "difference"] == pytest.approx(0.1, abs=0.01)
    assert table.loc["margin", "labels"] == pytest.approx(20, rel=0.15)  # a budget earlier than random


def test_missing_trials_are_named_with_their_reason(study: StudyFolder) -> None:
    import shutil

    failed, absent = Trial("probe", "margin", 0), Trial("probe", "entropy", 3)
    for trial in (failed, absent):
        shutil.rmtree(study.trial(trial))
    save_failure(study.trial(failed), failed, "Traceback ...\nValueError: <the disk> is full")
    text = Page(write_report(study.path).read_text(encoding="utf-8")).text
    assert "2 of 18 trials are missing" in text
    assert "probe-margin-s0: ValueError: <the disk> is full" in text
    assert "probe-entropy-s3: not run yet" in text


def test_few_seeds_make_no_test(study: StudyFolder) -> None:
    rounds, _, _ = study.results()
    lines = sentences(rounds[rounds["seed"] < 3], "random")
    assert all("3 seeds are too few for a test" in line for line in lines)
    assert "There is nothing to compare" in sentences(rounds[rounds["strategy"] == "margin"], "random")[0]


def test_a_strategy_that_is_behind_is_said_to_be(study: StudyFolder) -> None:
    rounds, _, _ = study.results()
    lines = sentences(rounds, "margin")
    assert any(line.startswith("random is below margin") for line in lines)
    assert any("labels it is below margin (Holm over strategies and budgets)" in line for line in lines)
    assert any("It does not reach the accuracy that margin has with 40 labels" in line for line in lines)
    table = summary(rounds, "margin").set_index("strategy")
    assert table.loc["random", "labels"] == np.inf


def test_curves_show_means(study: StudyFolder) -> None:
    rounds, _, _ = study.results()
    figure = curves_figure(rounds, "random")
    accuracy, difference = figure.axes
    means = rounds[rounds["strategy"] == "margin"].groupby("n_labeled")["accuracy"].mean()
    lines = {line.get_label(): line for line in accuracy.lines}
    np.testing.assert_allclose(lines["margin"].get_ydata(), 100 * means)
    np.testing.assert_allclose({line.get_label(): line for line in difference.lines}["random"].get_ydata(), 0)
    assert len(curves_figure(rounds[rounds["strategy"] == "margin"], "random").axes) == 1


def test_what_cannot_be_reported(study: StudyFolder, tmp_path: Path, tiny_recipe: Recipe) -> None:
    result = ssld("study", "report", tmp_path)
    assert result.exit_code == 2
    assert "no study folder" in result.output
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "study.toml").write_text(StudySettings(tiny_recipe).to_toml(), encoding="utf-8")
    with pytest.raises(RunError, match=r"no trial of .* is complete"):
        write_report(empty)
    assert ssld("study", "report", study.path, study.path).exit_code == 2
    assert ssld("study", "report", study.path).exit_code == 0
