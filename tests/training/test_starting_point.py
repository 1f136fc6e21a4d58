"""A fit never returns less than its own starting point."""

import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import ok

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.predict import predict_logits
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training import objective_fits
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.fit import fit_model, fit_run
from ssl_diffusion.training.phases import joint_config
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.run_folder import load_metrics
from ssl_diffusion.training.starting_point import StartComparison
from ssl_diffusion.training.which_is_better import decide, decide_beside_backbone, mcnemar, neighbor_votes


def scores(given: dict[str, float]) -> dict[str, float | None]:
    return {"validation": None, "folds": None, "own_labels": None, "neighbors": None} | given


@pytest.mark.parametrize(
    ("probe", "trained", "statistic", "expected"),
    [
        ({"validation": 0.8, "folds": 0.1}, {"validation": 0.7, "own_labels": 1.0}, -9.0, ("probe", "validation")),
        ({"validation": 0.7, "folds": 0.9}, {"validation": 0.7, "own_labels": 0.1}, 9.0, ("trained", "validation")),
        ({"folds": 0.8}, {"own_labels": 0.7}, None, ("probe", "own labels")),
        ({"folds": 0.8}, {"own_labels": 0.7}, -9.0, ("probe", "own labels")),
        ({"folds": 0.8}, {"own_labels": 0.8}, 2.0, ("trained", "nothing against it")),
        ({"folds": 0.8}, {"own_labels": 1.0}, 2.1, ("probe", "neighbors")),
        ({}, {"own_labels": 0.1}, None, ("trained", "nothing against it")),
    ],
)
def test_decisions(
    probe: dict[str, float], trained: dict[str, float], statistic: float | None, expected: tuple[str, str]
) -> None:
    assert decide(scores(probe), scores(trained), statistic) == expected


@pytest.mark.parametrize(
    ("probe", "trained", "expected"),
    [
        ({"validation": 0.3, "folds": 9.0}, {"validation": 0.4, "own_labels": 0.0}, ("probe", "validation")),
        ({"validation": 0.4, "folds": 0.0}, {"validation": 0.4, "own_labels": 9.0}, ("trained", "validation")),
        ({"validation": 0.4}, {"validation": math.nan}, ("probe", "validation")),
        ({"folds": 0.3}, {"own_labels": 0.4}, ("probe", "own labels")),
        ({"folds": 0.3}, {"own_labels": math.inf}, ("probe", "own labels")),
        ({"folds": 0.3}, {"own_labels": 0.3}, ("trained", "nothing against it")),
        ({}, {"own_labels": 9.0}, ("trained", "nothing against it")),
    ],
)
def test_decisions_by_log_likelihood(probe: dict[str, float], trained: dict[str, float], expected: tuple[str, str]) -> None:
    assert decide(scores(probe), scores(trained), None, "nll") == expected


@pytest.mark.parametrize(
    ("probe", "trained", "statistic", "on_held_out", "expected"),
    [
        ({"validation": 0.7}, {"validation": 0.7}, -9.0, 0.0, ("probe", "validation")),
        ({"validation": 0.7}, {"validation": 0.75}, -9.0, -1.0, ("probe", "validation")),
        ({"validation": 0.7}, {"validation": 0.8}, 9.0, -1.1, ("trained", "validation")),
        ({"validation": 0.7}, {"validation": 0.71}, 9.0, None, ("trained", "validation")),  # another figure than the accuracy
        ({"folds": 0.8}, {"own_labels": 0.7}, -9.0, None, ("probe", "own labels")),
        ({"folds": 0.5}, {"own_labels": 1.0}, 2.1, None, ("probe", "neighbors")),
        ({"folds": 0.5}, {"own_labels": 1.0}, -1.6, None, ("probe", "nothing for it")),
        ({"folds": 0.5}, {"own_labels": 1.0}, -1.7, None, ("trained", "neighbors")),
        ({}, {"own_labels": 1.0}, None, None, ("probe", "nothing for it")),
    ],
)
def test_beside_a_backbone_something_has_to_speak_for_the_trained_model(
    probe: dict[str, float],
    trained: dict[str, float],
    statistic: float | None,
    on_held_out: float | None,
    expected: tuple[str, str],
) -> None:
    assert decide_beside_backbone(scores(probe), scores(trained), statistic, on_held_out) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_without_a_likelihood_is_never_kept(value: float) -> None:
    probe, trained = scores({"validation": math.inf}), scores({"validation": value})
    assert decide_beside_backbone(probe, trained, None, None, "nll") == ("probe", "validation")


