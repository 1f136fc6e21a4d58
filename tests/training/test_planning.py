"""Steps from a time: what is stretched, what the cache decides, and what is refused."""

import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import Interrupted, RecipeError
from ssl_diffusion.models.weights import load_tensors
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training import planning
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model, fit_run, resume_run
from ssl_diffusion.training.pace import Pace
from ssl_diffusion.training.planning import ENOUGH_STEPS, LEAST_STEPS, TimePlan, parse_duration, plan_for_time, time_plan
from ssl_diffusion.training.recipe import Recipe, load_recipe
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


PACE = TimePlan.pace


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 0.1 s for a training step, 0.2 s for one of pretraining, and 4 s for the evaluation."""

    def seconds(training: Phase | None, pretraining: Phase | None) -> tuple[float, float, float]:
        return 0.1 if training else 0.0, 0.2 if pretraining else 0.0, 1.0

    monkeypatch.setattr(planning, "_seconds_per_step", seconds)
    monkeypatch.setattr(planning, "_late_seconds_per_step", lambda history: 0.2)
    monkeypatch.setattr(planning, "_seconds_to_evaluate", lambda job, pool: 4.0)
    monkeypatch.setattr(planning, "_SECONDS_TO_START", 0.0)
    monkeypatch.setattr(TimePlan, "pace", lambda plan, name, noted: lambda step, schedule: 0)  # by a clock that is real


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


@pytest.fixture
def little_left(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretraining that leaves the time of ten training steps."""
    original = TimePlan.after_pretraining

    def after_pretraining(plan: TimePlan, history: Sequence[Mapping[str, Any]]) -> Recipe:
        return original(replace(plan, ends=time.monotonic() + plan.reserve + 1.05), history)

    monkeypatch.setattr(TimePlan, "after_pretraining", after_pretraining)


@pytest.mark.usefixtures("little_left", "no_pictures")
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_steps_that_are_planned_again_are_those_of_the_run(interrupted: bool, tiny_recipe: Recipe, tmp_path: Path) -> None:
    def stop(update: ProgressUpdate) -> None:
        if update.task == "training" and update.done > 3 * update.total // 8:
            signal.raise_signal(signal.SIGINT)

    recipe = tiny_recipe.with_overrides(["labels.budget=20", "pretraining.steps=1", "training.steps=40"])
    run = tmp_path / "run"
    if interrupted:
        with pytest.raises(Interrupted):
            fit_run(recipe, run, seconds=40.0, options=FitOptions(progress=stop))
        resume_run(run)
    else:
        fit_run(recipe, run, seconds=40.0)
    plan, kept = json.loads((run / "plan.json").read_text()), load_recipe(run / "recipe.toml")
    assert plan["training_steps"] > 20
    assert kept.training.steps == load_metrics(run)["steps"] == 10
    assert [revision["training_steps"] for revision in plan["revisions"]] == [10]
    # What is written down is what was done: the same weights come out of it without a clock.
    again = fit_run(kept, tmp_path / "again")
    assert not (again / "plan.json").exists()
    assert_same_weights(run, again)


def assert_same_weights(run: Path, other: Path) -> None:
    weights, others = (load_tensors(path / "model.safetensors")[0] for path in (run, other))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture
