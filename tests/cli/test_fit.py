"""Ways to use `ssld fit`: by time, by preset, as a probe, with pseudo-labels, without labels for some class."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import CPU, ok, refused, write_digits

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.models.weights import load_tensors
from ssl_diffusion.training import planning
from ssl_diffusion.training.recipe import load_recipe, recipe_for

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def tiny(tiny_settings: tuple[str, ...]) -> list[str]:
    """Options of a run of a fraction of a second, on a denoiser that no other module finds in the cache."""
    return [word for setting in (*tiny_settings, "pretraining.seed=1") for word in ("--set", setting)]


def fit(*arguments: object) -> dict[str, object]:
    printed: dict[str, object] = json.loads(ok("fit", "--dataset", "digits", "--labeled", 20, *arguments, "--json").stdout)
    return printed


def test_a_probe_predicts_like_any_run(tmp_path: Path, tiny: list[str], digits_pool: Pool) -> None:
    out = tmp_path / "run"
    printed = fit("--objective", "probe", "--out", out, *tiny)
    assert (printed["steps"], printed["objective"]) == (0, "probe")
    assert ok("evaluate", out, *CPU, "--json")
    again = json.loads(ok("evaluate", out, *CPU, "--json").stdout)
    assert again["accuracy"] == pytest.approx(printed["test_accuracy"])


def test_pseudo_labels_are_in_the_history_and_in_the_name(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = fit("--consistency", "match", "--set", "training.unlabeled_batch_size=16", *tiny)
    assert printed["run"] == "runs/digits-20-match-s0"
    history = pd.read_csv(tmp_path / "runs" / "digits-20-match-s0" / "history.csv")
    training = history[history["phase"] == "training"]
    assert training["mask_rate"].between(0, 1).all()
    assert training["consistency_loss"].notna().all()
    assert history.loc[history["phase"] == "pretraining", "mask_rate"].isna().all()


def keep_to_a_plan_of_slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 100 s are planned; what they really take, a few milliseconds, does not change the plan."""
    monkeypatch.setattr(planning, "_seconds_per_step", lambda training, pretraining: (100.0, 100.0, 1.0))
    monkeypatch.setattr(planning.TimePlan, "after_pretraining", lambda plan, history: plan.recipe)
    monkeypatch.setattr(planning.TimePlan, "pace", lambda plan, name, noted: lambda step, schedule: 0)


