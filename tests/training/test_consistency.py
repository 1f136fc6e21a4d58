"""Pseudo-labels by hand: who passes the threshold, what is learned from them, and that a run with them repeats."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import Interrupted, RecipeError
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.consistency import Match
from ssl_diffusion.training.fit import FitOptions, fit_model, fit_run
from ssl_diffusion.training.recipe import Recipe


def logits(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities).log()


def test_a_fixed_threshold_is_fixmatch() -> None:
    weak = logits([0.96, 0.03, 0.01], [0.5, 0.4, 0.1], [0.01, 0.01, 0.98])
    strong = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    result = Match(3, threshold=0.95)(weak, strong)
    assert result.confident.tolist() == [True, False, True]
    assert result.pseudo_labels.tolist() == [0, 0, 2]
    taught = functional.cross_entropy(strong[[0, 2]], torch.tensor([0, 2]), reduction="sum") / 3
    assert result.loss.item() == pytest.approx(taught.item())


def test_only_the_strong_view_learns() -> None:
    weak, strong = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    Match(3, threshold=0.01)(weak, strong).loss.backward()
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad.any()


def test_the_threshold_rises_with_confidence_and_is_lower_for_a_class_that_is_predicted_less() -> None:
    match = Match(2, momentum=0.5)
    sure = logits([0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8])
    for _ in range(30):
        match(sure, torch.zeros(4, 2))
    assert match.confidence.item() == pytest.approx((0.9 * 3 + 0.8) / 4, abs=1e-4)
    assert match.marginal.tolist() == pytest.approx([0.725, 0.275], abs=1e-4)
    # 0.8 is below the mean confidence, but class 1 is learned less well: its threshold is 0.875 * 0.275 / 0.725.
    assert match(sure, torch.zeros(4, 2)).confident.tolist() == [True, True, True, True]
    unsure = logits([0.7, 0.3], [0.6, 0.4], [0.7, 0.3], [0.6, 0.4])
    assert not match(unsure, torch.zeros(4, 2)).confident.any()


def test_the_first_batch_already_sets_the_threshold() -> None:
    match = Match(2)
    result = match(logits([0.95, 0.05], [0.6, 0.4], [0.05, 0.95], [0.4, 0.6]), torch.zeros(4, 2))
    assert match.confidence.item() == pytest.approx((2 * 0.95 + 2 * 0.6) / 4)
    assert result.confident.tolist() == [True, False, True, False]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(2, 6))
def test_alignment_undoes_a_preference_for_some_classes(seed: int, k: int) -> None:
    """Predictions with a bias towards some classes; after alignment to equal shares no class is left out."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.arange(60) % k
    unbiased = 3.0 * functional.one_hot(truth, k) + 0.1 * torch.randn(60, k, generator=g)
    biased = unbiased + 2.9 * torch.rand(k, generator=g)
    aligned, plain = Match(k, torch.full((k,), 1 / k), momentum=0.0), Match(k, momentum=0.0)
    strong = torch.zeros(60, k)
    right = [(m(biased, strong).pseudo_labels == truth).float().mean().item() for m in (aligned, plain)]
    assert right[0] >= right[1]
    assert right[0] > 0.95


def fit(recipe: Recipe, pool: Pool, folder: Path | None = None, progress: object = None) -> object:
    labeled = choose_labeled(pool, 20, seed=0)
    return fit_model(recipe, pool, labeled, checkpoints=folder, options=FitOptions(progress=progress))  # type: ignore[arg-type]


@pytest.fixture
def matching(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.with_overrides(["training.consistency=match", "training.unlabeled_batch_size=16"])


def test_the_history_tells_how_many_pseudo_labels_there_were_and_how_many_right(matching: Recipe, digits_pool: Pool) -> None:
    rows = [r for r in fit(matching, digits_pool).history if r["phase"] == "training"]  # type: ignore[attr-defined]
    assert all(0 <= r["mask_rate"] <= 1 for r in rows)
    assert any(0 < r["pseudo_label_accuracy"] <= 1 for r in rows)
    hidden = replace(digits_pool, labels=digits_pool.labels.copy())
    labeled = set(hidden.positions(choose_labeled(hidden, 20, seed=0).train).tolist())
    hidden.labels[[i for i in hidden.train if i not in labeled]] = -1
    unknown = [r for r in fit(matching, hidden).history if r["phase"] == "training"]  # type: ignore[attr-defined]
    assert [r["mask_rate"] for r in unknown] == [r["mask_rate"] for r in rows]
    # Of the labeled images that are also in the unlabeled stream the truth is known.
    assert any(math.isnan(r["pseudo_label_accuracy"]) for r in unknown)


def test_true_labels_outside_the_budget_change_nothing(matching: Recipe, digits_pool: Pool) -> None:
    other = replace(digits_pool, labels=digits_pool.labels.copy())
    labeled = other.positions(choose_labeled(digits_pool, 20, seed=0).train)
    outside = np.setdiff1d(other.train, labeled)
    other.labels[outside] = (other.labels[outside] + 1) % 10
    chosen = choose_labeled(digits_pool, 20, seed=0)
    first, second = (fit_model(matching, pool, chosen) for pool in (digits_pool, other))
    assert all(torch.equal(t, second.ema[name]) for name, t in first.ema.items())


def test_it_changes_the_result_and_is_off_by_default(matching: Recipe, tiny_recipe: Recipe, digits_pool: Pool) -> None:
    assert tiny_recipe.training.consistency == "none"
    plain, matched = (fit(r, digits_pool) for r in (tiny_recipe, matching))
    assert "mask_rate" not in plain.history[-1]  # type: ignore[attr-defined]
    assert any(not torch.equal(t, matched.ema[name]) for name, t in plain.ema.items())  # type: ignore[attr-defined]


def test_an_interrupted_fit_ends_as_if_it_had_not_been(matching: Recipe, digits_pool: Pool, tmp_path: Path) -> None:
    import signal

    seen = 0

    def stop(update: ProgressUpdate) -> None:
        nonlocal seen
        if update.task == "training":
            seen += 1
            if seen == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit(matching, digits_pool, tmp_path, stop)
    resumed, straight = fit(matching, digits_pool, tmp_path), fit(matching, digits_pool)
    assert all(torch.equal(t, resumed.ema[name]) for name, t in straight.ema.items())  # type: ignore[attr-defined]
    pd.testing.assert_frame_equal(
        *(pd.DataFrame(f.history).drop(columns=["seconds", "seconds_alone"]) for f in (resumed, straight))  # type: ignore[attr-defined]
    )


def test_it_goes_with_labels_only_which_is_fixmatch_then(matching: Recipe, digits_pool: Pool) -> None:
    recipe = matching.with_overrides(["training.objective=labels-only", "training.consistency_threshold=0.95"])
    row = fit(recipe, digits_pool).history[-1]  # type: ignore[attr-defined]
    assert "denoising_loss" not in row
    assert row["mask_rate"] < 0.5  # after six steps hardly anything is that certain


@pytest.mark.parametrize("objective", ["denoise-only", "probe"])
def test_objectives_without_training_steps_refuse_it(matching: Recipe, tmp_path: Path, objective: str) -> None:
    with pytest.raises(RecipeError, match=f"consistency .* objective '{objective}'"):
        fit_run(matching.with_setting("training.objective", objective), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_labels_an_image_refuse_it(matching: Recipe, small_pool: Pool) -> None:
    pool = replace(small_pool, labels=np.eye(3, dtype=np.int64)[small_pool.labels], multilabel=True)
    with pytest.raises(RecipeError, match="one label per image"):
        fit_model(matching, pool, choose_labeled(pool, 12, seed=0))
