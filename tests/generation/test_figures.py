"""Pictures of samples and counterfactuals: what is on them."""

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.canvas import assert_legible

from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.figures import counterfactual_figure, distance_figure, grid_figure, strip_figure
from ssl_diffusion.generation.strips import TARGET, Panel, difference


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


def panels(pairs: CounterfactualResult, classes: Sequence[str], columns: int) -> list[list[Panel]]:
    """Rows of the sheet: the original, as many changed images, and the difference."""
    made = []
    for original, found, source, target in zip(pairs.original, pairs.images(), pairs.source, pairs.target, strict=True):
        changed = [Panel(found, f"{classes[target]} 0.90, not sure", TARGET)] * (columns - 2)
        made.append([Panel(original, classes[source]), *changed, Panel(difference(original, found), "change × 6")])
    return made


@pytest.mark.parametrize(("channels", "columns"), [(1, 3), (3, 4)])
def test_every_pair_has_a_row_of_panels_and_bars(channels: int, columns: int) -> None:
    classes = ["ant", "bee", "cat", "dog"]
    pairs, p = result(3, channels), np.array([[0.4, 0.3, 0.2, 0.1]] * 3, dtype=np.float32)
    rows = panels(pairs, classes, columns)
    figure = counterfactual_figure(pairs, classes, p, p[:, ::-1], ["a", "b", "c"], rows)
    (panel,) = figure.axes
    texts = [text.get_text() for text in panel.texts]
    assert [text for text in texts if text in ("a", "b", "c")] == ["a", "b", "c"]
    assert texts.count("ant") == 6  # over the image and beside its bar
    assert texts.count("cat 0.90, not sure") == 3 * (columns - 2)
    assert texts.count("change × 6") == 3
    each = columns + 1
    for i, row in enumerate(rows):
        *shown, scale = panel.images[each * i : each * (i + 1)]
        for image, wanted in zip(shown, row, strict=True):
            pixels = wanted.image[0] if len(wanted.image) == 1 else wanted.image.transpose(1, 2, 0)
            np.testing.assert_array_equal(image.get_array(), pixels)
        assert scale.norm.vmax == pytest.approx(1 / 6)
        assert scale.get_array()[0, 0] == scale.norm.vmax  # where the number is, at the top
    widths = np.array([bar.get_width() for bar in panel.patches]).reshape(3, 4, 2) / max(b.get_width() for b in panel.patches)
    np.testing.assert_allclose(widths[0], np.array([[4, 1], [3, 2], [2, 3], [1, 4]]) / 4, atol=1e-6)


LONG = "a class of a name that nobody could ever read at the size of such a picture"


@pytest.mark.parametrize("classes", [("ant", "bee", "cat"), (LONG, "$bee_{", LONG[2:])], ids=["short", "long"])
@pytest.mark.parametrize("kind", ["pairs", "rows", "strip", "strip of one"])
def test_every_text_is_legible(kind: str, classes: tuple[str, ...]) -> None:
    steps = [np.zeros((3, 1, 8, 6), dtype=np.float32)] * 4
    p = np.full((3, 3), 1 / 3, dtype=np.float32)

    def draw() -> Figure:
        if kind == "pairs":
            rows = panels(result(3), classes, 4)
            return counterfactual_figure(result(3), classes, p, p, [f"{name}/0001.png" for name in classes], rows)
        if kind == "rows":
            return grid_figure(np.zeros((6, 3, 8, 6), dtype=np.uint8), classes)
        if kind == "strip":
            return strip_figure(steps, [80.0, 1.25, 0.012, 0.0])
        return strip_figure([images[:1] for images in steps[:1]], [0.0])

    assert_legible(draw())


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
