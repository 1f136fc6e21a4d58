"""`ssld fit --resume`: ends like an uninterrupted run, and refuses what has changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, files, ok, refused

from ssl_diffusion.models.weights import load_tensors


def assert_same_result(run: Path, other: Path) -> None:
    """Both runs have the same weights, bit for bit, and the same figures."""
    first, second = (load_tensors(path / "model.safetensors")[0] for path in (run, other))
    assert first.keys() == second.keys()
    assert all(t.equal(second[name]) for name, t in first.items())
    then, now = (json.loads((path / "metrics.json").read_text()) for path in (run, other))
    for name in ("test_accuracy", "test_nll", "test_ece", "val_accuracy", "images_seen"):
        assert now[name] == then[name]


@pytest.mark.usefixtures("no_pictures")
def test_resumed_run_ends_like_the_uninterrupted_one(unfinished: Path, run: Path) -> None:
    ok("fit", "--resume", unfinished, "--no-cache", *CPU)
    assert_same_result(run, unfinished)


@pytest.mark.usefixtures("no_pictures")
def test_the_same_settings_may_be_repeated_on_resume(unfinished: Path, run: Path, tiny: list[str]) -> None:
    recipe = (unfinished / "recipe.toml").read_bytes()
    ok("fit", "--resume", unfinished, "--dataset", "digits", "--labeled", 20, "--val-fraction", 0.5, "--no-cache", *tiny)
    assert_same_result(run, unfinished)
    assert (unfinished / "recipe.toml").read_bytes() == recipe


def test_finished_run_is_not_resumed(run: Path) -> None:
    before = files(run)
    assert f"{run} is finished; use --overwrite" in refused("fit", "--resume", run)
    assert files(run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "7"], "training.steps: 6 -> 7"),
        (["--labeled", "30"], "labels.budget: 20 -> 30"),
        (["--seed", "5", "--set", "model.channels=16"], "model.channels: 8 -> 16; training.seed: 0 -> 5"),
        (["--dataset", "mnist"], "data.dataset: 'digits' -> 'mnist'"),
        (["--out", "elsewhere"], "leave out --out and --overwrite"),
        (["--overwrite"], "leave out --out and --overwrite"),
    ],
)
def test_resume_with_other_settings_names_them(unfinished: Path, arguments: list[str], message: str) -> None:
    before = files(unfinished)
    assert message in refused("fit", "--resume", unfinished, *arguments)
    assert files(unfinished) == before


def test_resume_of_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    assert f"no run folder {tmp_path / 'nowhere'}" in refused("fit", "--resume", tmp_path / "nowhere")
    assert "is not a run folder (it has no recipe.toml)" in refused("fit", "--resume", tmp_path / "album")
    assert files(tmp_path) == {"album": None}


@pytest.mark.parametrize("change", ["label", "fewer", "twice", "unknown id", "role", "columns", "gone"])
def test_resume_with_changed_labels_is_refused(unfinished: Path, change: str) -> None:
    path = unfinished / "labeled.csv"
    frame = pd.read_csv(path, dtype=str)
    if change == "label":
        frame.loc[3, "label"] = str((int(frame.loc[3, "label"]) + 1) % 10)
    elif change == "fewer":
        frame = frame.iloc[:-1]
    elif change == "twice":
        frame = pd.concat([frame, frame.iloc[:1]])
    elif change == "unknown id":
        frame.loc[0, "id"] = "train/99999"
    elif change == "role":
        frame.loc[0, "role"] = "test"
    elif change == "columns":
        frame = frame.rename(columns={"label": "class"})
    frame.to_csv(path, index=False)
    if change == "gone":
        path.unlink()
    before = files(unfinished)
    assert "label" in refused("fit", "--resume", unfinished)
    assert files(unfinished) == before


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("change", ["pixel", "image gone", "class renamed", "folder gone"])
def test_resume_with_a_changed_pool_is_refused(photos: Path, tmp_path: Path, tiny: list[str], change: str) -> None:
    out = tmp_path / "run"
    ok(
        "fit",
        "--data",
        photos,
        "--labeled",
        9,
        "--out",
        out,
        *tiny,
        "--set",
        "pretraining.steps=1",
        "--set",
        "training.steps=1",
    )
    (out / "metrics.json").unlink()
    image = next(photos.rglob("*.png"))
    if change == "pixel":
        pixels = np.asarray(Image.open(image)).copy()
        pixels[0, 0] ^= 64
        Image.fromarray(pixels).save(image)
    elif change == "image gone":
        image.unlink()
    elif change == "class renamed":
        (photos / "2").rename(photos / "two")
    else:
        shutil.rmtree(photos)
    wanted = {"pixel": "fingerprint", "image gone": "n_train: 24 -> 23", "class renamed": "'two'", "folder gone": str(photos)}
    assert wanted[change] in refused("fit", "--resume", out)
    assert not (out / "metrics.json").exists()
