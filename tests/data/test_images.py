"""Reading image files: what is listed, what is decoded, what is complained about."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssl_diffusion.data.image_files import list_images
from ssl_diffusion.data.images import iter_image_batches, listing, read_images
from ssl_diffusion.errors import DataError
from ssl_diffusion.storage import allocate, create_array


def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8), color: Any = 100, **options: Any) -> Path:
    """A one-colored image file; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if color == 100 and mode not in ("L", "1", "I;16", "F", "P"):
        color = (100,) * len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, color).save(path, **options)
    return path


def write_noise(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    """A JPEG of noise, large enough to be cut in two."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, Path]:
    """Files that cannot be read, by what is wrong with them."""
    truncated = write_noise(tmp_path / "truncated.jpg")
    truncated.write_bytes(truncated.read_bytes()[:3000])
    empty = tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    return {"truncated": truncated, "zero bytes": empty, "not an image": text, "not found": tmp_path / "nowhere.png"}


# ---- listing


def test_list_images_sorts_and_filters(tmp_path: Path) -> None:
    names = ["b/z.JPG", "b/a.jpeg", "a.PNG", "c.bmp", "d.gif", "e.tif", "f.TIFF", "g.webp", "b/c/d.png"]
    for name in [*names, ".hidden.png", ".git/x.png", "notes.txt", "png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == sorted(names)


def test_list_images_follows_links_but_no_loops(tmp_path: Path) -> None:
    write(tmp_path / "root" / "a" / "x.png")
    write(tmp_path / "elsewhere" / "y.png")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root", target_is_directory=True)
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "root" / "self").symlink_to(tmp_path / "root" / "self")
    (tmp_path / "root" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    found = [path.relative_to(tmp_path / "root").as_posix() for path in list_images(tmp_path / "root")]
    assert found == ["a/x.png", "dangling.png", "linked/y.png"]


def test_list_images_refuses_names_that_are_not_utf8(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match="not valid UTF-8: rename"):
        list_images(tmp_path)


def test_listing_stops_at_the_limit() -> None:
    assert listing(["a", "b"]) == "\n  a\n  b"
    assert listing([str(i) for i in range(23)]).splitlines()[-1].strip() == "and 3 more"


# ---- decoding


def test_all_gray_stays_gray_and_mixed_becomes_rgb(tmp_path: Path) -> None:
    gray = write(tmp_path / "gray.png", "L", color=70)
    one_bit = write(tmp_path / "bit.png", "1", color=1)
    color = write(tmp_path / "color.png", "RGB", color=(1, 2, 3))
    assert read_images([gray, one_bit]).images[:, :, 0, 0].tolist() == [[70], [255]]
    mixed = read_images([gray, color])
    assert mixed.images[:, :, 0, 0].tolist() == [[70, 70, 70], [1, 2, 3]]
    assert any("1 of 2 images are gray" in note for note in mixed.notes)
    assert read_images([gray, color], channels=1).images.shape == (2, 1, 8, 8)
    assert read_images([gray], channels=3).images.shape == (1, 3, 8, 8)


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    clear = write(tmp_path / "clear.png", "RGBA", color=(255, 0, 0, 0))
    half = write(tmp_path / "half.png", "RGBA", color=(0, 0, 0, 128))
    solid = write(tmp_path / "solid.png", "RGBA", color=(10, 20, 30, 255))
    palette = write(tmp_path / "palette.png", "P", color=0, transparency=0)
    read = read_images([clear, half, solid, palette])
    assert read.images[:, :, 3, 3].tolist() == [[255] * 3, [127] * 3, [10, 20, 30], [255] * 3]
    assert any("transparent" in note for note in read.notes)
    gray = read_images([write(tmp_path / "la.png", "LA", color=(50, 0))])
    assert gray.images.shape == (1, 1, 8, 8)
    assert (gray.images == 255).all()


def test_sixteen_bits_are_scaled_and_floats_refused(tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(deep)
    read = read_images([deep])
    assert read.images.ravel().tolist() == [0, 1, 128, 255]
    assert any("16 bits" in note for note in read.notes)
    with pytest.raises(DataError, match="32-bit"):
        read_images([write(tmp_path / "float.tif", "F", color=0.5)])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation(tmp_path: Path, orientation: int, ending: str) -> None:
    # Seen upright, the top left quarter of every image is white.
    upright = np.zeros((32, 48), dtype=np.uint8)
    upright[:16, :24] = 255
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T, 6: upright.T[::-1],
        7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{ending}"
    Image.fromarray(stored).save(path, exif=exif.tobytes())
    read = read_images([path])
    assert read.images.shape == (1, 1, 32, 48)
    assert np.abs(read.images[0, 0].astype(int) - upright).max() < 20
    assert read.notes == []


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_images([tmp_path / "x.gif"]).images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_mixed_sizes_go_to_the_most_common_or_to_the_one_asked_for(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.png", size=size) for i, size in enumerate([(12, 8), (12, 8), (40, 20), (6, 4)])]
    read = read_images(paths)
    assert read.images.shape == (4, 3, 8, 12)
    assert (read.images == 100).all()
    assert any(note.startswith("2 of 4 images were resized to 8 x 12") and "3 sizes" in note for note in read.notes)
    assert any(note.startswith("1 of 4") and "aspect ratio" in note for note in read.notes)
    assert read_images(paths, size=16).images.shape == (4, 3, 16, 16)


def test_large_jpegs_shrink_as_with_full_decoding(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(300), np.arange(400)) * 255 // 700
    path = tmp_path / "large.jpg"
    Image.fromarray(ramp.astype(np.uint8)).save(path, quality=95)
    with Image.open(path) as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(read_images([path], size=16).images[0, 0].astype(int) - expected).max() <= 3


# ---- files that cannot be read


def test_all_bad_files_are_named_with_reasons(tmp_path: Path, bad: dict[str, Path]) -> None:
    good = write(tmp_path / "good.png")
    with pytest.raises(DataError) as caught:
        read_images([good, *bad.values()])
    message = str(caught.value)
    assert message.startswith("4 of 5 images cannot be read")
    assert "--skip-bad" in message
    for reason, path in bad.items():
        assert any(str(path) in line and reason in line for line in message.splitlines()), (reason, message)


def test_skip_bad_returns_them_instead(tmp_path: Path, bad: dict[str, Path]) -> None:
    paths = [*bad.values(), write(tmp_path / "good.png", color=(9, 9, 9))]
    read = read_images(paths, ids=["a", "b", "c", "d", "e"], skip_bad=True)
    assert read.kept.tolist() == [4]
    assert (read.images == 9).all()
    assert [name for name, _ in read.skipped] == ["a", "b", "c", "d"]


def test_long_lists_are_cut(tmp_path: Path) -> None:
    good = write(tmp_path / "good.png")
    with pytest.raises(DataError, match="and 5 more"):
        read_images([good, *(tmp_path / f"{i}.png" for i in range(25))])


def test_none_readable_is_an_error_even_when_skipping(bad: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="none of the 4 images"):
        read_images(list(bad.values()), skip_bad=True)
    with pytest.raises(DataError, match="no images"):
        read_images([])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["gray", "color", "wide", "truncated", "text"]), min_size=1, max_size=8))
def test_skipping_is_as_if_the_bad_files_were_not_there(tmp_path: Path, kinds: list[str]) -> None:
    files = {
        "gray": write(tmp_path / "gray.png", "L"),
        "color": write(tmp_path / "color.png"),
        "wide": write(tmp_path / "wide.png", "L", size=(20, 10)),
        "truncated": write_noise(tmp_path / "truncated.jpg"),
        "text": tmp_path / "text.png",
    }
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:3000])
    files["text"].write_text("no")
    good = [files[kind] for kind in kinds if kind not in ("truncated", "text")]
    if not good:
        with pytest.raises(DataError):
            read_images([files[kind] for kind in kinds], skip_bad=True)
        return
    skipping, without = read_images([files[kind] for kind in kinds], skip_bad=True), read_images(good)
    np.testing.assert_array_equal(skipping.images, without.images)
    assert skipping.notes == without.notes
    assert [kinds[i] for i in skipping.kept] == [kind for kind in kinds if kind not in ("truncated", "text")]
    assert len(skipping.kept) + len(skipping.skipped) == len(kinds)


@pytest.mark.parametrize(("options", "match"), [({"size": 0}, "size"), ({"channels": 4}, "channel")])
def test_bad_options(tmp_path: Path, options: dict[str, int], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_images([write(tmp_path / "a.png")], **options)  # type: ignore[arg-type]


# ---- memory


def test_memory_map_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    paths = [write(tmp_path / f"{i}.png", color=(i, i, i)) for i in range(40)]
    mapped, plain = read_images(paths, max_memory=100), read_images(paths, max_memory=10**6)
    assert isinstance(mapped.images, np.memmap)
    assert not isinstance(plain.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, plain.images)
    assert list(scratch.iterdir()) == []


def test_full_disk_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match=r"No space left.*TMPDIR"):
        allocate((10, 10), max_memory=10)
    with pytest.raises(DataError, match="No space left"):
        create_array(tmp_path / "a.npy", (10, 10), np.float32)
    assert not list(tmp_path.iterdir())


def test_threads_give_the_same_and_progress_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{i}.png", color=(i, 0, 0)) for i in range(50)]
    serial = read_images(paths, workers=1)
    monkeypatch.setattr("ssl_diffusion.data.images._THREADS_PAY", -1.0)
    seen: list[tuple[int, int]] = []
    threaded = read_images(paths, workers=4, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(serial.images, threaded.images)
    assert serial.images[:, 0, 0, 0].tolist() == list(range(50))
    assert seen[-1] == (50, 50)
    assert seen == sorted(seen)


# ---- streaming


def test_batches_cover_all_files_in_order(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.png", color=(i, i, i), size=(8 + i, 8)) for i in range(10)]
    batches = list(iter_image_batches(paths, (1, 6, 5), 4))
    assert [batch.images.shape for batch in batches] == [(4, 1, 6, 5), (4, 1, 6, 5), (2, 1, 6, 5)]
    assert [name for batch in batches for name in batch.ids] == [str(path) for path in paths]
    assert np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).tolist() == list(range(10))


def test_batches_equal_reading_at_once(tmp_path: Path) -> None:
    paths = [write_noise(tmp_path / f"{i}.jpg", size=(20 + i, 30)) for i in range(7)]
    whole = read_images(paths, size=16)
    np.testing.assert_array_equal(np.concatenate([b.images for b in iter_image_batches(paths, (3, 16, 16), 3)]), whole.images)


def test_batches_skip_bad(tmp_path: Path, bad: dict[str, Path]) -> None:
    paths = [write(tmp_path / "a.png"), *bad.values(), write(tmp_path / "b.png")]
    batches = list(iter_image_batches(paths, (3, 8, 8), 2, skip_bad=True, ids=list("abcdef")))
    assert [batch.ids for batch in batches] == [["a"], [], ["f"]]
    assert [len(batch.images) for batch in batches] == [1, 0, 1]
    assert [name for batch in batches for name, _ in batch.skipped] == ["b", "c", "d", "e"]


def test_batches_stop_naming_all_bad_files_to_come(tmp_path: Path, bad: dict[str, Path]) -> None:
    good = [write(tmp_path / f"{i}.png") for i in range(5)]
    batches = iter_image_batches([*good[:3], bad["truncated"], *good[3:], bad["zero bytes"]], (3, 8, 8), 2)
    assert len(next(batches).images) == 2
    with pytest.raises(DataError, match=r"2 of 7 images") as caught:
        next(batches)
    assert "truncated.jpg" in str(caught.value)
    assert "empty.png" in str(caught.value)


@pytest.mark.parametrize(("shape", "size"), [((2, 8, 8), 4), ((3, 0, 8), 4), ((3, 8, 8), 0)])
def test_batches_refuse_impossible_settings_at_once(shape: tuple[int, int, int], size: int) -> None:
    with pytest.raises(DataError):
        iter_image_batches([], shape, size)


def test_batches_of_nothing() -> None:
    assert list(iter_image_batches([], (3, 8, 8), 4)) == []


def test_batches_can_be_abandoned(tmp_path: Path) -> None:
    batches = iter_image_batches([write(tmp_path / f"{i}.png") for i in range(9)], (3, 8, 8), 2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert list(batches) == []