def test_advice_says_no_more_than_is_known() -> None:
    def said(probe: dict[str, float], trained: dict[str, float], reason: str) -> str:
        return StartComparison("probe", reason, scores(probe), scores(trained), None).advice()

    assert "is worse than the probe that training can start from (70.0% against 80.0% of" in said(
        {"validation": 0.8}, {"validation": 0.7}, "validation"
    )
    assert "is not clearly better than the probe" in said({"validation": 0.8}, {"validation": 0.85}, "validation")
    assert "nothing that the labels say speaks for the trained model" in said({}, {"own_labels": 1.0}, "nothing for it")


def test_mcnemar_counts_only_where_they_differ() -> None:
    first = np.array([True] * 9 + [False] * 4 + [True] * 50 + [False] * 50)
    second = np.array([False] * 9 + [True] * 4 + [True] * 50 + [False] * 50)
    assert mcnemar(first, second) == pytest.approx(5 / np.sqrt(13))
    assert mcnemar(second, first) == pytest.approx(-5 / np.sqrt(13))
    assert mcnemar(first, first) == 0


def test_neighbors_guess_more_from_better_labels(digits_pool: Pool) -> None:
    pixels, truth = digits_pool.images.reshape(len(digits_pool), -1), digits_pool.labels
    rng = np.random.default_rng(5)
    labelings = []
    for wrong in (0.0, 0.3, 0.8):
        labels = truth[200:1200].copy()
        changed = rng.random(len(labels)) < wrong
        labels[changed] = rng.integers(0, 10, changed.sum())
        labelings.append(labels)
    right = [float((votes == truth[:200]).mean()) for votes in neighbor_votes(pixels[:200], pixels[200:1200], labelings, 10)]
    assert right[0] > 0.9
    assert right[0] >= right[1] > right[2] + 0.2


