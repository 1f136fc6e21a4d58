"""Where explanations may change an image, several of them for one image, and films of the change."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, ok, refused

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError
from ssl_diffusion.generation import explain_run, write_explanations
from ssl_diffusion.generation.animations import write_animation
from ssl_diffusion.generation.original_size import read_pixels
from ssl_diffusion.generation.regions import region_mask, region_of, seen_region
from ssl_diffusion.inference import load_run

ID = "test/00003"


def changed(folder: Path, file: str, original: np.ndarray) -> np.ndarray:
    """Which pixels of a picture differ from its original."""
    return (read_pixels(folder / file, len(original)) != original).any(axis=0)


@pytest.mark.parametrize("kind", ["rectangle", "mask"])
def test_nothing_changes_outside_of_a_region(tiny_run: Path, digits_pool: Pool, tmp_path: Path, kind: str) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[1:7, 2:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    region = "2,1,5,6" if kind == "rectangle" else tmp_path / "mask.png"
    ok("explain", tiny_run, "--id", ID, "--region", region, "--out", tmp_path / "out", "--quiet", *CPU)
    frame = pd.read_csv(tmp_path / "out" / "counterfactuals.csv")
    original = digits_pool.images[digits_pool.positions([ID])[0]]
    for name in (frame["file"][0], frame["boundary_file"][0]):
        there = changed(tmp_path / "out", name, original)
        assert there[mask > 0].any()
        assert not there[mask == 0].any()


def test_a_region_holds_in_the_pixels_of_a_larger_file(tiny_run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    at = digits_pool.positions([ID])
    file = tmp_path / "photo.png"
    Image.fromarray(digits_pool.images[at[0], 0]).resize((60, 60), Image.Resampling.BICUBIC).save(file)
    pool = replace(
        digits_pool, **{name: getattr(digits_pool, name)[at] for name in ("images", "ids", "labels", "is_test")}, files=[file]
    )
    run = load_run(tiny_run, "cpu", "fp32")
    frame, _ = write_explanations(run, pool, [ID], tmp_path / "out", region="11,0,37,60")
    there = changed(tmp_path / "out", frame["file"][0], read_pixels(file, 1))
    assert there[:, 11:48].any()
    assert not there[:, :11].any()
    assert not there[:, 48:].any()
    with pytest.raises(DataError, match="which is 60 pixels wide and 60 high"):
        write_explanations(run, pool, [ID], tmp_path / "more", region="30,0,37,60")
    assert not (tmp_path / "more").exists()


def test_a_second_counterfactual_changes_other_pixels(tiny_run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    ids = [ID, "test/00012"]
    chosen = [word for id_ in ids for word in ("--id", id_)]
    ok("explain", tiny_run, *chosen, "--n", 2, "--out", tmp_path / "two", "--quiet", *CPU)
    frame = pd.read_csv(tmp_path / "two" / "counterfactuals.csv", keep_default_na=False)
    assert frame["id"].tolist() == [ids[0], ids[0], ids[1], ids[1]]
    assert frame["number"].tolist() == [1, 2, 1, 2]
    assert frame.loc[::2, "target"].tolist() == frame.loc[1::2, "target"].tolist()
    shown = frame["file"].where(frame["file"] != "", frame["boundary_file"])  # where no sure one was found
    assert shown.is_unique
    for id_ in ids:
        original = digits_pool.images[digits_pool.positions([id_])[0]]
        one, two = (changed(tmp_path / "two", name, original) for name in shown[frame["id"] == id_])
        assert one.any()
        assert two.any()
        assert not (one & two).any()


def test_a_film_begins_with_the_image_and_ends_with_its_counterfactual(tmp_path: Path) -> None:
    stations = [np.full((1, 8, 8), value, dtype=np.uint8) for value in (0, 100, 250)]
    write_animation(stations, ("ant", "bee"), tmp_path / "film.webp")
    with Image.open(tmp_path / "film.webp") as film:
        assert film.n_frames == 40  # forth and back
        middle = []
        for frame in range(film.n_frames):
            film.seek(frame)
            middle.append(film.convert("RGB").getpixel((90, 104))[0])
        durations = [film.info["duration"]]
    assert (middle[0], middle[10], middle[20]) == (0, 100, 250)
    assert middle[:21] == sorted(middle[:21])
    assert middle[21:] == middle[19:0:-1]
    assert durations[0] < 100


def test_films_are_written_of_what_succeeded(tiny_run: Path, tmp_path: Path) -> None:
    ok("explain", tiny_run, "--id", ID, "--id", "test/00012", "--animation", "--out", tmp_path / "out", "--quiet", *CPU)
    frame = pd.read_csv(tmp_path / "out" / "counterfactuals.csv", keep_default_na=False)
    assert (frame["animation"] != "").tolist() == frame["success"].tolist()
    assert frame["success"].any()
    written = {path.name for path in (tmp_path / "out").glob("*.webp")}
    assert written == set(frame["animation"]) - {""}


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ("1,2,3", "a region is four numbers x,y,w,h in pixels"),
        ("1,2,0,4", "at least one pixel wide"),
        ("-1,0,4,4", "begins at 0 or later"),
        ("4,0,5,8", "reaches beyond test/00003, which is 8 pixels wide and 8 high"),
        ("nowhere.png", "x,y,w,h in pixels, or an image file that is white where something may change: nowhere.png"),
        ("{folder}", "is a folder"),
        ("{folder}/black.png", "has no white pixel"),
        ("{folder}/large.png", "has 20 x 20 pixels and test/00003 8 x 8"),
        ("{folder}/text.png", "cannot be read"),
    ],
)
def test_bad_regions_are_refused_and_leave_nothing(tiny_run: Path, tmp_path: Path, region: str, said: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("text", encoding="utf-8")
    region = region.format(folder=tmp_path)
    assert said in refused("explain", tiny_run, "--id", ID, f"--region={region}", "--out", tmp_path / "out", *CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("region", "said"),
    [
        (np.ones((8, 7), dtype=np.float32), "a region has the shape (8, 8) of the images, or (2, 8, 8)"),
        (np.full((8, 8), 1.5, dtype=np.float32), "values from 0 (nothing changes) to 1"),
        (np.full((8, 8), np.nan, dtype=np.float32), "values from 0 (nothing changes) to 1"),
    ],
)
def test_bad_arrays_are_refused(tiny_run: Path, digits_pool: Pool, region: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        explain_run(load_run(tiny_run, "cpu", "fp32"), digits_pool.images[:2], region=region)


def test_where_nothing_may_change_nothing_is_found(tiny_run: Path, digits_pool: Pool) -> None:
    found = explain_run(load_run(tiny_run, "cpu", "fp32"), digits_pool.images[:2], region=np.zeros((8, 8), dtype=np.float32))
    assert not found.success.any()
    np.testing.assert_array_equal(found.images(), found.original)


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [
        ("squeeze", [[0, 0.5, 1, 1]] * 4),
        ("crop", [[0, 1, 1, 1]] * 4),
        ("pad", [[0] * 4, [0, 0.5, 1, 1], [0, 0.5, 1, 1], [0] * 4]),
    ],
)
def test_the_region_in_what_the_model_sees(aspect: Aspect, expected: list[list[float]]) -> None:
    mask = region_mask(region_of("24,0,40,32"), (32, 64), "a photo")
    np.testing.assert_allclose(seen_region(mask, (4, 4), aspect), expected)
