"""Forecasts of accuracy: exact on lines, honest intervals on simulated curves, refused where there is nothing to go by."""

from dataclasses import replace

import numpy as np
import pytest

from ssl_diffusion.acquisition.forecast import Forecast, LearningCurvePrior, forecast
from ssl_diffusion.errors import DataError

SMOOTH = LearningCurvePrior(0.5, 10.0, 0.0, 1e-4, 1e-4, 1e-3, 0.0, 5.0)


def odds_line(n: np.ndarray, slope: float = 0.6) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-(-1.0 + slope * np.log2(n / 10)))))


@pytest.mark.parametrize("slope", [0.2, 0.9, -0.3])
def test_a_line_in_log_odds_goes_on(slope: float) -> None:
    n = np.array([10, 20, 50, 90])
    found = forecast(n, odds_line(n, slope), 110, prior=SMOOTH)
    assert found.accuracy == pytest.approx(float(odds_line(np.array([200]), slope)[0]), abs=2e-3)
    assert found.high - found.low < 0.01


def test_slopes_return_to_the_prior() -> None:
    n = np.array([10, 20, 40])
    gone = [forecast(n, odds_line(n), 40 * 2**k, prior=replace(SMOOTH, decay=1.0)).accuracy for k in (1, 12, 24)]
    assert gone[1] > gone[0] + 0.005
    assert gone[2] == pytest.approx(gone[1], abs=1e-3)


def test_intervals_hold_as_many_as_they_say() -> None:
    prior, inside = LearningCurvePrior(), 0
    rng = np.random.default_rng(0)
    for _ in range(400):
        slope, level, odds = prior.slope + prior.slope_deviation * rng.standard_normal(), 0.0, []
        for k in range(9):  # ninths of four doublings, in small steps of Euler
            if k:
                for _ in range(20):
                    level += slope * 0.5 / 20
                    slope += prior.decay * (prior.last_slope - slope) * 0.5 / 20
                    slope += prior.wander * np.sqrt(0.5 / 20) * rng.standard_normal()
            p = 1 / (1 + np.exp(-level))
            odds.append(level + np.hypot(prior.noise, prior.sampling / np.sqrt(p * (1 - p))) * rng.standard_normal())
        a = 1 / (1 + np.exp(-np.array(odds)))
        n = np.round(1000 * 2 ** (np.arange(9) / 2))
        found = forecast(n[:7], a[:7], int(n[8] - n[6]), prior=replace(prior, firmness=1000.0))
        inside += found.low <= a[8] <= found.high
    assert 0.75 < inside / 400 < 0.85


def test_what_the_curve_did_before_says_how_sure_it_is() -> None:
    n = [10, 20, 40, 80]
    calm, jumpy = forecast(n, [0.5, 0.6, 0.68, 0.74]), forecast(n, [0.5, 0.68, 0.6, 0.74])
    assert jumpy.high - jumpy.low > 1.5 * (calm.high - calm.low)
    few = forecast(n, [0.5, 0.6, 0.68, 0.74], deviation=0.05)
    assert few.high - few.low > 0.1 > calm.high - calm.low


def test_more_labels_are_less_certain_and_it_is_said_in_words() -> None:
    n, a = [10, 20, 40], [0.61, 0.73, 0.86]
    near, far = forecast(n, a, 10), forecast(n, a, 4000)
    assert near.accuracy < far.accuracy
    assert near.high - near.low < far.high - far.low
    assert str(Forecast(1200, 0.884, 0.861, 0.899)) == "with 1,200 more labels 88 % (86 to 90)"
    assert forecast(n, a).more == 40


@pytest.mark.parametrize("a", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
def test_nothing_and_everything_right(a: list[float]) -> None:
    found = forecast([10, 20, 40], a)
    assert 0 <= found.low <= found.accuracy <= found.high <= 1


@pytest.mark.parametrize(
    ("n", "a", "more", "words"),
    [
        ([10, 20], [0.5, 0.6], None, "needs 3 rounds with a measured accuracy, and there are 2"),
        ([10, 20, 20], [0.5, 0.6, 0.7], None, "increase"),
        ([10, 20, 40], [0.5, 0.6, 70], None, "between 0 and 1"),
        ([10, 20, 40], [0.5, 0.6, float("nan")], None, "between 0 and 1"),
        ([10, 20, 40], [0.5, 0.6], None, "one accuracy for every"),
        ([10, 20, 40], [0.5, 0.6, 0.7], 0, "one label more"),
    ],
)
def test_what_cannot_be_forecast(n: list[int], a: list[float], more: int | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        forecast(n, a, more)