@pytest.fixture
def ruined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps that end in a collapse: every image is of the first class. The pretraining is as it is."""
    train = objective_fits.train

    def training(phase: Phase, progress: ProgressCallback | None = None) -> TrainingResult:
        result = train(phase, progress)
        if phase.name == "training":
            result.ema = dict(result.ema)
            result.ema["head.1.weight"] = torch.zeros_like(result.ema["head.1.weight"])
            result.ema["head.1.bias"] = torch.eye(len(result.ema["head.1.bias"]))[0]
        return result

    monkeypatch.setattr(objective_fits, "train", training)


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.with_overrides(["compute.accelerator=cpu", "compute.precision=fp32", "training.keep=better"])


@pytest.mark.usefixtures("ruined")
@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_a_collapse_returns_the_probe_and_says_so(
    recipe: Recipe, digits_pool: Pool, caplog: pytest.LogCaptureFixture, val_fraction: float
) -> None:
    labeled = choose_labeled(digits_pool, 100, seed=3, val_fraction=val_fraction)
    fitted = fit_model(recipe, digits_pool, labeled, keep_better=True)
    assert fitted.start is not None
    assert (fitted.start.kept, fitted.start.reason) == ("probe", "validation" if val_fraction else "own labels")
    assert "so the probe is kept: train longer (--steps, --time), or use --objective probe" in caplog.text
    assert "which looks like a collapse" in caplog.text
    probe = fit_model(recipe.with_setting("training.objective", "probe"), digits_pool, labeled)
    images = digits_pool.images[digits_pool.test]
    assert np.array_equal(predict_logits(fitted.model(), images), predict_logits(probe.model(), images))
    assert fitted.training.steps == recipe.training.steps


def test_a_fit_that_is_no_worse_keeps_the_trained_model(
    recipe: Recipe, digits_pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    labeled = choose_labeled(digits_pool, 100, seed=3)
    gentle = recipe.with_setting("training.learning_rate", 1e-6)  # so few steps of the usual size only do harm
    plain, fitted = (fit_model(gentle, digits_pool, labeled, keep_better=better) for better in (False, True))
    assert plain.start is None
    assert fitted.start is not None
    assert fitted.start.kept == "trained"
    assert all(torch.equal(tensor, plain.ema[name]) for name, tensor in fitted.ema.items())
    assert fitted.config == joint_config(gentle, digits_pool)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "change", ["pretraining.steps=0", "training.steps=0", "training.objective=labels-only", "training.keep=trained"]
)
def test_nothing_to_compare(recipe: Recipe, digits_pool: Pool, change: str) -> None:
    labeled = choose_labeled(digits_pool, 40, seed=3)
    changed = recipe.with_overrides(["training.head_start=zero", change])
    assert fit_model(changed, digits_pool, labeled, keep_better=True).start is None


@pytest.mark.usefixtures("ruined", "no_pictures")
def test_both_scores_are_in_the_metrics(recipe: Recipe, digits_pool: Pool, tmp_path: Path) -> None:
    path = fit_run(recipe.with_setting("labels.budget", 40), tmp_path / "run", pool=digits_pool)
    metrics = load_metrics(path)
    start = metrics["start"]
    assert start["kept"] == "probe"
    assert start["trained"]["own_labels"] == 0.1
    assert start["probe"]["folds"] > 0.1
    assert start["class_change"] > 0.5
    assert metrics["test_accuracy"] > 0.2
    assert load_run(path).model.config.n_classes == 10


# ---- several labels per image


@pytest.fixture(scope="module")
def several(digits_pool: Pool) -> Pool:
    """Digits that are even, at least five, or have a loop; or several of these, or nothing."""
    part = np.arange(1100, 1700)  # the last of the training split, the first of the test split
    digit = digits_pool.labels[part]
    columns = np.stack([digit % 2 == 0, digit >= 5, np.isin(digit, (0, 6, 8, 9))], axis=1)
    return replace(
        digits_pool,
        images=digits_pool.images[part],
        ids=digits_pool.ids[part],
        is_test=digits_pool.is_test[part],
        labels=columns.astype(np.int64),
        classes=("even", "large", "loop"),
        multilabel=True,
    )


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("val_fraction", [0.0, 0.3])
def test_a_multilabel_fit_returns_the_probe_where_training_has_destroyed_the_model(
    recipe: Recipe, several: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture, val_fraction: float
) -> None:
    fast = recipe.with_overrides(
        [
            "training.learning_rate=1",
            "training.head_start=zero",
            "labels.budget=60",
            f"labels.val_fraction={val_fraction}",
        ]
    )
    path = fit_run(fast, tmp_path / "run", pool=several)
    start = load_metrics(path)["start"]
    assert (start["kept"], start["reason"], start["score"]) == ("probe", "validation" if val_fraction else "own labels", "nll")
    assert start["probe"]["folds"] < math.log(2)
    assert start["trained"]["own_labels"] > start["probe"]["folds"]
    assert start["class_change"] is None
    assert "so the probe is kept" in caplog.text
    assert "(NLL " in caplog.text
    labeled = choose_labeled(several, 60, seed=fast.training.seed, val_fraction=val_fraction)
    if val_fraction:
        assert start["trained"]["validation"] > start["probe"]["validation"]
    probe = fit_model(fast.with_setting("training.objective", "probe"), several, labeled)
    images = several.images[several.test]
    assert np.array_equal(load_run(path).logits(images), predict_logits(probe.model(), images))


def test_a_multilabel_fit_that_is_no_worse_keeps_the_trained_model(recipe: Recipe, several: Pool) -> None:
    gentle = recipe.with_overrides(["training.learning_rate=1e-6"])
    labeled = choose_labeled(several, 60, seed=3)
    fitted = fit_model(gentle, several, labeled, keep_better=True)
    assert fitted.start is not None
    assert (fitted.start.kept, fitted.start.reason) == ("trained", "nothing against it")
    assert all(torch.equal(tensor, fitted.training.ema[name]) for name, tensor in fitted.ema.items())


@pytest.mark.usefixtures("no_pictures")
def test_the_command_says_which_multilabel_model_it_keeps(several: Pool, tmp_path: Path, tiny: list[str]) -> None:
    rows = ["image,even,large,loop"]
    for i in range(60):
        Image.fromarray(several.images[i, 0]).save(tmp_path / f"{i}.png")
        rows.append(",".join([f"{i}.png", *map(str, several.labels[i])]))
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    words = [*tiny, "--set", "training.keep=better", "--set", "training.learning_rate=1", "--no-cache"]
    table = ["--data", tmp_path / "table.csv", "--image-column", "image", "--label-columns", "even,large,loop", "--multilabel"]
    done = ok("fit", *table, *words, "--out", tmp_path / "run")
    assert re.search(
        r"start +probe kept, the trained model is worse: trained NLL \d+\.\d{3} of its own labels, probe NLL 0\.\d{3} of",
        done.stdout,
    )


@pytest.mark.parametrize("n", [1, 2])
def test_few_multilabel_labels_are_compared_as_far_as_there_are_folds(recipe: Recipe, several: Pool, n: int) -> None:
    fitted = fit_model(recipe, several, choose_labeled(several, n, seed=3), keep_better=True)
    assert fitted.start is not None
    assert (fitted.start.probe["folds"] is None) == (n == 1)


def test_a_score_that_is_not_finite_is_left_out_of_the_metrics() -> None:
    comparison = StartComparison("probe", "own labels", {"folds": 0.30004}, {"own_labels": math.inf}, None, "nll")
    facts = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert facts["trained"] == {"own_labels": None}
    assert facts["probe"] == {"folds": 0.3}
