"""A folder of unlabeled images beside a labeled pool: what joins, what is tested on, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_diffusion.data.loading import input_paths, load_pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.errors import DataError


def draw(root: Path, *names: str, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 20 * i + 10 if mode == "L" else (20 * i + 10, 0, 0)).save(root / name)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with a test split."""
    parts = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("cat", "dog") for i in range(2)]
    return draw(tmp_path / "photos", *parts)


@pytest.fixture
def sketches(tmp_path: Path) -> Path:
    """Images of another size, some of them in class folders."""
    return draw(tmp_path / "sketches", "cat/0.png", "horse/1.png", "2.png", size=(16, 16))


def settings(photos: Path, sketches: Path, **changes: object) -> DataSettings:
    return DataSettings(path=str(photos), unlabeled=str(sketches)).replace(**changes)


def test_all_join_without_labels_at_the_size_of_the_pool(photos: Path, sketches: Path) -> None:
    data = settings(photos, sketches)
    pool, own = load_pool(data), load_pool(data.replace(unlabeled=""))
    assert pool.ids.tolist() == [*own.ids, "unlabeled:2.png", "unlabeled:cat/0.png", "unlabeled:horse/1.png"]
    assert pool.classes == ("cat", "dog")
    assert pool.image_shape == own.image_shape
    np.testing.assert_array_equal(pool.images[: len(own)], own.images)
    np.testing.assert_array_equal(pool.labels, [*own.labels, -1, -1, -1])
    np.testing.assert_array_equal(pool.is_test, [*own.is_test, False, False, False])
    assert pool.images[-1].mean() == 30
    assert pool.notes[-1] == f"3 images under {sketches} join the training without labels"
    assert input_paths(data) == [photos, sketches]
    assert pool.fingerprint() != own.fingerprint()


def test_its_own_test_split_takes_the_place_of_the_other(photos: Path, sketches: Path) -> None:
    draw(sketches, "test/cat/a.png", "test/dog/b.png", "test/dog/c.png", size=(16, 16))
    pool = load_pool(settings(photos, sketches))
    tested = pool.ids[pool.test].tolist()
    assert tested == ["unlabeled:test/cat/a.png", "unlabeled:test/dog/b.png", "unlabeled:test/dog/c.png"]
    assert pool.labels[pool.test].tolist() == [0, 1, 1]
    assert not any(sample.startswith("test/") for sample in pool.ids)
    assert "its 3 images under test/ are the test split instead of the 4 of 'photos'" in pool.notes[-1]
    assert len(pool.train) == 4 + 3


def test_a_pool_beyond_the_memory_is_the_same(photos: Path, sketches: Path) -> None:
    draw(sketches, "test/cat/a.png", size=(16, 16))
    mapped = load_pool(settings(photos, sketches), max_memory=16)
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, load_pool(settings(photos, sketches)).images)


def test_a_data_set_takes_unlabeled_images_too(sketches: Path) -> None:
    digits = load_pool(DataSettings(dataset="digits"))
    pool = load_pool(DataSettings(dataset="digits", unlabeled=str(sketches)))
    assert len(pool) == len(digits) + 3
    np.testing.assert_array_equal(pool.test, digits.test)


def test_unreadable_images_are_left_out_by_name(photos: Path, sketches: Path) -> None:
    (sketches / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        load_pool(settings(photos, sketches))
    pool = load_pool(settings(photos, sketches, skip_bad=True))
    assert [sample for sample, _ in pool.skipped] == ["unlabeled:bad.png"]
    assert len(pool.train) == 4 + 3


@pytest.mark.parametrize(
    ("names", "mode", "changes", "message"),
    [
        ([], "L", {}, "there are no images under"),
        (["a.png"], "RGB", {}, "are in color, those of 'photos' gray: --set data.color=rgb reads all"),
        (["test/horse/a.png", "a.png"], "L", {}, "has images of horse, but 'photos' has no such labels"),
        (["test/cat/a.png"], "L", {}, "are in its test split: it has none to train on"),
        (["test/cat/a.png", "a.png"], "L", {"test_fraction": 0.5}, "leave out --test-fraction"),
    ],
)
def test_what_cannot_be_used_is_refused(
    names: list[str], mode: str, changes: dict[str, object], message: str, photos: Path, tmp_path: Path
) -> None:
    if "test_fraction" in changes:
        photos = photos / "train"
    other = tmp_path / "other"
    other.mkdir()
    draw(other, *names, mode=mode)
    with pytest.raises(DataError, match=message):
        load_pool(settings(photos, other, **changes))


@pytest.mark.parametrize("place", ["photos", "photos/train", "", "missing", "photos/train/cat/0.png"])
def test_other_places_are_refused(place: str, photos: Path) -> None:
    with pytest.raises(DataError, match=r"among those of --data|does not exist|is a file, not a folder") as error:
        load_pool(settings(photos, photos.parent / place))
    assert "--unlabeled" in str(error.value)


def test_images_of_a_table_are_found_by_their_files(photos: Path) -> None:
    table = photos / "table.csv"
    table.write_text("path,label\ntrain/cat/0.png,cat\ntrain/cat/1.png,cat\ntrain/dog/0.png,dog\n")
    with pytest.raises(DataError, match="3 of the 4 images under"):
        load_pool(settings(table, photos / "train"))


def test_three_channels_for_both_when_asked_for(photos: Path, tmp_path: Path) -> None:
    other = draw(tmp_path / "other", "a.png", mode="RGB")
    assert load_pool(settings(photos, other, color="rgb")).image_shape == (3, 8, 8)
    assert load_pool(settings(photos, other, color="gray")).image_shape == (1, 8, 8)
