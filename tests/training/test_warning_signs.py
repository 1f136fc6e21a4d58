"""A training that went wrong says so, with advice."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training import objective_fits
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.fit import fit_model
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import TrainingResult
from ssl_diffusion.training.warning_signs import (
    chance_nll,
    history_signs,
    pseudo_label_signs,
    validation_sign,
    vanished_classes,
)

CLASSES = tuple("abcdefghij")
EVEN = np.full(10, 0.1)
LOG_10 = math.log(10)


def rows(name: str, tenths: list[float], each: int = 2) -> list[dict[str, Any]]:
    """A history whose column has these means in its tenths."""
    return [{"step": i, name: value} for i, value in enumerate(np.repeat(tenths, each))]


def falling(last: float, lowest: float = 0.2) -> list[float]:
    return [2.3, 1.6, 1.0, 0.7, 0.5, lowest, lowest, lowest, lowest, last]


def test_a_guess() -> None:
    assert chance_nll(10, multilabel=False) == pytest.approx(2.302585)
    assert chance_nll(10, multilabel=True) == pytest.approx(0.693147)


@pytest.mark.parametrize(
    ("tenths", "words"),
    [
        (falling(0.2), None),
        ([2.3] * 10, None),  # nothing learned yet
        ([2.3, 2.2, 2.4, 2.3, 2.2, 2.3, 2.4, 2.2, 2.3, 2.7], None),
        ([0.3, 0.9, 1.0, 0.9, 0.8, 0.8, 0.7, 0.7, 0.7, 0.7], None),  # from a probe, to augmented views
        (falling(1.2), None),  # less than half of 2.30 - 0.2 lost
        (falling(1.3), "has risen from 0.20 to 1.30"),
        ([1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.95], None),  # less than log(10) / 4 = 0.58
        ([1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 1.4, 2.0], "has risen from 1.40 to 2.00"),
        ([2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3, 2.8], "is 2.80 at the end of the training, and 2.30 with no"),
        ([40.0] * 10, "is 40.00 at the end of the training, and 2.30 with no"),
        (falling(math.nan), "was not finite at the end"),
        ([math.nan, math.nan, 1.0, 0.5, math.inf, 0.2, 0.2, 0.2, 0.2, 0.2], None),
        ([math.nan] * 10, "was not finite at the end"),
    ],
)
def test_training_loss(tenths: list[float], words: str | None) -> None:
    signs = history_signs(rows("classification_loss", tenths), LOG_10)
    assert len(signs) == (words is not None)
    assert words is None or words in signs[0]
    assert "learning rate" in "".join(signs) or words is None


def test_short_histories_and_others_say_nothing() -> None:
    bad = rows("classification_loss", [0.1] * 9 + [9.0], each=1)
    assert not history_signs(bad, LOG_10)
    assert not history_signs([], LOG_10)
    assert not history_signs(rows("denoising_loss", [9.0] * 10), LOG_10)
    assert not history_signs(rows("classification_loss", [0.0] * 9 + [9.0]), chance_nll(1, multilabel=False))
    assert not pseudo_label_signs(rows("mask_rate", [0.0] * 10, each=1), CLASSES, EVEN, lambda: EVEN)
    assert not pseudo_label_signs(rows("classification_loss", [0.0] * 10), CLASSES, EVEN, lambda: EVEN)


def test_one_row_that_is_not_finite_does_not_count() -> None:
    history = rows("classification_loss", [1.0] * 10)
    history[-1]["classification_loss"] = math.nan
    assert not history_signs(history, LOG_10)


TWO_GONE = np.array([0.009, 0.0, 0.391, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0])


@pytest.mark.parametrize(
    ("tenths", "predicted", "words"),
    [
        ([0.6] * 10, TWO_GONE, None),
        ([0.98] * 10, EVEN, None),  # sure of everything, and with reason
        ([0.6] * 5 + [1.0] * 5, TWO_GONE, None),  # sure in the end only
        ([0.5] + [0.98] * 9, TWO_GONE, "(98%) passed the threshold of the pseudo-labels throughout"),
        ([0.98] * 10, None, None),  # too few images to say
        (
            [0.98] * 10,
            TWO_GONE,
            "(98%) passed the threshold of the pseudo-labels throughout, and 3 of 10 classes are hardly predicted any more",
        ),
        ([0.3] * 5 + [0.0] * 5, EVEN, "only 0.0% of the unlabeled images passed"),
        ([0.0] * 5 + [0.02] * 5, EVEN, None),  # late, but it comes
        (
            [0.0] * 10,
            EVEN,
            "--set training.consistency_threshold=0), train longer (--steps, --time), or use --consistency none",
        ),
    ],
)
def test_mask_rate(tenths: list[float], predicted: np.ndarray[Any, np.dtype[np.float64]] | None, words: str | None) -> None:
    signs = pseudo_label_signs(rows("mask_rate", tenths), CLASSES, EVEN, lambda: predicted)
    assert len(signs) == (words is not None)
    assert words is None or words in signs[0]


def test_images_are_predicted_only_where_the_mask_rate_gives_cause() -> None:
    def refuse() -> None:
        raise AssertionError("predicted")

    assert not pseudo_label_signs(rows("mask_rate", [0.9] * 10), CLASSES, EVEN, refuse)
    assert not pseudo_label_signs(rows("denoising_loss", [0.9] * 10), CLASSES, EVEN, refuse)


def test_classes_vanish_only_with_a_tenth_of_the_labels() -> None:
    assert vanished_classes(TWO_GONE, EVEN) == [0, 1, 9]
    assert vanished_classes(np.array([0.0] + [1 / 9] * 9), EVEN) == [0]
    twenty = np.full(20, 0.05)
    assert vanished_classes(np.array([0.0] + [1 / 19] * 19), twenty) == []
    assert vanished_classes(np.array([0.0, 0.0] + [1 / 18] * 18), twenty) == [0, 1]
    assert vanished_classes(np.array([0.06, 0.94]), np.array([0.5, 0.5])) == []  # a pool with fewer of one class
    assert vanished_classes(np.array([0.04, 0.96]), np.array([0.5, 0.5])) == [0]


def test_validation_loss_is_judged_with_its_error() -> None:
    losses = np.array([LOG_10 + 1.0] * 50 + [LOG_10] * 50)  # mean 0.5 above, standard error 0.05
    assert "is 2.80 on the validation labels, and 2.30 with no knowledge" in validation_sign(losses, LOG_10)[0]
    assert not validation_sign(losses - 0.45, LOG_10)
    assert validation_sign(losses - 0.35, LOG_10)
    assert not validation_sign(np.array([50.0]), LOG_10)
    assert not validation_sign(np.array([50.0, 0.0]), LOG_10)
    assert "is inf on the validation labels, and 2.30" in validation_sign(np.array([math.inf, 0.0]), LOG_10)[0]


# ---- fits


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    """As many steps as a judgement needs, and no more work than that."""
    return tiny_recipe.with_overrides(
        [
            "pretraining.steps=0",
            "training.steps=20",
            "training.batch_size=4",
            "training.labeled_batch_size=4",
            "training.unlabeled_batch_size=4",
            "training.head_start=zero",
        ]
    )


def test_an_unreachable_threshold_is_a_warning_of_the_fit(
    recipe: Recipe, digits_pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    strict = recipe.with_overrides(["training.consistency=match", "training.consistency_threshold=1"])
    fit_model(strict, digits_pool, choose_labeled(digits_pool, 20, seed=0))
    assert "only 0.0% of the unlabeled images passed the threshold" in caplog.text


def test_a_fit_that_forgets_its_labels_is_a_warning(
    recipe: Recipe, digits_pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    labeled = choose_labeled(digits_pool, 40, seed=0, val_fraction=0.5)
    fit_model(recipe.with_setting("training.learning_rate", 10.0), digits_pool, labeled)
    assert "at the end of the training, and 2.30 with no knowledge at all" in caplog.text
    assert "on the validation labels, and 2.30 with no knowledge" in caplog.text


def test_pseudo_labels_that_confirm_themselves_are_a_warning_that_names_the_classes(
    recipe: Recipe, digits_pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = objective_fits.train

    def collapsed(phase: Phase, progress: ProgressCallback | None = None) -> TrainingResult:
        result = train(phase, progress)
        result.ema["head.1.weight"] = torch.zeros_like(result.ema["head.1.weight"])
        result.ema["head.1.bias"] = torch.eye(10)[3]
        return replace(result, history=[row | {"mask_rate": 1.0, "classification_loss": 0.1} for row in result.history])

    monkeypatch.setattr(objective_fits, "train", collapsed)
    matched = recipe.with_setting("training.consistency", "match")
    fit_model(matched, digits_pool, choose_labeled(digits_pool, 20, seed=0))
    assert "9 of 10 classes are hardly predicted any more ('0', '1', '2', '4', '5', ...)" in caplog.text
