"""`ssld explain` as a user runs it: a table and pictures in which a person sees the change, at the size of the file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, ok

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.explanations import write_explanations
from ssl_diffusion.generation.original_size import read_pixels
from ssl_diffusion.inference import predict_files
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.outputs import MANIFEST

IDS = ["test/00003", "test/00012", "test/00020"]
FILES = ("boundary_file", "file")


@pytest.fixture(scope="module")
def explained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Explanations of three digits with the defaults of the command line; not to be changed."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "ids.csv").write_text("id,why\n" + "".join(f"{i},unsure\n" for i in IDS), encoding="utf-8")
    said = ok("explain", tiny_run, "--ids", folder / "ids.csv", "--out", folder / "out", "--json", *CPU).stdout
    (folder / "said.json").write_text(said, encoding="utf-8")
    return folder / "out"


def pictures(frame: pd.DataFrame) -> set[str]:
    return {*frame["file"], *frame["boundary_file"], *frame["strip"]}


def test_explanations_are_images_with_a_table_and_pictures(tiny_run: Path, explained: Path) -> None:
    frame = pd.read_csv(explained / "counterfactuals.csv", dtype={"source": str, "target": str})
    values = json.loads((explained.parent / "said.json").read_text(encoding="utf-8"))
    assert frame["id"].tolist() == IDS == [row["id"] for row in values["counterfactuals"]]
    others = {"counterfactuals.csv", "sheet.png", "distances.png", MANIFEST}
    assert {p.name for p in explained.iterdir()} == pictures(frame) | others
    assert len(pictures(frame)) == 9
    pool, model = load_dataset("digits"), load_run(tiny_run, "cpu", "fp32")
    original = pool.images[pool.positions(IDS)]
    assert [model.classes[k] for k in model.predict_proba(original).argmax(axis=1)] == frame["source"].tolist()
    for kind, success, least in (("file", "success", 0.9), ("boundary_file", "boundary_success", 0.0)):
        p = model.predict_proba(np.stack([read_pixels(explained / name, 1) for name in frame[kind]]))
        targets = [model.classes.index(name) for name in frame["target"]]
        reached = (p.argmax(axis=1) == targets) & (p[np.arange(3), targets] >= least)
        assert reached.tolist() == frame[success].tolist()
        assert frame[success].any()
    assert (frame["distance_pixel"] > frame["boundary_distance"]).all()


def test_a_strip_shows_original_boundary_and_sure_one_in_their_pixels(explained: Path) -> None:
    pool = load_dataset("digits")
    for row in pd.read_csv(explained / "counterfactuals.csv").to_dict(orient="records"):
        shown = np.asarray(Image.open(explained / row["strip"]))[26:-8]
        images = [pool.images[pool.positions([row["id"]])[0], 0], *(Image.open(explained / row[f]) for f in FILES)]
        for i, image in enumerate(images):
            left = 8 + 176 * i
            np.testing.assert_array_equal(shown[::21, left : left + 168 : 21, 0], np.asarray(image))
        red, _, blue = shown[:, 8 + 176 * 3 : -8].astype(int).transpose(2, 0, 1)
        changed = np.asarray(images[2]).astype(int) - images[0]
        colored = (red - blue)[::21, ::21]
        assert (np.abs(colored[changed == 0]) < 3).all()  # white
        assert (np.sign(colored) == np.sign(changed))[np.abs(changed) > 1].all()
        assert (np.abs(colored) > 60).any()  # which a person sees


def test_without_confidence_there_is_the_boundary_alone(tiny_run: Path, explained: Path, tmp_path: Path) -> None:
    out = tmp_path / "edge"
    said = ok("explain", tiny_run, "--id", IDS[0], "--confidence", 0, "--out", out, "--quiet", *CPU).stdout
    frame = pd.read_csv(out / "counterfactuals.csv")
    assert frame["boundary_file"].tolist() == frame["file"].tolist()
    before = pd.read_csv(explained / "counterfactuals.csv")
    assert frame["distance_pixel"][0] == frame["boundary_distance"][0] == pytest.approx(before["boundary_distance"][0])
    one, two = (np.asarray(Image.open(p)) for p in (out / frame["file"][0], explained / before["boundary_file"][0]))
    np.testing.assert_array_equal(one, two)
    assert Image.open(out / frame["strip"][0]).width == 3 * 176 + 8
    assert "probability" not in said


@pytest.mark.parametrize(("confidence", "region"), [(1 - 1e-7, None), (0.9, "0,0,1,1"), (0.0, "0,0,1,1")])
def test_what_failed_is_said_and_never_shown(tiny_run: Path, tmp_path: Path, confidence: float, region: str | None) -> None:
    """The surest attempt of a search that failed looks like noise, or like nothing."""
    run, pool = load_run(tiny_run, "cpu", "fp32"), load_dataset("digits")
    frame, result = write_explanations(run, pool, IDS, tmp_path / "out", confidence=confidence, region=region)
    assert not result.success.any()
    assert frame["file"].tolist() == [""] * 3
    assert (frame["boundary_file"] != "").tolist() == frame["boundary_success"].tolist() == [region is None] * 3
    assert {p.name for p in (tmp_path / "out").glob("*_to_*.png")} == {*frame["boundary_file"], *frame["strip"]} - {""}
    for row in frame.to_dict(orient="records"):
        image = pool.images[pool.positions([row["id"]])[0]]
        shown = np.asarray(Image.open(tmp_path / "out" / row["strip"]))[26:-8]
        assert (shown[:, -176 - 168 : -176 - 8] == 236).all()  # nothing in the place of the counterfactual
        change = shown[::21, -8 - 168 : -8 : 21].astype(int)
        changed = np.zeros((8, 8), dtype=bool)
        if row["boundary_file"]:
            changed = np.asarray(Image.open(tmp_path / "out" / row["boundary_file"])) != image[0]
        assert ((np.ptp(change, axis=2) > 3) == changed).mean() > 0.9  # that of the boundary, or white
        assert changed.any() == bool(row["boundary_file"])


def test_every_target_and_the_nearest(tiny_run: Path, tmp_path: Path) -> None:
    ok("explain", tiny_run, "--id", "test/00005", "--all-targets", "--out", tmp_path / "all", "--quiet", *CPU)
    every = pd.read_csv(tmp_path / "all" / "counterfactuals.csv")
    assert len(every) == 9
    ok("explain", tiny_run, "--id", "test/00005", "--target", "nearest", "--out", tmp_path / "one", "--quiet", *CPU)
    nearest = pd.read_csv(tmp_path / "one" / "counterfactuals.csv")
    assert len(nearest) == 1
    valid = every[every["boundary_success"]]
    assert nearest["boundary_distance"][0] == pytest.approx(valid["boundary_distance"].min(), rel=0.02)


def files_of(pool: Pool, ids: list[str], folder: Path, size: tuple[int, int]) -> Pool:
    """A part of a pool, whose images come from files of this width and height."""
    part = pool.positions(ids)
    paths = [folder / f"{i}.png" for i in range(len(ids))]
    for path, image in zip(paths, pool.images[part], strict=True):
        Image.fromarray(image[0]).resize(size, Image.Resampling.BICUBIC).save(path)
    return replace(
        pool, images=pool.images[part], ids=pool.ids[part], labels=pool.labels[part], is_test=pool.is_test[part], files=paths
    )


def test_pictures_have_the_size_of_the_files_and_are_what_they_are_said_to_be(tiny_run: Path, tmp_path: Path) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    pool = files_of(load_dataset("digits"), IDS, tmp_path, (64, 48))
    frame, result = write_explanations(run, pool, IDS, tmp_path / "out")
    assert result.success.any()
    for kind in FILES:
        assert {Image.open(tmp_path / "out" / name).size for name in frame[kind] if name} == {(64, 48)}
    assert {Image.open(tmp_path / "out" / name).size for name in frame["strip"]} == {(4 * (192 + 8) + 8, 18 + 144 + 16)}
    assert (frame["strength"] >= 1).all()
    assert (frame["file"] != "").tolist() == frame["verified"].tolist()  # what failed there has no picture
    there = frame[frame["verified"]].reset_index(drop=True)
    predict_files(run, [tmp_path / "out" / name for name in there["file"]], tmp_path / "p.csv")
    said = pd.read_csv(tmp_path / "p.csv", dtype={"label": str})
    assert ((said["label"] == there["target"]) & (said["probability"] >= 0.9)).all()
    assert frame["verified"].sum() >= result.success.sum() - 1


def test_files_of_the_size_of_the_model_are_not_resampled(tiny_run: Path, explained: Path, tmp_path: Path) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    pool = files_of(load_dataset("digits"), IDS[:1], tmp_path, (8, 8))
    frame, _ = write_explanations(run, pool, IDS[:1], tmp_path / "out")
    assert "strength" not in frame
    name = frame["file"][0]
    np.testing.assert_array_equal(*(np.asarray(Image.open(folder / name)) for folder in (tmp_path / "out", explained)))


def test_a_file_that_is_damaged_since_is_named(tiny_run: Path, tmp_path: Path) -> None:
    run = load_run(tiny_run, "cpu", "fp32")
    pool = files_of(load_dataset("digits"), IDS[:1], tmp_path, (64, 64))
    path = tmp_path / "0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"0\.png cannot be read: "):
        write_explanations(run, pool, IDS[:1], tmp_path / "out")
    assert not (tmp_path / "out").exists()
