"""Figures of unbalanced tasks are those of scikit-learn, with intervals that hold."""

import numpy as np
import pytest
from sklearn import metrics

from ssl_diffusion.inference.class_metrics import bootstrap_intervals, class_metrics, one_versus_rest, ordinal_metrics


def task(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.choice(4, n, p=[0.8, 0.1, 0.07, 0.03])
    logits = np.round(2 * np.eye(4)[y] + rng.normal(0, 1, (n, 4)), 1)  # rounded: some are equal
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), y


def test_single_labels_agree_with_scikit_learn() -> None:
    p, y = task()
    got, said = class_metrics(p, y), p.argmax(axis=1)
    assert got["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, said))
    assert got["macro_f1"] == pytest.approx(metrics.f1_score(y, said, average="macro"))
    assert got["auroc"] == pytest.approx(metrics.roc_auc_score(y, p, multi_class="ovr"))
    assert got["average_precision"] == pytest.approx(metrics.average_precision_score(np.eye(4)[y], p, average="macro"))
    assert got["majority_accuracy"] == np.bincount(y).max() / len(y)


def test_several_labels_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((300, 3)) < [0.5, 0.2, 0.05]).astype(np.int64)
    p = np.clip(0.5 * y + 0.6 * rng.random((300, 3)), 0, 1)
    got, said = class_metrics(p, y), p > 0.5
    assert got["balanced_accuracy"] == pytest.approx(
        np.mean([metrics.balanced_accuracy_score(y[:, k], said[:, k]) for k in range(3)])
    )
    assert got["macro_f1"] == pytest.approx(metrics.f1_score(y, said, average="macro"))
    assert got["auroc"] == pytest.approx(metrics.roc_auc_score(y, p))
    assert got["average_precision"] == pytest.approx(metrics.average_precision_score(y, p))


def test_always_saying_the_most_frequent_class_is_seen_through() -> None:
    _, y = task()
    p = np.tile([0.9, 0.05, 0.03, 0.02], (len(y), 1))
    got = class_metrics(p, y)
    assert (p.argmax(axis=1) == y).mean() == got["majority_accuracy"] > 0.7
    assert got["balanced_accuracy"] == pytest.approx(0.25)
    assert got["auroc"] == pytest.approx(0.5)


def test_classes_that_do_not_occur_are_left_out() -> None:
    auroc, precision = one_versus_rest(np.full((3, 2), 0.5), np.array([0, 0, 0]))
    assert np.isnan(auroc).all()
    assert np.isnan(precision).all()
    assert class_metrics(np.array([[0.9, 0.1]] * 3), np.array([0, 0, 0]))["balanced_accuracy"] == 1


def test_intervals_hold_the_truth() -> None:
    truth = class_metrics(*task(40_000, 99))
    held = 0
    for seed in range(10):
        low, high = bootstrap_intervals(*task(400, seed))["auroc"]
        held += low < truth["auroc"] < high
    assert held >= 8


@pytest.mark.parametrize("multilabel", [False, True])
def test_intervals_are_those_of_the_figures_of_resampled_images(multilabel: bool) -> None:
    p, y = task(60, 3)  # of the rarest class some draws have no image, and some probabilities are equal
    labels = np.eye(4, dtype=np.int64)[y] | (p > 0.7) if multilabel else y
    rng = np.random.default_rng(5)
    drawn = [class_metrics(p[rows], labels[rows]) for rows in (rng.integers(0, 60, 60) for _ in range(200))]
    for name, bounds in bootstrap_intervals(p, labels, seed=5).items():
        values = np.array([each[name] for each in drawn])
        assert bounds == pytest.approx(np.quantile(values[np.isfinite(values)], (0.025, 0.975)), abs=1e-12), name


def test_intervals_of_many_classes_of_which_some_are_rare_or_missing() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((150, 80)) < rng.choice([0, 0.01, 0.1, 0.5, 1], 80)).astype(np.int64)
    p = np.round(np.clip(0.3 * labels + 0.7 * rng.random((150, 80)), 0, 1), 1).astype(np.float32)  # many are equal
    draws = np.random.default_rng(0)
    drawn = [class_metrics(p[rows], labels[rows]) for rows in (draws.integers(0, 150, 150) for _ in range(200))]
    for name, bounds in bootstrap_intervals(p, labels).items():
        assert bounds == pytest.approx(np.quantile([each[name] for each in drawn], (0.025, 0.975)), abs=1e-12), name


def test_one_class_alone_has_no_interval_where_it_has_no_figure() -> None:
    bounds = bootstrap_intervals(np.array([[0.9, 0.1]] * 3), np.array([0, 0, 0]))
    assert bounds["balanced_accuracy"] == (1, 1)
    assert np.isnan(bounds["auroc"]).all()
    assert np.isnan(bounds["average_precision"]).all()


def test_classes_in_an_order() -> None:
    y = np.array([0, 1, 2, 3, 3, 0])
    near, far = np.array([0, 1, 2, 3, 2, 0]), np.array([0, 1, 2, 3, 0, 0])
    assert ordinal_metrics(near, y)["mean_absolute_error"] == pytest.approx(1 / 6)
    assert ordinal_metrics(near, y)["quadratic_kappa"] == metrics.cohen_kappa_score(y, near, weights="quadratic")
    assert ordinal_metrics(near, y)["quadratic_kappa"] > ordinal_metrics(far, y)["quadratic_kappa"]
    assert np.isnan(ordinal_metrics(np.zeros(3, np.int64), np.zeros(3, np.int64))["quadratic_kappa"])
