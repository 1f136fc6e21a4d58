"""Steps from a time: what is stretched, what the cache decides, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.training import planning
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model, fit_run
from ssl_diffusion.training.phases import training_job
from ssl_diffusion.training.planning import parse_duration, plan_for_time
from ssl_diffusion.training.recipe import Recipe, load_recipe
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.run_folder import load_metrics


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), (" 2M ", 120), ("1m30", 90)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "ten minutes", "10 m", "-5m", "5d", "m", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"10m"):
        parse_duration(text)


@given(st.integers(1, 100_000))
def test_seconds_are_seconds(n: int) -> None:
    assert parse_duration(f"{n}s") == n == parse_duration(str(n))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 0.1 s for a training step, 0.2 s for one of pretraining, and 4 s for the evaluation."""

    def seconds(job: Phase) -> float:
        return 0.2 if job.name == "pretraining" else 0.1

    monkeypatch.setattr(planning, "_seconds_per_step", seconds)
    monkeypatch.setattr(planning, "_seconds_to_evaluate", lambda job, pool: 4.0)
    monkeypatch.setattr(planning, "_SECONDS_TO_START", 0.0)


def plan(recipe: Recipe, pool: Pool, seconds: float, cache: DenoiserCache | None = None) -> tuple[int, int]:
    labeled = choose_labeled(pool, 20, seed=0)
    planned = plan_for_time(recipe, pool, labeled, pool.fingerprint(), seconds, cache)
    return planned.pretraining.steps, planned.training.steps


@pytest.mark.usefixtures("measured")
def test_both_phases_are_stretched_alike(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    recipe = tiny_recipe.with_overrides(["pretraining.steps=100", "training.steps=300"])
    pretraining, training = plan(recipe, digits_pool, 104.0)  # 100 s for what takes 50 s by the recipe
    assert pretraining == pytest.approx(200, abs=2)
    assert training == pytest.approx(600, abs=6)


@pytest.mark.usefixtures("measured")
def test_objectives_with_one_phase_spend_all_on_it(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    labels_only = tiny_recipe.with_overrides(["pretraining.steps=100", "training.steps=300", "training.objective=labels-only"])
    assert plan(labels_only, digits_pool, 104.0) == (100, pytest.approx(1000, abs=10))
    probe = tiny_recipe.with_overrides(["pretraining.steps=100", "training.steps=300", "training.objective=probe"])
    assert plan(probe, digits_pool, 104.0) == (pytest.approx(500, abs=5), 300)


@pytest.mark.usefixtures("measured")
def test_a_long_enough_denoiser_in_the_cache_leaves_the_time_to_the_training(
    tiny_recipe: Recipe, digits_pool: Pool, tmp_path: Path
) -> None:
    cache = DenoiserCache(tmp_path)
    for steps in (2, 4):
        fit_model(
            tiny_recipe.with_overrides([f"pretraining.steps={steps}", "training.objective=denoise-only"]),
            digits_pool,
            None,
            options=FitOptions(cache=cache),
        )
    # 2 s are left, 0.2 s of them for the recipe's one step of pretraining and eight of training: stretched, 2 and 16.
    recipe = tiny_recipe.with_overrides(["pretraining.steps=1", "training.steps=8"])
    assert plan(recipe, digits_pool, 6.0, cache) == (4, pytest.approx(20, abs=1))
    assert plan(recipe, digits_pool, 6.0, None) == (pytest.approx(2, abs=1), pytest.approx(16, abs=1))
    # Longer ones than twice those in the cache are made anew, and so are those of another network.
    assert plan(recipe, digits_pool, 34.0, cache)[0] > 20
    assert plan(recipe.with_setting("model.channels", 12), digits_pool, 6.0, cache)[0] < 4


@pytest.mark.usefixtures("measured")
def test_too_little_time_is_refused_before_anything_is_written(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["labels.budget=20"])
    with pytest.raises(RecipeError, match=r"4 s are too short: reading, measuring, one step and the evaluation take \d+ s"):
        fit_run(recipe, tmp_path / "run", seconds=4.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("measured", "no_pictures")
def test_a_fit_writes_down_the_steps_that_were_planned(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["labels.budget=20", "pretraining.steps=1", "training.steps=4"])
    run = fit_run(recipe, tmp_path / "run", seconds=20.0)
    steps = load_metrics(run)["steps"]
    assert steps > 4
    assert load_recipe(run / "recipe.toml").training.steps == steps


def test_an_hour_on_this_machine_is_longer_than_the_tiny_recipe(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    pretraining, training = plan(tiny_recipe, digits_pool, 3600.0)
    assert pretraining > 4
    assert training > 6


def test_the_measure_stands_a_disturbance(digits_pool: Pool, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [5.0, 6.0, 6.1, 6.2, 6.3, 6.4, 6.5, 16.5, 16.6, 16.7]  # warm-up, then 0.1 s each, but for one of 10 s
    rows = [{"seconds": end} for end in steps]
    monkeypatch.setattr(planning, "train", lambda job: TrainingResult(history=rows))
    job = training_job(tiny_recipe, digits_pool, choose_labeled(digits_pool, 20, seed=0))
    assert planning._seconds_per_step(job) == pytest.approx(0.1)
