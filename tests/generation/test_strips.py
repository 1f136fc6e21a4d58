"""Strips of a counterfactual: that each panel is the image itself, and that a person can see a change."""

import numpy as np
import pytest
from PIL import Image

from ssl_diffusion.generation.strips import Panel, difference, enlarged, strip


def test_the_difference_is_six_fold_red_where_it_became_lighter_and_blue_where_darker() -> None:
    original = np.full((1, 2, 3), 100, dtype=np.uint8)
    changed = original.copy()
    changed[0, 0] = (130, 70, 104)
    red, _, blue = difference(original, changed).astype(int)
    assert red[0, 0] > blue[0, 0] + 80
    assert blue[0, 1] > red[0, 1] + 80
    assert 0 < red[0, 2] - blue[0, 2] < 80  # four levels of 255 are a tenth of the range, six-fold
    assert (np.abs(red - blue)[1] < 3).all()  # nothing changed
    stronger = difference(original, np.minimum(original.astype(int) + 200, 255).astype(np.uint8))
    np.testing.assert_array_equal(stronger, difference(original, np.full_like(original, 143)))  # both beyond the range


def test_a_change_of_color_alone_is_seen() -> None:
    original = np.full((3, 1, 1), 100, dtype=np.uint8)
    changed = np.array([130, 100, 70], dtype=np.uint8).reshape(3, 1, 1)  # no lighter on average
    white = difference(original, original).astype(int)
    assert np.abs(difference(original, changed) - white).max() > 80


@pytest.mark.parametrize(
    ("size", "shown"), [((8, 8), (168, 168)), ((28, 20), (168, 120)), ((200, 300), (200, 300)), ((1280, 640), (640, 320))]
)
def test_small_images_are_enlarged_by_whole_pixels_and_large_ones_shrunk(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    pixels = np.asarray(enlarged(image))
    assert pixels.shape == (*shown, 3)
    if size[0] <= shown[0]:
        step = shown[0] // size[0]
        np.testing.assert_array_equal(pixels[::step, ::step], image.transpose(1, 2, 0))


@pytest.mark.parametrize(
    "caption", ["coat 0.93", "a name that is far too long for the little room above such a panel", "", "Пальто"]
)
def test_a_strip_has_all_panels_in_their_pixels_below_captions(caption: str) -> None:
    rng = np.random.default_rng(0)
    panels = [Panel(rng.integers(0, 256, (1, 8, 8), dtype=np.uint8), caption) for _ in range(3)]
    made = np.asarray(strip(panels))
    assert made.shape == (202, 536, 3)
    for i, panel in enumerate(panels):
        left = 8 + 176 * i
        shown = made[26 : 26 + 168, left : left + 168, 0]
        np.testing.assert_array_equal(shown[::21, ::21], panel.image[0])
        assert (made[:26, left : left + 168] < 128).any() == bool(caption)
    assert (made[:, :8] == 255).all()


def test_a_panel_of_many_pixels_is_reduced_for_the_overview() -> None:
    image = np.zeros((3, 100, 1000), dtype=np.uint8)
    assert Panel(image, "a").reduced().image.shape == (3, 32, 320)
    assert Panel(image[:1], "a").reduced().image.shape == (1, 32, 320)
    small = Panel(image[:, :, :90], "a")
    assert small.reduced() is small
    assert Image.fromarray(image[0]).size == (1000, 100)
