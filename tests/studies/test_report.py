"""The report of a study: self-contained, complete, and honest about what is missing or not significant."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from support.canvas import assert_legible
from support.commands import ok, refused, ssld

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError, SSLDError
from ssl_diffusion.studies import StudyFolder, StudySettings
from ssl_diffusion.studies.figures import chosen_figure, curves_figure
from ssl_diffusion.studies.report import write_report
from ssl_diffusion.studies.summary import sentences, summary
from ssl_diffusion.studies.trial import Trial, save_failure
from ssl_diffusion.training.recipe import Recipe


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
    with Image.open(study.path / "curves-probe.png") as picture:  # also readable on a dark page
        assert picture.format == "PNG"
        assert picture.convert("RGBA").getchannel("A").getextrema() == (255, 255)
    table = pd.read_csv(study.path / "summary.csv").set_index("strategy")
    assert table.loc["margin", "difference"] == pytest.approx(0.1, abs=0.01)
    assert table.loc["margin", "labels"] == pytest.approx(20, rel=0.15)  # a budget earlier than random


def test_missing_trials_are_named_with_their_reason(study: StudyFolder) -> None:
    import shutil

    failed, absent = Trial("probe", "margin", 0), [Trial("probe", "entropy", seed) for seed in range(6)]
    for trial in (failed, *absent):
        shutil.rmtree(study.trial(trial))
    save_failure(study.trial(failed), failed, "Traceback ...\nValueError: <the disk> is full")
    page = write_report(study.path, highlight=["entropy", "margin"])  # also a strategy that has no complete trial
    text = Page(page.read_text(encoding="utf-8")).text
    assert "7 of 18 trials are missing" in text
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


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_chosen_is_shown_in_order_under_its_classes(channels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, channels, 6, 3), dtype=np.uint8)
    ids = np.array([f"i{k}" for k in range(40)])
    none = np.full(40, -1)
    pool = Pool("p", images, ids, labels=none, classes=("a", "b"), is_test=np.zeros(40, dtype=bool), augmentation="none")
    order = rng.permutation(30)
    picks = pd.DataFrame(
        {"n_labeled": [10] * 10 + [1000] * 20, "rank": range(30), "id": ids[order], "label": [f"class {k}" for k in range(30)]}
    )
    figure = chosen_figure(picks.sample(frac=1, random_state=0), pool)
    figure.canvas.draw()
    shown = [*range(10), *range(10, 26)]  # at most 16 of a round
    panel = figure.axes[0]
    for picture, k in zip(panel.images, shown, strict=True):
        wanted = images[order[k]]
        np.testing.assert_array_equal(picture.get_array(), wanted[0] if channels == 1 else wanted.transpose(1, 2, 0))
    boxes = [picture.get_window_extent() for picture in panel.images]
    assert all(box.height == pytest.approx(2 * box.width) for box in boxes)
    texts = {text.get_text(): text.get_window_extent() for text in panel.texts}
    assert set(texts) == {"10", "1,000", *(f"class {k}" for k in shown)}
    for box, k in zip(boxes, shown, strict=True):
        label = texts[f"class {k}"]
        assert label.y0 >= box.y1
        assert (label.x0 + label.x1) / 2 == pytest.approx((box.x0 + box.x1) / 2, abs=1)
        count = texts["10" if k < 10 else "1,000"]
        assert count.y0 < (box.y0 + box.y1) / 2 < count.y1
        assert count.x1 < box.x0
    assert_legible(figure)
    names = ["WWWWWWWWW", "$x_{", "a class of a long name"]
    picks = pd.DataFrame({"n_labeled": 1_000_000, "rank": range(3), "id": ids[:3], "label": names})
    assert_legible(figure := chosen_figure(picks, pool))
    assert [text.get_text()[:2] for text in figure.axes[0].texts] == ["1,", "WW", "$x", "a "]


NAMES = ("random", "auto", *(f"activeml:Measure{k}" if k % 2 else f"measure-{k}" for k in range(15)))


def test_three_budgets_and_more_have_a_forecast(study: StudyFolder) -> None:
    rounds = study.results()[0]
    table = summary(rounds, "random").set_index("strategy")
    assert (table["forecast_low"] < table["forecast"]).all()
    assert (table["forecast"] < table["forecast_high"]).all()
    assert 0.8 < table.loc["margin", "forecast"] < 0.9  # 0.6, 0.7, 0.8 with 10, 20, 40
    assert any(line.startswith("margin") and "Forecast: with 40 more labels 8" in line for line in sentences(rounds, "random"))
    assert "80 expected" in write_report(study.path).read_text(encoding="utf-8")
    assert "forecast" not in summary(rounds[rounds["n_labeled"] < 40], "random")


def many_rounds(strategies: Sequence[str], budgets: Sequence[int], spread: float = 0.3) -> pd.DataFrame:
    """Curves of four seeds that end closer to each other than their labels are high; later strategies are better."""
    rng = np.random.default_rng(0)
    rows = [
        {"strategy": s, "seed": seed, "n_labeled": n, "accuracy": 0.97 - spread / n + 0.001 * k + 0.001 * rng.standard_normal()}
        for k, s in enumerate(strategies)
        for seed in range(4)
        for n in budgets
    ]
    return pd.DataFrame(rows)


def colored(axis: Axes) -> dict[str, str]:
    """Lines that are more than thin and gray, with their colors."""
    return {str(line.get_label()): str(line.get_color()) for line in axis.lines if line.get_linewidth() > 1}


def assert_readable(figure: Figure) -> None:
    """Every line that stands out is named once, and no label touches another, a panel, a tick label or the edge."""
    figure.canvas.draw()
    panels = [axis.get_window_extent() for axis in figure.axes]
    ticks = [text.get_window_extent() for axis in figure.axes for text in axis.get_xticklabels() if text.get_text()]
    boxes = []
    for axis in figure.axes:
        labels = [text for text in axis.texts if text.get_text()]
        named = {text.get_text().replace("\n", ""): text.get_color() for text in labels}
        assert named == colored(axis)
        boxes += [Text.get_window_extent(text) for text in labels]
        boxes.append(axis.xaxis.label.get_window_extent())
    for k, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in (*boxes[:k], *panels, *ticks))
    assert not any(a.overlaps(b) for k, a in enumerate(ticks) for b in ticks[:k])


@pytest.mark.parametrize("budgets", [(10, 20, 40, 80, 160), tuple(range(100, 1100, 100)), (1000,)])
@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_labels_at_the_ends_of_lines_do_not_overlap(count: int, budgets: tuple[int, ...]) -> None:
    figure = curves_figure(many_rounds(NAMES[:count], budgets), "random")
    assert len(figure.axes) == (2 if count > 1 else 1)
    assert_readable(figure)
    assert len(colored(figure.axes[0])) == min(count, 5 if count <= 5 else 3)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("highlight", "best"),
    [
        ((), True),
        (("measure-4",), True),
        (("measure-4", "activeml:Measure3", "activeml:Measure1"), False),
        (("auto", "random"), True),
    ],
)
def test_baseline_default_choice_and_best_stand_out_from_many(highlight: tuple[str, ...], best: bool, dark: bool) -> None:
    figure = curves_figure(many_rounds(NAMES, (10, 40, 160)), "random", highlight=highlight, dark=dark)
    accuracy, difference = figure.axes
    assert_readable(figure)
    shown = colored(accuracy)
    assert set(shown) == {"random", "auto", *highlight} | ({NAMES[-1]} if best else set())
    assert len(set(shown.values())) == len(shown) <= 5
    assert colored(difference) == shown
    assert len(difference.lines) == len(shown)
    others = [line for line in accuracy.lines if line.get_label() not in shown]
    assert {line.get_label() for line in others} == set(NAMES) - set(shown)
    assert all(np.ptp(to_rgb(line.get_color())) < 0.1 for line in others)
    assert f"Gray: {len(others)} other strategies." in [text.get_text().split(" Bands")[0] for text in figure.texts]
    assert len(accuracy.collections) == len(difference.collections) == len(shown)  # bands


def test_labels_are_in_the_order_of_the_lines(study: StudyFolder) -> None:
    rounds, _, _ = study.results()
    for axis in curves_figure(rounds, "random").axes:
        ends = {str(line.get_label()): line.get_ydata()[-1] for line in axis.lines}
        names = sorted((text for text in axis.texts if text.get_text()), key=lambda text: text.get_position()[1])
        assert [text.get_text() for text in names] == sorted(ends, key=lambda name: ends[name])


def test_a_choice_that_cannot_be_highlighted_is_refused(study: StudyFolder, tmp_path: Path) -> None:
    rounds = many_rounds(NAMES, (10, 40))
    with pytest.raises(SSLDError, match=r"no strategy 'measure_4' to highlight; did you mean measure-4"):
        curves_figure(rounds, "random", highlight=["measure_4"])
    with pytest.raises(SSLDError, match=r"4 strategies are too many to highlight: name at most 3 beside auto and random"):
        curves_figure(rounds, "random", highlight=NAMES[2:6])
    assert "did you mean margin?" in refused("study", "report", study.path, "--highlight", "random,margn")
    new = tmp_path / "new"
    assert "did you mean random?" in refused("study", "--dataset", "digits", "--out", new, "--highlight", "randm")
    assert not new.exists()
    assert "did you mean margin?" in refused("study", study.path, "--resume", "--highlight", "margn")


def test_the_choice_is_no_setting_of_the_study(study: StudyFolder) -> None:
    before = study.settings_file.read_bytes()
    ok("study", study.path, "--resume", "--highlight", "margin")
    assert study.settings_file.read_bytes() == before


def test_what_cannot_be_reported(study: StudyFolder, tmp_path: Path, tiny_recipe: Recipe) -> None:
    result = ssld("study", "report", tmp_path)
    assert result.exit_code == 2
    assert "no study folder" in result.output
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "study.toml").write_text(StudySettings(recipe=tiny_recipe).to_toml(), encoding="utf-8")
    with pytest.raises(RunError, match=r"no trial of .* is complete"):
        write_report(empty)
    assert ssld("study", "report", study.path, study.path).exit_code == 2
    assert ssld("study", "report", study.path, "--highlight", "entropy,margin").exit_code == 0
