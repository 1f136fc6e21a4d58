"""Accuracy from drawn labels: exact on small pools, intervals that cover in simulated loops."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ssl_diffusion.acquisition.batch_selection import with_chance
from ssl_diffusion.annotation.loop.accuracy import audit_interval, lure, lure_weights
from ssl_diffusion.errors import DataError


def test_the_expectation_over_all_draws_is_the_accuracy() -> None:
    u = np.array([0.1, 0.5, 0.2, 0.9, 0.3])
    right = np.array([True, False, True, False, False])
    risk = 0.0
    for draws in permutations(range(5), 3):
        left, q = u.sum(), []
        for i in draws:
            q.append(u[i] / left)
            left -= u[i]
        # Not from lure(), which clips to [0, 1].
        risk += np.prod(q) * (lure_weights(np.array(q), 5) * ~right[list(draws)]).mean()
    assert risk == pytest.approx(0.6)


def test_uniform_draws_weigh_alike_and_give_the_share_that_is_right() -> None:
    n, right = 50, np.arange(20) % 4 > 0
    uniform = 1 / (n - np.arange(20.0))
    np.testing.assert_allclose(lure_weights(uniform, n), 1)
    found = lure(right, uniform, n)
    assert found.accuracy == pytest.approx(0.75)
    assert found.low < 0.75 < found.high


def test_an_audit_has_the_interval_of_wilson() -> None:
    found = audit_interval(42, 50)
    expected = stats.binomtest(42, 50).proportion_ci(method="wilson")
    assert (found.accuracy, found.n) == (0.84, 50)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (audit_interval(0, 0).low, audit_interval(0, 0).high) == (0.0, 1.0)


def pool(rng: np.random.Generator, n: int, level: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether a model is right about each sample, and what it thinks of that, which is not quite so."""
    chance = rng.beta(5 * level, 5 * (1 - level) + 0.3, n)
    return rng.random(n) < chance, np.clip(chance + rng.normal(0, 0.1, n), 0.02, 0.999)


@pytest.mark.parametrize(("n", "draws", "level"), [(2000, 100, 0.9), (2000, 200, 0.7), (500, 60, 0.8)])
def test_intervals_cover_in_simulated_loops(n: int, draws: int, level: float) -> None:
    rng = np.random.default_rng(n + draws)
    covered = np.zeros(2)
    errors = []
    for _ in range(500):
        right, confidence = pool(rng, n, level)
        truth = right.mean()
        choice = with_chance(1 - confidence, draws, rng)
        drawn = right[choice.picks]
        estimates = [
            lure(drawn, choice.probabilities, n),
            audit_interval(int(right[:draws].sum()), draws),
        ]
        covered += [e.low <= truth <= e.high for e in estimates]
        errors.append([e.accuracy - truth for e in estimates])
    assert ((covered / 500 >= 0.92) & (covered / 500 <= 0.98)).all(), covered / 500
    assert np.abs(np.mean(errors, axis=0)).max() < 0.01


def test_the_naive_share_of_drawn_labels_would_be_far_off() -> None:
    rng = np.random.default_rng(0)
    right, confidence = pool(rng, 2000, 0.9)
    choice = with_chance(1 - confidence, 300, rng)
    drawn = right[choice.picks]
    assert drawn.mean() < right.mean() - 0.1
    assert lure(drawn, choice.probabilities, 2000).accuracy == pytest.approx(right.mean(), abs=0.06)


def test_what_says_nothing_is_the_whole_interval_and_nonsense_is_refused() -> None:
    one = lure(np.array([True]), np.array([0.5]), 2)
    assert (one.low, one.high, one.n) == (0.0, 1.0, 1)
    assert np.isnan(one.accuracy)
    with pytest.raises(DataError, match="above 0"):
        lure(np.array([True, True]), np.array([0.0, 0.5]), 5)
    with pytest.raises(DataError, match="3 draws from 2"):
        lure_weights(np.full(3, 0.5), 2)
    with pytest.raises(DataError, match="cannot be correct"):
        audit_interval(3, 2)