def test_time_chooses_the_steps(tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    keep_to_a_plan_of_slow_steps(monkeypatch)
    out = tmp_path / "run"
    fit("--time", "1h", "--out", out, *tiny)  # the recipe's 4 + 6 steps would take 1,000 s
    recipe = load_recipe(out / "recipe.toml")
    assert (recipe.pretraining.steps, recipe.training.steps) == (14, 21)


@pytest.mark.parametrize("asked", [[], ["--objective", "joint"], ["--set", "training.consistency=none"]])
def test_too_little_time_takes_the_probe_unless_joint_training_is_asked_for(
    asked: list[str], tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_to_a_plan_of_slow_steps(monkeypatch)
    for name in ("LEAST_STEPS", "ENOUGH_STEPS"):
        monkeypatch.setattr(planning, name, 5)
    printed = fit("--time", "10m", "--no-cache", "--out", tmp_path / "run", *tiny, *asked)  # 3 of the recipe's 6 training steps
    assert (printed["objective"], printed["steps"]) == (("joint", 3) if asked else ("probe", 0))
    assert load_recipe(tmp_path / "run" / "recipe.toml").training.objective == printed["objective"]


def test_unlabeled_images_of_another_folder(tmp_path: Path, tiny: list[str], digits_pool: Pool) -> None:
    write_digits(tmp_path / "labeled", digits_pool, range(60))
    write_digits(tmp_path / "other", digits_pool, range(60, 90))
    write_digits(tmp_path / "other" / "test", digits_pool, range(90, 110))
    run = tmp_path / "run"
    data = ("--data", tmp_path / "labeled", "--unlabeled", tmp_path / "other", "--recipe", "digits")
    ok("fit", *data, "--no-cache", "--out", run, *tiny)
    facts = json.loads((run / "pool.json").read_text())
    assert (facts["n_train"], facts["n_test"]) == (90, 20)
    assert load_recipe(run / "recipe.toml").data.unlabeled == str(tmp_path / "other")
    assert len(pd.read_csv(run / "labeled.csv")) == 60
    again = ok("evaluate", run, *CPU)
    assert "changed" not in again.stderr
    ok("query", run, "--n", 3, "--out", tmp_path / "batch.csv", *CPU)
    chosen = pd.read_csv(tmp_path / "batch.csv")["id"]
    assert chosen.str.startswith("unlabeled:").all()
    assert not chosen.str.startswith("unlabeled:test/").any()
    weights = load_tensors(run / "model.safetensors")[0]
    (run / "metrics.json").unlink()  # as if the run had been stopped
    ok("fit", "--resume", run)
    resumed = load_tensors(run / "model.safetensors")[0]
    assert all(tensor.equal(resumed[name]) for name, tensor in weights.items())
    assert "among those of --data" in refused(
        "fit", "--data", tmp_path / "labeled", "--unlabeled", tmp_path / "labeled", "--out", tmp_path / "none"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "soon"], "a time is given as 90s, 10m, 1.5h or 1h30m, not 'soon'"),
        (["--time", "10m", "--steps", "5"], "--time determines the steps: leave out --steps"),
        (["--time", "10m", "--pretrain-steps", "5"], "--time determines the steps: leave out --steps"),
        (["--preset", "paper"], "no preset 'paper' for digits; it has none"),
        (["--preset", "quick", "--recipe", "digits"], "either --recipe or --preset, not both"),
        (["--consistency", "mach"], "--consistency cannot be 'mach'; did you mean match"),
        (["--consistency", "match", "--objective", "probe"], "consistency 'match' needs training steps"),
        (["--objective", "probe", "--pretrain-steps", "0"], "objective 'probe' needs the pretraining phase"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in refused("fit", "--dataset", "digits", "--labeled", "20", *arguments, "--out", tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_run_that_is_continued_keeps_its_recipe_and_steps(tmp_path: Path) -> None:
    for option in (["--time", "10m"], ["--preset", "quick"]):
        assert "leave out --time and --preset" in refused("fit", "--resume", tmp_path, *option)


def test_presets_are_recipes_of_the_data_set() -> None:
    for preset in ("quick", "thorough"):
        assert load_recipe(recipe_for("fashion-mnist", preset)).data.dataset == "fashion-mnist"
    assert recipe_for("fashion-mnist", "paper") == "paper-fashion-mnist"
    for preset in ("quick", "thorough", "paper"):  # there is no recipe called cifar10
        assert load_recipe(recipe_for("cifar10", preset)).data.dataset == "cifar10"
    assert recipe_for("fashion-mnist") == "fashion-mnist"
    assert recipe_for("mnist") == "images"  # has no recipe of its own


@pytest.mark.parametrize("extra", [[], ["--consistency", "match"], ["--objective", "probe"], ["--objective", "labels-only"]])
def test_classes_without_labels_are_allowed_when_asked_for(
    tmp_path: Path, tiny: list[str], digits_pool: Pool, extra: list[str]
) -> None:
    arguments = ["--choice", "uniform", "--allow-missing-classes", "--out", tmp_path / "run", *tiny, *extra]
    printed = json.loads(ok("fit", "--dataset", "digits", "--labeled", 6, *arguments, "--json").stdout)
    labels = pd.read_csv(tmp_path / "run" / "labeled.csv")["label"]
    assert labels.nunique() < 10
    assert np.isfinite(printed["test_nll"])
