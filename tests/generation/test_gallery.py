"""`ssld sample` as a user runs it, and what it and `ssld explain` refuse: nothing is left half-written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, ok, refused, ssld

from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.generation.sampling import sample_run
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.outputs import MANIFEST

FEW = ["--steps", "3", "--quiet", *CPU]


def test_samples_are_images_with_a_table_and_pictures(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "samples"
    values = json.loads(ok("sample", tiny_run, "--n", 6, "--out", out, "--json", *FEW).stdout)
    assert values == {"out": str(out), "images": 6, "doubt": None}
    frame = pd.read_csv(out / "samples.csv", dtype=str)
    assert frame["file"].tolist() == [f"{i:04d}.png" for i in range(6)]
    assert {p.name for p in out.iterdir()} == {*frame["file"], "samples.csv", "samples.png", "denoising.png", MANIFEST}
    first = np.asarray(Image.open(out / "0000.png"))
    assert first.shape == (8, 8)
    np.testing.assert_array_equal(first, sample_run(load_run(tiny_run, "cpu", "fp32"), 6, steps=3)[0, 0])


def test_a_grid_has_every_class_equally_often(tiny_run: Path, tmp_path: Path) -> None:
    ok("sample", tiny_run, "--n", 25, "--grid", "--out", tmp_path / "grid", *FEW)
    frame = pd.read_csv(tmp_path / "grid" / "samples.csv", dtype={"class": str})
    assert frame["class"].tolist() == [str(k) for k in range(10) for _ in range(2)]
    assert frame["probability"].between(0, 1).all()
    ok("sample", tiny_run, "--n", 3, "--class", "7", "--guidance", "representation", "--out", tmp_path / "one", *FEW)
    assert pd.read_csv(tmp_path / "one" / "samples.csv")["class"].tolist() == [7, 7, 7]


def test_samples_repeat_with_their_seed(tiny_run: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        ok("sample", tiny_run, "--n", 2, "--seed", seed, "--sampler", "ddpm", "--out", tmp_path / name, *FEW)
    one, again, two = ((tmp_path / name / "0001.png").read_bytes() for name in ("one", "again", "two"))
    assert one == again
    assert one != two


def test_a_run_without_labels_can_be_sampled_but_not_guided(unlabeled_run: Path, tmp_path: Path) -> None:
    ok("sample", unlabeled_run, "--n", 2, "--out", tmp_path / "samples", *FEW)
    assert "trained without labels" in refused("sample", unlabeled_run, "--class", "3", "--out", tmp_path / "x", *FEW)
    assert "has no classes to explain" in refused("explain", unlabeled_run, "--id", "test/00001", "--out", tmp_path / "x", *CPU)
    assert not (tmp_path / "x").exists()


def test_folders_are_replaced_only_when_asked_and_only_our_own(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples"
    ok("sample", tiny_run, "--n", 2, "--out", out, *FEW)
    assert "--overwrite replaces it" in refused("sample", tiny_run, "--n", 1, "--out", out, *FEW)
    assert len(list(out.glob("0*.png"))) == 2
    ok("sample", tiny_run, "--n", 1, "--out", out, "--overwrite", *FEW)
    assert len(list(out.glob("0*.png"))) == 1
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("text", encoding="utf-8")
    said = refused("explain", tiny_run, "--id", "test/00001", "--out", foreign, "--overwrite", *CPU)
    assert "was not written by this command" in said
    assert (foreign / "chapter.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["samples", "thesis"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "--class", "eleven"], "has no class 'eleven'"),
        (["sample", "--class", "1", "--grid"], "give only one of them"),
        (["sample", "--grid", "--n", "5"], "has 10 classes, --n is 5"),
        (["sample", "--sampler", "huen"], "did you mean heun"),
        (["sample", "--guidance", "pixels"], "not 'pixels'"),
        (["explain"], "no samples to explain"),
        (["explain", "--id", "test/99999"], "has no sample 'test/99999'"),
        (["explain", "--id", "test/00001", "--id", "test/00001"], "given twice"),
        (["explain", "--id", "test/00001", "--target", "coat"], "has no class 'coat'"),
        (["explain", "--id", "test/00001", "--target", "3", "--all-targets"], "give only one of them"),
        (["explain", "--ids", "missing.csv"], "missing.csv"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(tiny_run: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    command, *rest = arguments
    assert said in refused(command, tiny_run, *rest, "--out", tmp_path / "out", *CPU)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--steps", "0"], ["--n", "0"], ["--scale", "-1"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused_and_leave_nothing(tiny_run: Path, tmp_path: Path, option: list[str]) -> None:
    result = ssld("sample", tiny_run, *option, "--out", tmp_path / "out", *CPU)
    assert result.exit_code == 2
    assert option[0] in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_the_prediction_already_is_named(tiny_run: Path, tmp_path: Path) -> None:
    pool, model = load_dataset("digits"), load_run(tiny_run, "cpu", "fp32")
    predicted = model.classes[int(model.predict_proba(pool.images[pool.positions(["test/00007"])]).argmax())]
    said = refused("explain", tiny_run, "--id", "test/00007", "--target", predicted, "--out", tmp_path / "out", *CPU)
    assert f"test/00007 is classified as '{predicted}' already" in said
