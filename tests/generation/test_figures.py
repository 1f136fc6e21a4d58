"""Pictures of samples and counterfactuals: what is on them."""

import numpy as np
import pytest

from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.figures import counterfactual_figure, distance_figure, grid_figure, strip_figure


def result(n: int, channels: int = 1) -> CounterfactualResult:
    rng = np.random.default_rng(0)
    original, found = rng.integers(0, 256, (2, n, channels, 6, 6), dtype=np.uint8)
    ones = np.ones(n)
    return CounterfactualResult(
        image=np.arange(n),
        original=original,
        counterfactual=found,
        source=np.zeros(n, dtype=np.int64),
        target=np.full(n, 2),
        success=np.arange(n) != 1,
        p_source=np.full(n, 0.4, dtype=np.float32),
        p_target=np.full(n, 0.6, dtype=np.float32),
        distance_pixel=rng.uniform(0.1, 0.4, n),
        distance_representation=ones,
        noise_level=ones,
        scale=ones,
        network_evaluations=np.ones(n, dtype=np.int64),
        seconds=ones,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pair_has_a_row_and_differences_are_centred_on_zero(channels: int) -> None:
    p = np.full((3, 4), 0.25, dtype=np.float32)
    figure = counterfactual_figure(result(3, channels), ["ant", "bee", "cat", "dog"], p, p, ["a", "b", "c"])
    rows = [axes for axes in figure.axes if axes.get_ylabel() in "abc" and axes.get_ylabel()]
    assert len(rows) == 3
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("ant") == 3
    assert titles.count("cat") == 2
    assert titles.count("not cat") == 1
    maps = [axes.images[0].norm for axes in figure.axes if axes.get_title().startswith("change")]
    assert len(maps) == 3
    assert all(norm.vmin == -norm.vmax for norm in maps)


def test_grids_and_strips() -> None:
    images = np.zeros((10, 1, 6, 6), dtype=np.uint8)
    sheet = grid_figure(images, ["ant", "bee"]).axes[0]
    assert [t.get_text() for t in sheet.get_yticklabels()] == ["ant", "bee"]
    assert sheet.images[0].get_array().shape == (13, 34)
    assert grid_figure(images).axes[0].images[0].get_array().shape == (20, 27)  # 3 rows of 4, the last one not full


def test_a_strip_has_a_row_for_every_sample_and_a_named_column_for_every_level() -> None:
    steps = [np.full((2, 3, 6, 6), k, dtype=np.float32) for k in (-0.5, 0.5, 1.0)]
    for images in steps:
        images[1] /= 2
    strip = strip_figure(steps, [80.0, 1.0, 0.0]).axes[0]
    assert [label.get_text() for label in strip.get_xticklabels()] == ["σ = 80", "σ = 1", "image"]
    assert strip.get_xticks().tolist() == [2.5, 9.5, 16.5]
    drawn = strip.images[0].get_array()
    assert drawn.shape == (13, 20, 3)
    expected = np.array([[-0.5 / 80, 0.5 / np.sqrt(2), 1.0], [-0.25 / 80, 0.25 / np.sqrt(2), 0.5]])
    np.testing.assert_allclose(2 * drawn[2::7, 2::7, 0] - 1, expected, atol=1e-3)


def test_a_histogram_tells_failures_from_successes() -> None:
    axes = distance_figure(result(30)).axes[0]
    heights = [sum(patch.get_height() for patch in container) for container in axes.containers]
    assert heights == [29, 1]
    assert axes.get_legend() is not None
