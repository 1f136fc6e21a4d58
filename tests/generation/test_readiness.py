"""A denoiser that has not learned its images says so, wherever it would draw some."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import CPU, ok

from ssl_diffusion.generation import readiness
from ssl_diffusion.generation.readiness import caution_of, doubt_of, stamp
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.training.run_folder import load_metrics

pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the product, which other tests lift for their models of a few steps."""
    monkeypatch.setattr(readiness, "LARGEST_RATIO", 0.85)


@pytest.fixture
def own_tiny_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_fit_keeps_the_errors_of_its_denoiser(tiny_run: Path) -> None:
    found = load_metrics(tiny_run)["denoiser"]
    assert found["ratio"] > 0.85  # of a few steps
    assert len(found["levels"]) == len(found["errors"]) == len(found["linear_errors"]) == 4
    assert found["images_seen"] > 0


def test_samples_and_counterfactuals_of_a_short_fit_are_called_noise(tiny_run: Path, tmp_path: Path) -> None:
    drawn = ok("sample", tiny_run, "--n", 10, "--grid", "--steps", 3, "--out", tmp_path / "s", *CPU)
    assert "draws is noise: its denoiser has seen" in drawn.stderr
    assert "agrees" not in drawn.stdout
    explained = ok("explain", tiny_run, "--id", "test/00005", "--out", tmp_path / "e", "--json", *CPU)
    assert "of that of a linear filter" in json.loads(explained.stdout)["doubt"]
    for picture in (tmp_path / "s" / "samples.png", tmp_path / "e" / "sheet.png"):
        assert np.asarray(Image.open(picture))[0, 0].tolist() == [178, 24, 43]


def rewritten(run: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    metrics = load_metrics(run)
    change(metrics)
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["denoiser"].update(ratio=0.7),
        lambda m: m.update(denoiser=None),
        lambda m: m.pop("denoiser"),
        lambda m: m["denoiser"].update(ratio="low"),
    ],
    ids=["learned", "too few images", "earlier version", "damaged"],
)
def test_nothing_is_said_of_a_good_denoiser_or_one_that_was_not_measured(
    own_tiny_run: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = rewritten(own_tiny_run, change)
    assert doubt_of(load_run(path)) == ""
    said = ok("sample", path, "--n", 10, "--grid", "--steps", 3, "--out", tmp_path / "s", *CPU)
    assert "noise" not in said.stderr
    assert "agrees" in said.stdout


@pytest.mark.parametrize(("channels", "ratio", "said"), [(3, 0.75, True), (3, 0.6, False), (3, 1.2, False), (1, 0.75, False)])
def test_of_color_photos_less_is_promised(own_tiny_run: Path, channels: int, ratio: float, said: bool) -> None:
    """No object could be named in samples of CIFAR-10 at a ratio at which gray clothes are recognised."""
    path = rewritten(own_tiny_run, lambda m: m.update(denoiser={"ratio": ratio, "images_seen": 10_000}))
    run = load_run(path)
    object.__setattr__(run.model.config, "image_shape", (channels, 8, 8))
    found = caution_of(run)
    assert ("not yet their objects" in found) == said
    assert bool(doubt_of(run)) == (ratio > 0.85)  # which says more


def test_the_advice_has_a_time_where_few_images_were_seen(own_tiny_run: Path) -> None:
    path = rewritten(own_tiny_run, lambda m: m.update(images_per_second=100.0, denoiser={"ratio": 1.2, "images_seen": 10_000}))
    assert doubt_of(load_run(path)).endswith("(--pretrain-steps) or --time: about 5 min more")
    rewritten(path, lambda m: m["denoiser"].update(images_per_second=500.0))  # without what other programs took
    assert doubt_of(load_run(path)).endswith("(--pretrain-steps) or --time: about 60 s more")
    rewritten(path, lambda m: m["denoiser"].update(images_seen=90_000))
    assert doubt_of(load_run(path)).endswith("or --time")


def test_a_stamp_stands_above_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (300, 40), 77).save(path)
    stamp(path, "noise")
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (62, 300, 3)
    assert (pixels[22:] == 77).all()
    assert (pixels[:22] == 255).all(axis=2).any()  # white letters
