"""What tells two classes apart, on one page, as `ssld explain --between` writes it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, ok, refused

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation import class_pairs
from ssl_diffusion.generation.class_pairs import class_pair, prototypes
from ssl_diffusion.generation.figures import ClassChange, class_pair_figure
from ssl_diffusion.generation.original_size import read_pixels
from ssl_diffusion.generation.strips import Panel
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.outputs import MANIFEST
from ssl_diffusion.training.run_folder import RunFolder

N = 3  # prototypes, instead of ten


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run, "cpu", "fp32")


@pytest.fixture(scope="module")
def pool() -> Pool:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def pair(run: Run, pool: Pool) -> tuple[str, str]:
    """The two classes of which the run of a few steps knows most."""
    right = run.predict_proba(pool.images[pool.test]).argmax(axis=1) == pool.labels[pool.test]
    first, second = np.bincount(pool.labels[pool.test][right], minlength=10).argsort()[::-1][:2]
    return pool.classes[first], pool.classes[second]


@pytest.fixture(scope="module")
def page(tiny_run: Path, pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ClassChange]]:
    """A folder that the command has written, and what stands on its page."""
    out, drawn = tmp_path_factory.mktemp("page") / "out", []

    def drawing(changes: list[ClassChange]) -> object:
        drawn.extend(changes)
        return class_pair_figure(changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_pairs, "class_pair_figure", drawing)
        patch.setattr(class_pairs, "_PROTOTYPES", N)
        patch.setattr("ssl_diffusion.generation.readiness.LARGEST_RATIO", 0.85)  # that of the product
        said = ok("explain", tiny_run, "--between", ",".join(pair), "--confidence", 0, "--out", out, *CPU)
    assert "between.png" in said.stdout
    assert "draws is noise" in said.stderr
    return out, drawn


def test_a_page_has_prototypes_of_each_class_in_the_other(
    page: tuple[Path, list[ClassChange]], pair: tuple[str, str], run: Run, pool: Pool
) -> None:
    out, _ = page
    frame = pd.read_csv(out / "counterfactuals.csv", dtype={"source": str, "target": str})
    assert frame["source"].tolist() == [pair[0]] * N + [pair[1]] * N
    assert frame["target"].tolist() == [pair[1]] * N + [pair[0]] * N
    assert [pool.classes[k] for k in pool.labels[pool.positions(frame["id"])]] == frame["source"].tolist()
    assert {p.name for p in out.iterdir()} >= {"between.png", "sheet.png", MANIFEST, *frame["file"], *frame["strip"]}
    assert np.asarray(Image.open(out / "between.png"))[0, 0].tolist() == [178, 24, 43]  # what a run of few steps draws is noise
    chosen = np.concatenate(prototypes(run, pool, pair, N))
    assert pool.ids[chosen].tolist() == frame["id"].tolist()


def test_the_mean_change_is_that_of_the_pictures_that_reached_the_other_class(
    page: tuple[Path, list[ClassChange]], pool: Pool
) -> None:
    out, changes = page
    frame = pd.read_csv(out / "counterfactuals.csv")
    original = pool.images[pool.positions(frame["id"])].astype(float)
    found = np.stack([read_pixels(out / name, 1) for name in frame["file"]])
    for change, rows in zip(changes, (slice(0, N), slice(N, None)), strict=True):
        reached = frame["success"].to_numpy()[rows]
        assert reached.any()
        wanted = (found[rows] - original[rows])[reached].mean(axis=0) / 255
        assert change.mean is not None
        np.testing.assert_allclose(change.mean, wanted, atol=1e-6)
        assert [panels[-2].image.tolist() for panels in change.panels] == found[rows].tolist()


def test_prototypes_are_known_and_right_and_the_nearest_to_the_mean_of_their_class(
    run: Run, pool: Pool, pair: tuple[str, str]
) -> None:
    k = pool.classes.index(pair[0])
    known = pool.is_test | np.isin(pool.ids, RunFolder(run.path).used_ids())
    every = np.flatnonzero(known & (pool.labels == k))
    every = every[run.predict_proba(pool.images[every]).argmax(axis=1) == k]
    (chosen,) = prototypes(run, pool, pair[:1], 10)
    assert set(chosen) <= set(every)
    assert len(set(chosen)) == 10
    z = run.represent(pool.images[every])
    distance = dict(zip(every.tolist(), np.linalg.norm(z - z.mean(axis=0), axis=1), strict=True))
    assert sum(distance[i] for i in chosen) == pytest.approx(sum(sorted(distance.values())[:10]))


def test_a_class_without_ten_right_images_is_named(run: Run, pool: Pool, pair: tuple[str, str], tmp_path: Path) -> None:
    k = pool.classes.index(pair[1])
    few = np.flatnonzero(pool.labels == k)[9:]
    fewer = replace(pool, labels=np.where(np.isin(np.arange(len(pool)), few), -1, pool.labels))
    with pytest.raises(class_pairs.DataError, match=rf"of '{pair[1]}' .* has \d whose label is known"):
        class_pairs.write_class_pair(run, fewer, pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--between", "3,eight"], "has no class 'eight'; known: 0, 1"),
        (["--between", "3,3"], "'3' is named twice: name two different classes"),
        (["--between", "3"], "name two classes, separated by a comma, as in 0,1: not '3'"),
        (["--between", ""], "name two classes, separated by a comma"),
        (["--between", "3,8,9"], "has no class '8,9'"),
        (["--between", "3,8", "--id", "test/00003"], "--between chooses images and targets itself"),
        (["--between", "3,8", "--n", "2"], "--between chooses images and targets itself"),
        (["--between", "3,8", "--region", "0,0,2,2"], "--between chooses images and targets itself"),
    ],
)
def test_what_names_no_two_classes_is_refused(tiny_run: Path, tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refused("explain", tiny_run, *options, "--out", tmp_path / "out", *CPU)
    assert not (tmp_path / "out").exists()


def test_names_of_classes_may_have_commas(run: Run) -> None:
    named = replace(run, classes=("red, round", "red", "round", *run.classes[3:]))
    assert class_pair(named, "red, round,red") == ("red, round", "red")
    assert class_pair(named, "red, round") == ("red", "round")


def test_a_page_without_any_success_has_no_mean() -> None:
    image = np.zeros((1, 8, 8), dtype=np.uint8)
    panels = [[Panel(image, "ant"), Panel(image, "not bee 0.10"), Panel(np.repeat(image, 3, axis=0), "change")]]
    mean = np.zeros((1, 8, 8), dtype=np.float32)
    texts = []
    for each in (mean, None):
        figure = class_pair_figure([ClassChange("ant", "bee", panels, each)])
        texts.append({text.get_text() for text in figure.axes[0].texts})
    assert "mean change" in texts[0]
    assert "none reached it" in texts[1]
