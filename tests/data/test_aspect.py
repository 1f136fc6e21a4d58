"""Images of other aspect ratios, and gray images in color files: what becomes of them, and that it stays so."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.data.decoding import Header, decode
from ssl_diffusion.data.images import iter_image_batches, read_images
from ssl_diffusion.data.loading import check_used, load_pool, with_size_of
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shapes import chosen_aspect
from ssl_diffusion.data.source import FileSource
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.training.recipe import Recipe, load_recipe

RED, BLUE = (255, 0, 0), (0, 0, 255)


def striped(path: Path, size: tuple[int, int]) -> Path:
    """A blue image with red thirds at both ends of its longer side."""
    width, height = size
    pixels = np.full((height, width, 3), BLUE, dtype=np.uint8)
    long = pixels if height > width else pixels.transpose(1, 0, 2)
    third = len(long) // 3
    long[:third] = long[-third:] = RED
    Image.fromarray(pixels).save(path)
    return path


def shown(path: Path, aspect: str) -> NDArray[np.int64]:
    out = np.zeros((3, 8, 8), dtype=np.uint8)
    assert not isinstance(decode(path, out, aspect), str)  # type: ignore[arg-type]
    return out.astype(np.int64)


@pytest.mark.parametrize("size", [(48, 16), (16, 48)])
def test_crop_takes_the_middle_pad_takes_all_and_squeeze_distorts(tmp_path: Path, size: tuple[int, int]) -> None:
    path = striped(tmp_path / "a.png", size)
    middle = shown(path, "crop")
    assert middle[2].min() > 200  # blue all over
    padded = shown(path, "pad") if size[0] > size[1] else shown(path, "pad").transpose(0, 2, 1)
    np.testing.assert_array_equal(padded[:, 0], padded[:, -1])  # the mean color above and below
    np.testing.assert_array_equal(padded[:, 0], np.broadcast_to(padded[:, :1, 0], (3, 8)))
    assert padded[0, 0, 0] == pytest.approx(170, abs=6)
    assert padded[0, 3, 0] > 240
    assert padded[2, 4, 3] > 200
    squeezed = shown(path, "squeeze") if size[0] > size[1] else shown(path, "squeeze").transpose(0, 2, 1)
    assert squeezed[0, 0, 0] > 240
    assert squeezed[2, 0, 3] > 200


@pytest.mark.parametrize(
    ("sizes", "aspect"),
    [
        ([(100, 100)], "crop"),
        ([(300, 400), (400, 300)], "crop"),
        ([(200, 300)], "crop"),
        ([(90, 160)], "pad"),
        ([(100, 100)] * 9 + [(90, 160)], "pad"),  # of those that need it
        ([(300, 400), (300, 400), (90, 160)], "crop"),
    ],
)
def test_the_treatment_that_is_chosen(sizes: list[tuple[int, int]], aspect: str) -> None:
    assert chosen_aspect([Header(*size, gray=False) for size in sizes], (3, 32, 32)) == aspect


@pytest.fixture
def photos(tmp_path: Path) -> DataSettings:
    """Two wide photos and a square one, in color files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(64, 36), (64, 36), (40, 40)]):
        striped(folder / f"{i}.png", size)
    return DataSettings(path=str(folder), size=8, aspect="auto", color="auto")


def test_the_choice_is_said_and_written_down_and_made_again(photos: DataSettings) -> None:
    pool = load_pool(photos)
    assert pool.aspect == "pad"
    assert "2 of 3 images have another aspect ratio than 8 x 8 and were padded with their mean color (--aspect crop takes" in (
        "\n".join(pool.notes)
    )
    written = with_size_of(pool, photos)
    assert (written.aspect, written.color) == ("pad", "rgb")
    np.testing.assert_array_equal(load_pool(written).images, pool.images)
    cropped = load_pool(photos.replace(aspect="crop"))
    assert "cropped to their middle (--aspect pad keeps all of them)" in "\n".join(cropped.notes)
    assert (cropped.images[:2] != pool.images[:2]).any()
    np.testing.assert_array_equal(cropped.images[2], pool.images[2])


@pytest.mark.parametrize("aspect", ["crop", "pad", "squeeze"])
def test_all_roads_from_files_agree(photos: DataSettings, aspect: str) -> None:
    paths = sorted(Path(photos.path).iterdir())
    read = read_images(paths, size=8, aspect=aspect).images  # type: ignore[arg-type]
    (batch,) = iter_image_batches(paths, (3, 8, 8), 4, aspect=aspect)  # type: ignore[arg-type]
    source = FileSource(paths, [path.name for path in paths], (3, 8, 8), aspect)  # type: ignore[arg-type]
    np.testing.assert_array_equal(batch.images, read)
    np.testing.assert_array_equal(source.take(source.ids), read)
    (_, images), *_ = source.batches(4)
    np.testing.assert_array_equal(images, read)


def test_gray_in_color_files_is_gray(tmp_path: Path) -> None:
    for i in range(3):
        Image.linear_gradient("L").resize((9, 8)).rotate(90 * i).convert("RGB").save(tmp_path / f"{i}.png")
    data = DataSettings(path=str(tmp_path), color="auto")
    pool = load_pool(data)
    assert pool.image_shape == (1, 8, 9)
    assert any("--set data.color=rgb" in note for note in pool.notes)
    written = with_size_of(pool, data)
    assert written.color == "gray"
    three = load_pool(data.replace(color="rgb")).images
    np.testing.assert_array_equal(np.repeat(pool.images, 3, axis=1), three)
    np.testing.assert_array_equal(load_pool(data.replace(color="files")).images, three)
    # One pixel in color, and a photo that comes later.
    Image.new("RGB", (9, 8), (9, 8, 7)).save(tmp_path / "3.png")
    assert load_pool(data).image_shape == (3, 8, 9)
    assert load_pool(written).image_shape == (1, 8, 9)


def test_what_is_as_before_is_not_written() -> None:
    assert not {"aspect", "color"} & Recipe().to_dict()["data"].keys()
    own = load_recipe("images")
    assert own.to_dict()["data"]["aspect"] == "auto"
    assert Recipe.from_dict(own.to_dict()) == own
    assert own.differences(own.with_setting("data.aspect", "squeeze")) == ["data.aspect: 'auto' -> 'squeeze'"]
    assert own.with_setting("data.aspect", "squeeze").differences(own) == ["data.aspect: 'squeeze' -> 'auto'"]


def test_data_sets_have_their_own_shape() -> None:
    data = load_recipe("images").data.replace(dataset="digits")
    check_used(data)
    pool = load_pool(data)
    assert with_size_of(pool, data) == DataSettings(dataset="digits", size=0)
    with pytest.raises(RecipeError, match="--aspect"):
        check_used(data.replace(aspect="crop"))
