"""The size of images where nobody says it: the files' own up to a limit, which is written down where a size is kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_diffusion.data.images import read_images
from ssl_diffusion.data.loading import check_used, load_pool, with_size_of
from ssl_diffusion.data.settings import LARGEST_SIDE, DataSettings
from ssl_diffusion.errors import DataError, RecipeError

S = LARGEST_SIDE


def photos(folder: Path, *sizes: tuple[int, int]) -> Path:
    """Color photos without labels, of these widths and heights."""
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (i, 2 * i, 90)).save(folder / f"{i}.jpg")
    return folder


@pytest.fixture(params=["folder", "table"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> DataSettings:
    """A folder of photos of several sizes, most of them 160 x 120, and a table of the same."""
    folder = photos(tmp_path / "photos", (160, 120), (160, 120), (60, 60), (20, 30))
    table = tmp_path / "table.csv"
    table.write_text("path\n" + "".join(f"photos/{path.name}\n" for path in sorted(folder.iterdir())))
    return DataSettings(path=str(folder if request.param == "folder" else table))


def test_large_photos_become_squares_of_the_limit_and_a_sentence_says_so(large: DataSettings) -> None:
    pool = load_pool(large)
    assert pool.image_shape == (3, S, S)
    times = round(160 * 120 / S**2)
    assert pool.notes[0] == (
        f"images are resized to {S} x {S} pixels: most have 120 x 160, with which training would take about {times} times as "
        "long; choose the size with --size, where 0 keeps the files' own"
    )
    assert pool.notes[1].startswith(f"4 of 4 images were resized to {S} x {S}")
    np.testing.assert_array_equal(pool.images, load_pool(large.replace(size=S)).images)


@pytest.mark.parametrize(("size", "shape"), [(0, (3, 120, 160)), (48, (3, 48, 48)), (200, (3, 200, 200))])
def test_a_size_that_is_given_is_taken_and_needs_no_sentence(
    large: DataSettings, size: int, shape: tuple[int, int, int]
) -> None:
    pool = load_pool(large.replace(size=size))
    assert pool.image_shape == shape
    assert not any("--size" in note for note in pool.notes)


@pytest.mark.parametrize(
    ("own", "shape", "kept"),
    [
        ((S, S), (S, S), S),
        ((20, S), (S, 20), 0),
        ((S + 1, 4), (S, S), S),
        ((4, S + 1), (S, S), S),
        ((8, 8), (8, 8), 8),
        ((4000, 3000), (S, S), S),
    ],
)
def test_sizes_up_to_the_limit_are_kept_and_the_size_is_written_down(
    tmp_path: Path, own: tuple[int, int], shape: tuple[int, int], kept: int
) -> None:
    data = DataSettings(path=str(photos(tmp_path / "photos", own)))
    pool = load_pool(data)
    assert pool.image_shape[1:] == shape
    assert any("--size" in note for note in pool.notes) == (max(own) > S)
    written = with_size_of(pool, data)
    assert written == data.replace(size=kept)
    assert load_pool(written).image_shape == pool.image_shape
    assert with_size_of(pool, data.replace(size=5)).size == 5
    assert with_size_of(pool, DataSettings(dataset="digits")).size == 0


def test_the_size_written_down_outlives_other_files(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", (8, 8))
    written = with_size_of(load_pool(DataSettings(path=str(folder))), DataSettings(path=str(folder)))
    for i in range(3):
        Image.new("RGB", (90, 90)).save(folder / f"new{i}.jpg")
    assert load_pool(written).image_shape == (3, 8, 8)


def test_a_damaged_file_has_no_say_in_the_size(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", (8, 8), (160, 120), (160, 120))
    for i in (1, 2):
        (folder / f"{i}.jpg").write_bytes((folder / f"{i}.jpg").read_bytes()[:700])
    pool = load_pool(DataSettings(path=str(folder), skip_bad=True))
    assert (pool.image_shape, len(pool)) == ((3, 8, 8), 1)
    assert not any("--size" in note for note in pool.notes)


def test_sizes_out_of_range() -> None:
    with pytest.raises(RecipeError, match=r"size must be in \[-1, 65536\], not -2"):
        DataSettings(size=-2)
    with pytest.raises(DataError, match="1 pixel or more, not 0"):
        read_images(["x.png"], largest=0)


def test_the_size_that_runs_on_data_sets_have_is_no_size_for_files() -> None:
    for size in (-1, 0):
        check_used(DataSettings(dataset="digits", size=size))
    with pytest.raises(RecipeError, match=r"--size .* has no effect"):
        check_used(DataSettings(dataset="digits", size=8))
