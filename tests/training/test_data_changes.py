"""A folder of images grows: a run goes on being measured on what it never learned from, and says what changed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, ok, refused

Grown = tuple[Path, Path]


def photo(path: Path, seed: int) -> None:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> Grown:
    """A run on 60 photos of three classes, of which --test-fraction holds some out; not to be changed."""
    folder = tmp_path_factory.mktemp("grows")
    for i in range(60):
        photo(folder / "photos" / f"class-{i % 3}" / f"{i:03d}.png", i)
    ok("fit", "--data", folder / "photos", "--test-fraction", 0.3, "--out", folder / "run", "--quiet", *tiny)
    return folder / "photos", folder / "run"


@pytest.fixture
def grown(fitted: Grown, tmp_path: Path) -> Grown:
    """A copy of that run and its photos, which can be changed; the run knows them by their new path."""
    photos, run = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in fitted)
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(fitted[0]), str(photos)), encoding="utf-8")
    return photos, run


def test_an_unchanged_folder_is_evaluated_without_a_word(grown: Grown) -> None:
    assert "have changed" not in ok("evaluate", grown[1], *CPU).stderr


def test_new_images_never_bring_training_labels_into_the_test_split(grown: Grown) -> None:
    photos, run = grown
    for i in range(15):  # sorted before, between and behind the ones that are there
        photo(photos / f"class-{i % 3}" / f"{4 * i:03d}a.png", 1000 + i)
    result = ok("evaluate", run, *CPU)
    assert "the images have changed since" in result.stderr
    assert "training images" in result.stderr
    assert "test images" in result.stderr


@pytest.mark.parametrize("command", [["query", "--n", "1", "--strategy", "random"], ["explain", "--id", "class-0/000.png"]])
def test_queries_and_explanations_say_what_changed(grown: Grown, tmp_path: Path, command: list[str]) -> None:
    photos, run = grown
    photo(photos / "unlabeled" / "new.png", 7)
    result = ok(command[0], run, *command[1:], "--out", tmp_path / "out", *CPU)
    assert "the images have changed since" in result.stderr


def test_images_that_are_gone_are_counted(grown: Grown) -> None:
    photos, run = grown
    gone = pd.read_csv(run / "labeled.csv")["id"][0]
    (photos / gone).unlink()
    said = ok("evaluate", run, *CPU).stderr
    assert "1 of its" in said
    assert gone in said


def move_split(run: Path) -> None:
    """Somebody lays the folder out anew, with a test split that takes samples the run was fitted with."""
    recipe = run / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("test_fraction = 0.3", "test_fraction = 0.6"), encoding="utf-8")


def test_a_training_label_in_the_test_split_is_an_error(grown: Grown, tmp_path: Path) -> None:
    move_split(grown[1])
    for command in (["evaluate"], ["query", "--n", 1, "--strategy", "random"], ["explain", "--id", "class-0/000.png"]):
        said = refused(command[0], grown[1], *command[1:], "--out", tmp_path / "out", *CPU)
        assert "whose labels trained" in said
    assert not (tmp_path / "out").exists()


def rename_class(photos: Path) -> None:
    (photos / "class-0").rename(photos / "a-class")


def add_class(photos: Path) -> None:
    for i in range(12):
        photo(photos / "another" / f"{i}.png", i)


@pytest.mark.parametrize("change", [rename_class, add_class])
def test_classes_are_matched_by_name(grown: Grown, change: Callable[[Path], None]) -> None:
    """A class that sorts first shifts all indices: accuracies would be those of other classes, without a word."""
    photos, run = grown
    change(photos)
    assert "classes that the model does not know" in refused("evaluate", run, *CPU)
