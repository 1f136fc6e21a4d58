"""What the backbone of a fit reads: counted and timed before, taken off the time of a fit, and what it then reads indeed."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backbones import Quadrants, write_photos
from torch import Tensor

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.models import register_backbone
from ssl_diffusion.training import backbones, planning, reading
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_run
from ssl_diffusion.training.phases import training_job
from ssl_diffusion.training.planning import TimePlan, time_plan
from ssl_diffusion.training.reading import Reading, reading_of
from ssl_diffusion.training.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_settings: tuple[str, ...]) -> Recipe:
    """A probe on 30 photos to train and 12 to test; 18 of them are labeled."""
    root = write_photos(tmp_path_factory.mktemp("photos"), 10, 4)
    changes = [f"data.path={root}", "data.size=8", "training.objective=probe", "backbone.name=quadrants", "labels.budget=18"]
    return load_recipe("images").with_overrides([*tiny_settings, *changes])


@pytest.fixture(scope="module", autouse=True)
def _few_weights_are_tried() -> Iterator[None]:
    """Their choice would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_diffusion.models.fusion.WEIGHTS", (0.0, 0.5, 1.0))
        yield


@pytest.fixture(scope="module")
def pool(recipe: Recipe) -> Pool:
    return load_pool(recipe.data)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 0.1 s for an image or a training step, 0.2 s for one of pretraining, and 4 s for the evaluation."""

    def seconds(training: Phase | None, pretraining: Phase | None) -> tuple[float, float, float]:
        return 0.1 if training else 0.0, 0.2 if pretraining else 0.0, 1.0

    monkeypatch.setattr(planning, "_seconds_per_step", seconds)
    monkeypatch.setattr(planning, "_seconds_to_evaluate", lambda job, pool: 4.0)
    monkeypatch.setattr(planning, "_SECONDS_TO_START", 0.0)
    monkeypatch.setattr(reading, "_seconds_per_image", lambda *arguments: 0.1)


def reading_by(recipe: Recipe, pool: Pool, cache: Path | None = None) -> Reading | None:
    labeled = choose_labeled(pool, 18, seed=0)
    return reading_of(recipe, pool, labeled, training_job(recipe, pool, labeled).view, cache)


def planned(recipe: Recipe, pool: Pool, seconds: float, cache: Path | None = None, may_probe: bool = False) -> TimePlan:
    denoisers = DenoiserCache(cache) if cache is not None else None
    labeled = choose_labeled(pool, 18, seed=0)
    return time_plan(recipe, pool, labeled, pool.fingerprint(), seconds, denoisers, may_probe=may_probe)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("objective", "images"), [("probe", 30 + 12), ("joint", 30 + 12 + 7 * 18)])
def test_what_is_counted_is_what_a_fit_reads(objective: str, images: int, recipe: Recipe, pool: Pool, tmp_path: Path) -> None:
    changes = [f"training.objective={objective}", "pretraining.steps=1", "training.steps=1"]
    recipe, denoisers = recipe.with_overrides(changes), DenoiserCache(tmp_path / "cache")
    found = reading_by(recipe, pool, tmp_path / "cache")
    assert found is not None
    assert found.images == images
    before = Quadrants.read
    fit_run(recipe, tmp_path / "run", options=FitOptions(cache=denoisers))
    assert Quadrants.read - before == images
    assert reading_by(recipe, pool, tmp_path / "cache") is None  # the cache has everything


@register_backbone("slow")
class Slow(Quadrants):
    """Five milliseconds of the processor for every image."""

    identity = "slow 24px"

    def features(self, x: Tensor) -> Tensor:
        end = time.thread_time() + 0.005 * len(x)
        while time.thread_time() < end:
            pass
        return super().features(x)


def test_the_time_an_image_is_measured(recipe: Recipe, pool: Pool) -> None:
    found = reading_by(recipe.with_setting("backbone.name", "slow"), pool)
    assert found is not None
    assert 0.005 < found.per_image < 0.02
    assert str(found) == "reading 42 images with slow"


@pytest.mark.usefixtures("measured")
def test_reading_is_taken_off_the_time(recipe: Recipe, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    alone = planned(recipe.with_setting("backbone.name", "none"), pool, 24.2)
    both = planned(recipe, pool, 24.2)
    assert alone.recipe.pretraining.steps == pytest.approx(101, abs=4)
    assert both.recipe.pretraining.steps == pytest.approx(80, abs=4)  # 4.2 s for 42 images
    assert (alone.to_dict()["seconds_to_read"], both.to_dict()["seconds_to_read"]) == (0.0, 4.2)
    assert (both.to_dict()["seconds_to_evaluate"], both.reserve) == (4.0, pytest.approx(5.2))
    steps = both.recipe.pretraining.steps
    assert caplog.messages[-1].startswith(f"24.2 s: reading 42 images with quadrants 4 s, {steps} pretraining steps 1")


@pytest.mark.usefixtures("measured")
def test_joint_training_keeps_time_for_views_and_for_the_test_images(recipe: Recipe, pool: Pool, tmp_path: Path) -> None:
    joint = recipe.with_settings({"training.objective": "joint", "training.steps": 600, "pretraining.steps": 100})
    plan = planned(joint, pool, 60.0, tmp_path)
    assert plan.reserve == pytest.approx(4 + 0.1 * (7 * 18 + 12))  # the probe, of 30 images, comes before
    again = planned(joint, pool, 60.0)  # nothing is kept, and the probe's images are read three times more
    assert again.reserve == pytest.approx(plan.reserve + 0.1 * 3 * 30)
    # Too short for joint training, the probe reads no views.
    short = planned(joint, pool, 24.2, may_probe=True)
    assert short.recipe.training.objective == "probe"
    assert short.to_dict()["seconds_to_read"] == 4.2
    assert short.recipe.pretraining.steps == pytest.approx(80, abs=4)


@pytest.mark.usefixtures("measured")
def test_a_time_too_short_for_reading_is_refused_and_auto_does_without(
    recipe: Recipe, pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RecipeError, match=r"evaluation take \d+ s, 5 s of them reading 42 images with quadrants"):
        planned(recipe, pool, 7.0)
    monkeypatch.setattr(backbones, "_AUTO", "quadrants")
    auto = recipe.with_setting("backbone.name", "auto")
    assert planned(auto, pool, 7.0).recipe.backbone.name == "none"
    assert "reading 42 images with quadrants takes 4 s, so it is left out" in caplog.text
    assert planned(auto, pool, 24.2).to_dict()["seconds_to_read"] == 4.2
