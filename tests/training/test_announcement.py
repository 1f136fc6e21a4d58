"""How long a fit will take, said after its first steps."""

import logging

import pytest

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training import announcement
from ssl_diffusion.training.announcement import Announcement, spoken, step_operations
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.clocks import StepClock
from ssl_diffusion.training.phases import pretraining_job, training_job
from ssl_diffusion.training.reading import Reading
from ssl_diffusion.training.recipe import Recipe


@pytest.fixture
def phases(tiny_recipe: Recipe, digits_pool: Pool) -> list[Phase]:
    """A pretraining and a training of 100 steps each."""
    recipe = tiny_recipe.with_overrides(["pretraining.steps=100", "training.steps=100"])
    training = training_job(recipe, digits_pool, choose_labeled(digits_pool, 20, seed=0))
    pretraining = pretraining_job(recipe, training, "pool")
    assert pretraining is not None
    return [pretraining, training]


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine on which a step takes a second on the wall and half a second of processor time."""
    now = {"wall": 0.0, "slowdown": 2.0}

    def read(clock: StepClock, update: ProgressUpdate) -> None:
        now["wall"] += 1.0
        clock.readings.append((now["wall"], now["wall"] / now["slowdown"], now["wall"] / now["slowdown"]))

    monkeypatch.setattr(StepClock, "__call__", read)
    return now


def run(callback: Announcement, task: str, first: int, last: int) -> None:
    for step in range(first, last + 1):
        callback(ProgressUpdate(task, 16 * step, 1600))


def test_the_time_of_both_phases_follows_from_the_first_steps(
    phases: list[Phase], clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(announcement, "step_operations", lambda phase: {"pretraining": 4.0, "training": 2.0}[phase.name])
    shown: list[ProgressUpdate] = []
    callback = Announcement(phases, shown.append)
    callback(ProgressUpdate("reading images", 1, 1))
    run(callback, "pretraining", 1, 20)
    # After eight steps, 92 of a second are left, and 100 of half a second.
    (message,) = caplog.messages
    steps = "100 pretraining steps 2 min, 100 training steps 50 s"
    assert message == f"about 2 minutes on this machine: {steps}; 71 seconds if no other program were running"
    assert len(shown) == 21


def test_a_cached_denoiser_leaves_the_training(
    phases: list[Phase], clocks: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clocks["slowdown"] = 1.0
    run(Announcement(phases, None), "training", 1, 20)
    assert caplog.messages == ["about 2 minutes on this machine: 100 training steps"]


def test_what_a_backbone_reads_is_part_of_it(
    phases: list[Phase], clocks: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clocks["slowdown"] = 1.0
    reading = Reading("quadrants", first=2000, later=1000, per_image=0.02)
    run(Announcement(phases[:1], None, lambda: reading), "pretraining", 1, 20)
    what = "reading 3,000 images with quadrants 60 s, 100 pretraining steps 2 min"
    assert caplog.messages == [f"about 3 minutes on this machine: {what}"]


def test_a_cached_denoiser_leaves_the_reading(
    phases: list[Phase], clocks: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clocks["slowdown"] = 1.0
    callback = Announcement(phases[:1], None)
    for done in range(64, 6401, 64):  # a second for a batch, and 96 batches are left when it speaks
        callback(ProgressUpdate("backbone", done, 6400))
    assert caplog.messages == ["about 2 minutes on this machine: reading 6,400 images with the backbone"]


def test_a_short_fit_says_nothing(phases: list[Phase], clocks: dict[str, float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(Announcement(phases, None), "training", 80, 100)
    assert not caplog.messages


def test_operations_are_those_of_the_batches(phases: list[Phase], tiny_recipe: Recipe, digits_pool: Pool) -> None:
    pretraining, training = phases
    double = tiny_recipe.with_overrides(["training.batch_size=32", "training.labeled_batch_size=32"])
    twice = training_job(double, digits_pool, choose_labeled(digits_pool, 20, seed=0))
    # Both have 16 images for the whole network; the training has 16 more for the encoder.
    assert step_operations(pretraining) < step_operations(training) < 2 * step_operations(pretraining)
    assert step_operations(twice) == pytest.approx(2 * step_operations(training))
    match = training_job(
        tiny_recipe.with_setting("training.consistency", "match"), digits_pool, choose_labeled(digits_pool, 20, seed=0)
    )
    assert step_operations(match) > 1.5 * step_operations(training)


@pytest.mark.parametrize(
    ("seconds", "words"), [(40.4, "40 seconds"), (89.0, "89 seconds"), (840.0, "14 minutes"), (5400.0, "1.5 hours")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words
