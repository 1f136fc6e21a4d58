"""Classes of different sizes: weights, thresholds, and the figure that choices go by."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, RecipeError
from ssl_diffusion.inference.class_metrics import METRICS, class_metrics, figure_of_merit
from ssl_diffusion.inference.predict import probabilities
from ssl_diffusion.models.probe import fit_probe
from ssl_diffusion.training.class_balance import balanced_weights, threshold_shift
from ssl_diffusion.training.fit import fit_model
from ssl_diffusion.training.objective import Objective
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.settings import MetricName
from ssl_diffusion.training.starting_point import compared, scored

COMMON, RARE, TIMES = (0, 1, 2), (8, 9), 10


@pytest.fixture(scope="module")
def unbalanced(digits_pool: Pool) -> Pool:
    """Digits of five classes, of which two have 6 labels and three have 60; the others have no label."""
    labels = np.full(len(digits_pool), -1)
    for k in (*COMMON, *RARE):
        members = digits_pool.train[digits_pool.labels[digits_pool.train] == k]
        kept = members[: 6 * (1 if k in RARE else TIMES)]
        labels[kept] = [*COMMON, *RARE].index(k)
    test = digits_pool.test[np.isin(digits_pool.labels[digits_pool.test], [*COMMON, *RARE])]
    labels[test] = [[*COMMON, *RARE].index(k) for k in digits_pool.labels[test]]
    return replace(digits_pool, labels=labels, classes=tuple("01289"))


def recalls(pool: Pool, logits: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    said, truth = logits.argmax(axis=1), pool.labels[rows]
    return np.array([(said[truth == k] == k).mean() for k in range(5)])


def test_rare_classes_are_found_more_often(unbalanced: Pool) -> None:
    rows = np.flatnonzero(unbalanced.has_label & ~unbalanced.is_test)
    test = unbalanced.test[unbalanced.has_label[unbalanced.test]]
    # Few pixels, on which the classes overlap: where they do not, their sizes make no difference.
    x = unbalanced.images[:, 0, 3:5, 1:7].reshape(len(unbalanced), -1).astype(np.float32) / 255
    y = unbalanced.labels[rows]
    plain, weighted = (fit_probe(x[rows], y, x[:500], 5, inverse_penalty=10, balanced=b).logits(x[test]) for b in (False, True))
    shifted = plain + threshold_shift(torch.from_numpy(y), 5).numpy()
    before = recalls(unbalanced, plain, test)
    for logits in (weighted, shifted):
        after = recalls(unbalanced, logits, test)
        assert after[3:].mean() > before[3:].mean() + 0.05
        assert after.mean() > before.mean()
        p = probabilities(logits, multilabel=False)
        assert figure_of_merit("balanced-accuracy", p, unbalanced.labels[test]) == pytest.approx(after.mean())


def test_weights_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert balanced_weights(labels, 3).tolist() == pytest.approx([4 / 6, 2, 1])
    assert threshold_shift(labels, 3).tolist() == pytest.approx([math.log(4 / 6), math.log(2), 0])
    several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert balanced_weights(several, 3).tolist() == pytest.approx([3, 1, 1])


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_loss_is_weighted(multilabel: bool) -> None:
    logits, weights = torch.randn(6, 3), torch.tensor([1.0, 2.0, 5.0])
    labels = torch.arange(6) % 3
    truth = functional.one_hot(labels, 3).float() if multilabel else labels
    objective = Objective.__new__(Objective)
    torch.nn.Module.__init__(objective)
    objective.label_smoothing, objective._class_weights = 0.0, (weights,)
    found = objective._classification_terms(logits, truth)["classification_loss"]
    if multilabel:
        each = -(weights * truth * functional.logsigmoid(logits) + (1 - truth) * functional.logsigmoid(-logits))
        assert found == pytest.approx(each.mean().item())
    else:
        nll = -logits.log_softmax(1)[torch.arange(6), labels]
        assert found == pytest.approx(((weights[labels] * nll).sum() / weights[labels].sum()).item())


def test_settings_reach_the_fitted_head(unbalanced: Pool, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.with_overrides(["training.objective=labels-only", "training.steps=1"])
    labeled = choose_labeled(unbalanced, None, seed=0)
    plain = fit_model(recipe, unbalanced, labeled)
    shifted = fit_model(recipe.with_setting("training.thresholds", "balanced"), unbalanced, labeled)
    difference = shifted.ema["head.1.bias"] - plain.ema["head.1.bias"]
    y = torch.from_numpy(unbalanced.labels[unbalanced.positions(labeled.train)])
    assert torch.allclose(difference, threshold_shift(y, 5), atol=1e-6)
    weighted = fit_model(recipe.with_setting("training.class_weights", "balanced"), unbalanced, labeled)
    assert not torch.allclose(weighted.ema["head.1.bias"], plain.ema["head.1.bias"])
    for changes, words in (
        ({"training.class_weights": "balanced", "training.thresholds": "balanced"}, "set one of them to 'none'"),
        ({"training.objective": "denoise-only", "training.thresholds": "balanced"}, "has no classifier"),
    ):
        with pytest.raises(RecipeError, match=words):
            fit_model(recipe.with_settings(changes), unbalanced, labeled)
    with pytest.raises(RecipeError, match=r"training\.metric"):
        recipe.with_setting("training.metric", "accuracies")


def test_the_metric_decides_what_is_kept(unbalanced: Pool) -> None:
    labeled = choose_labeled(unbalanced, None, seed=0, val_fraction=0.5, choice="uniform")
    rows = unbalanced.positions([*labeled.train, *labeled.val])
    truth = np.eye(5, dtype=np.float32)[unbalanced.labels[rows]]
    common = np.where(unbalanced.labels[rows, None] >= 3, np.eye(5, dtype=np.float32)[0], truth)  # never a rare class
    rare = truth.copy()
    rare[(unbalanced.labels[rows] == 0) & (np.arange(len(rows)) % 2 == 0)] = np.eye(5)[1]  # half of a common class is wrong
    kept = {}
    names: tuple[MetricName, ...] = ("accuracy", "balanced-accuracy", "macro-f1")
    for metric in names:
        found = compared(unbalanced, labeled, rows[:0], 9 * rare, 9 * common, None, metric)
        kept[metric], value = found.kept, found.trained["validation"]
        assert found.score == metric
        assert value == pytest.approx(
            scored(metric, common[len(labeled.train) :], unbalanced.labels[rows[len(labeled.train) :]])
        )
        if found.kept == "probe":
            assert METRICS[metric] in found.advice()
    assert kept == {"accuracy": "trained", "balanced-accuracy": "probe", "macro-f1": "probe"}


def test_figures_by_name() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([0, 0, 1])
    for name in METRICS:
        expected = 2 / 3 if name == "accuracy" else class_metrics(p, labels)[name.replace("-", "_")]
        assert figure_of_merit(name, p, labels) == expected
    with pytest.raises(DataError, match="did you mean balanced-accuracy"):
        figure_of_merit("balanced-acuracy", p, labels)
