"""Measures of generated images against closed forms and against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.quality import compare_features, frechet_distance, kernel_distance, neighbor_measures


def features(n: int, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 3.0))
def test_frechet_distance_of_moved_and_stretched_features(seed: int, factor: float) -> None:
    a = features(60, seed=seed)
    shift = np.array([1.0, -2.0, 0.5, 0.0])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-9)
    centred = a - a.mean(axis=0)
    # The same Gaussian, stretched: tr(S + f^2 S - 2 f S) = (1 - f)^2 tr S.
    expected = (1 - factor) ** 2 * np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(centred, factor * centred) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_frechet_distance_is_symmetric_and_stands_large_means_and_few_images() -> None:
    a, b = features(200, 6, 1) + 1e5, 2 * features(150, 6, 2) + 1e5
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a - 1e5, b - 1e5), rel=1e-5)
    assert np.isfinite(frechet_distance(features(12, 64), features(12, 64, 1)))


def test_kernel_distance_is_the_unbiased_estimate() -> None:
    a, b = features(12, 3), features(11, 3, 1) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-9)
    same = [kernel_distance(features(30, 3, s), features(30, 3, 1000 + s)) for s in range(200)]
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / np.sqrt(200))


def test_neighbor_measures_are_what_their_definitions_say() -> None:
    real, fake, k = features(40, 2), 1.5 * features(30, 2, 1), 3
    apart = np.linalg.norm(real[:, None] - fake[None], axis=2)
    reach_real = np.sort(np.linalg.norm(real[:, None] - real[None], axis=2), axis=1)[:, k]
    reach_fake = np.sort(np.linalg.norm(fake[:, None] - fake[None], axis=2), axis=1)[:, k]
    measured = neighbor_measures(real, fake, k)
    assert measured["precision"] == np.mean([(apart[:, j] < reach_real).any() for j in range(30)])
    assert measured["recall"] == np.mean([(apart[i] < reach_fake).any() for i in range(40)])
    assert measured["density"] == pytest.approx(np.mean([(apart[:, j] < reach_real).sum() / k for j in range(30)]))
    assert measured["coverage"] == np.mean([(apart[i] < reach_real[i]).any() for i in range(40)])


def test_measures_tell_good_samples_from_bad_ones() -> None:
    real, good = features(400, seed=1), features(400, seed=2)
    collapsed, noise = np.repeat(features(4, seed=3), 100, axis=0), 6 * features(400, seed=4)
    best, narrow, wide = (compare_features(real, x) for x in (good, collapsed, noise))
    assert best["fd"] < min(narrow["fd"], wide["fd"])
    assert best["kid"] < min(narrow["kid"], wide["kid"])
    assert narrow["coverage"] < 0.3 < 0.8 < best["coverage"]
    assert wide["precision"] < 0.5 < best["precision"]
    assert narrow["recall"] < 0.3 < best["recall"]
    assert best["density"] == pytest.approx(1, abs=0.15)


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="need the shapes"):
        compare_features(features(20, 3), features(20, 4))
    with pytest.raises(DataError, match="at least 10 images"):
        compare_features(features(20), features(9))
    bad = features(20)
    bad[3, 1] = np.nan
    with pytest.raises(DataError, match="must be finite"):
        compare_features(bad, features(20))