def slower_and_slower(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take twice as long as planned in the pretraining, and three times in the training, by a clock of their own."""

    def pace(plan: TimePlan, name: str, noted: Any) -> Pace:
        seconds = iter(range(10_000))
        made = PACE(plan, name, noted)
        slow = {"pretraining": 2 * plan.per_pretraining_step, "training": 3 * plan.per_step}[name]
        each = plan.per_pretraining_step * plan.recipe.pretraining.steps + plan.per_step * plan.recipe.training.steps
        return replace(made, ends=each, reserve=0.0, clock=lambda: next(seconds) * slow)

    monkeypatch.setattr(TimePlan, "pace", pace)
    monkeypatch.setattr(TimePlan, "after_pretraining", lambda plan, history: plan.recipe)


@pytest.mark.usefixtures("slower_and_slower", "no_pictures")
@pytest.mark.parametrize("stop_in", ["", "pretraining", "training"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_run_that_was_planned_again_while_it_ran_is_repeated_from_its_recipe(
    stop_in: str, cached: bool, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    """Interrupted after the plan was made or not, with a cache or without."""
    plan_file = tmp_path / "run" / "plan.json"

    def stop(update: ProgressUpdate) -> None:
        if update.task == stop_in and any(r["during"] == stop_in for r in json.loads(plan_file.read_text())["revisions"]):
            signal.raise_signal(signal.SIGINT)

    recipe = tiny_recipe.with_overrides(["labels.budget=20", "pretraining.steps=24", "training.steps=48"])
    cache = DenoiserCache(tmp_path / "cache") if cached else None
    run, options = tmp_path / "run", FitOptions(cache=cache, progress=stop if stop_in else None, checkpoint_every=1e9)
    seconds = 24 * 0.2 + 48 * 0.1 + 4.5  # the recipe's own steps, whatever the tests' machine takes to plan
    if stop_in:
        with pytest.raises(Interrupted, match=f"of {stop_in}; continue"):
            fit_run(recipe, run, seconds=seconds, options=options)
        resume_run(run, options=replace(options, progress=None))
    else:
        fit_run(recipe, run, seconds=seconds, options=options)
    kept, done = load_recipe(run / "recipe.toml"), load_metrics(run)
    assert kept.pretraining.replanned[-1] == done["pretraining"]["steps"] < kept.pretraining.steps
    assert bool(kept.training.replanned) == (stop_in != "pretraining")  # what goes on has no time to be on
    assert done["steps"] == (kept.training.replanned or (kept.training.steps,))[-1]
    noted = [revision["during"] for revision in json.loads(plan_file.read_text())["revisions"]]
    assert noted[0] == "pretraining"
    again = fit_run(kept, tmp_path / "again")
    assert_same_weights(run, again)
    if cache is not None:  # it is found there by the next fit, which would have made the same
        family = fit_run(kept, tmp_path / "from_cache", options=FitOptions(cache=cache))
        assert load_metrics(family)["pretraining"]["cached"]
        assert_same_weights(run, family)
        assert not list(cache.folder.glob("*.partial.*"))


@pytest.mark.usefixtures("measured")
def test_a_denoiser_that_was_planned_again_is_taken_with_its_schedule(
    tiny_recipe: Recipe, digits_pool: Pool, tmp_path: Path
) -> None:
    cache, made = DenoiserCache(tmp_path), {"pretraining.steps": 4, "pretraining.replanned": (2, 8)}
    alone = tiny_recipe.with_settings({**made, "training.objective": "denoise-only"})
    fit_model(alone, digits_pool, None, options=FitOptions(cache=cache))
    recipe = tiny_recipe.with_overrides(["pretraining.steps=1", "training.steps=8"])
    labeled, fingerprint = choose_labeled(digits_pool, 20, seed=0), digits_pool.fingerprint()
    planned = plan_for_time(recipe, digits_pool, labeled, fingerprint, 6.0, cache)
    assert (planned.pretraining.steps, planned.pretraining.replanned) == (4, (2, 8))
    fitted = fit_model(planned, digits_pool, labeled, options=FitOptions(cache=cache))
    assert fitted.pretraining is not None
    assert (fitted.pretraining["cached"], fitted.pretraining["steps"]) == (True, 8)


def test_other_steps_have_another_schedule() -> None:
    recipe = load_recipe("digits").with_settings({"training.steps": 40, "training.replanned": (20, 60)})
    assert recipe.with_setting("training.learning_rate", 0.1).training.replanned == (20, 60)
    assert recipe.with_overrides(["training.steps=40"]).training.replanned == ()


def plan_of(recipe: Recipe, **changes: Any) -> TimePlan:
    facts: dict[str, Any] = {"per_step": 0.1, "per_pretraining_step": 0.2, "reserve": 4.0}
    return TimePlan(recipe, 60.0, **{"ends": time.monotonic() + 14.0, **facts, **changes})


def rows(*seconds_per_step: float) -> list[dict[str, Any]]:
    """The history of a pretraining with rows of ten steps each."""
    ends = np.cumsum(seconds_per_step) * 10
    return [{"step": 10 * (i + 1), "seconds": end} for i, end in enumerate(ends)]


@pytest.mark.parametrize(
    ("history", "steps"),
    [
        ([], 100),  # from the cache: 10 s are left after the evaluation
        (rows(0.2, 0.2, 0.2, 0.2), 100),
        (rows(0.2, 0.2, 0.2, 0.4), 30),  # half as fast in the end: 6 s are left after the evaluation
        (rows(0.4, 0.4, 0.2, 0.1), 240),
        (rows(2.0, 2.0, 2.0, 2.0), 1),
    ],
)
def test_steps_are_planned_again_at_the_pace_of_the_pretraining(
    history: list[dict[str, Any]], steps: int, tiny_recipe: Recipe
) -> None:
    plan = plan_of(tiny_recipe.with_setting("training.steps", 500))
    assert plan.after_pretraining(history).training.steps == pytest.approx(steps, abs=1)
    assert [revision["training_steps"] for revision in plan.revisions] == [pytest.approx(steps, abs=1)]


@pytest.mark.usefixtures("measured")
def test_too_short_for_joint_training_takes_the_probe(
    tiny_recipe: Recipe, digits_pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe.with_overrides(["pretraining.steps=1600", "training.steps=1000", "training.consistency=match"])
    labeled, fingerprint = choose_labeled(digits_pool, 20, seed=0), digits_pool.fingerprint()

    def planned(seconds: float, may_probe: bool = True) -> TimePlan:
        caplog.clear()
        return time_plan(recipe, digits_pool, labeled, fingerprint, seconds, None, may_probe=may_probe)

    # 0.42 s for a training step and its part of the pretraining; 4 s to evaluate.
    short = planned(4 + 0.2 * LEAST_STEPS)
    assert (short.recipe.training.objective, short.recipe.training.consistency) == ("probe", "none")
    assert 25 <= short.recipe.pretraining.steps <= 50
    assert "joint training needs about 2 minutes here, and is better on some data: --time 2m" in caplog.text
    assert short.after_pretraining([]) == short.recipe
    between = planned(4 + 0.3 * ENOUGH_STEPS)
    assert between.recipe.training.objective == "joint"
    assert "with fewer than 200 the probe is often as good: give --time 2m, or use --objective probe" in caplog.text
    assert planned(120.0).recipe.training.steps >= ENOUGH_STEPS
    assert not caplog.text
    asked = planned(4 + 0.2 * LEAST_STEPS, may_probe=False)
    assert asked.recipe.training.objective == "joint"
    assert "--time 2m, or use --objective probe" in caplog.text


def test_a_pretraining_that_took_the_time_leaves_the_probe(tiny_recipe: Recipe) -> None:
    plan = plan_of(tiny_recipe.with_setting("training.steps", 500), may_probe=True)
    assert plan.after_pretraining(rows(0.4, 0.4)).training.objective == "probe"  # 30 steps
    assert plan.revisions[0]["objective"] == "probe"


@pytest.mark.usefixtures("measured", "no_pictures")
def test_a_fit_whose_pretraining_took_the_time_is_a_probe(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TimePlan, "after_pretraining", lambda plan, history: plan.recipe.with_setting("training.objective", "probe")
    )
    recipe = tiny_recipe.with_overrides(["labels.budget=20", "pretraining.steps=1", "training.steps=40"])
    run, probe = fit_run(recipe, tmp_path / "run", seconds=40.0), tmp_path / "probe"
    assert load_metrics(run)["objective"] == "probe"
    assert_same_weights(run, fit_run(load_recipe(run / "recipe.toml"), probe))


def test_a_plan_that_comes_true_is_kept(tiny_recipe: Recipe) -> None:
    for planned in (95, 105):
        plan = plan_of(tiny_recipe.with_setting("training.steps", planned))
        assert plan.after_pretraining(rows(0.2, 0.2, 0.2, 0.2)) == plan.recipe
        assert not plan.revisions
    probe = plan_of(tiny_recipe.with_setting("training.objective", "probe"), per_step=0.0)
    assert probe.after_pretraining([]) == probe.recipe


@pytest.mark.usefixtures("measured")
def test_a_busy_machine_is_a_warning(
    tiny_recipe: Recipe, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan(tiny_recipe, digits_pool, 60.0)
    assert "busy" not in caplog.text
    monkeypatch.setattr(planning, "_seconds_per_step", lambda training, pretraining: (0.3, 0.6, 3.0))
    plan(tiny_recipe, digits_pool, 60.0)
    assert "other programs keep this machine busy: a step takes 3.0 times as long as alone" in caplog.text
