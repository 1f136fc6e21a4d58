"""The likelihood of held-out labels is that of scikit-learn's logistic regression, whose checks are left out."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ssl_diffusion.models.held_out_likelihood import held_out_nll
from ssl_diffusion.models.probe import PENALTIES, Validation


def samples(n: int, features: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    return (rng.normal(size=(k, features))[y] + 1.5 * rng.normal(size=(n, features))) / np.sqrt(features), y


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("n", "features", "k"), [(24, 40, 3), (90, 12, 5), (60, 60, 10)])
def test_it_is_that_of_scikit_learn(n: int, features: int, k: int, penalty: float) -> None:
    x, y = samples(n + 30, features, k, seed=n)
    model = LogisticRegression(C=penalty, max_iter=300, tol=1e-3).fit(x[:n], y[:n])
    expected = log_loss(y[n:], model.predict_proba(x[n:]), labels=model.classes_)
    assert held_out_nll(x[:n], y[:n], x[n:], y[n:], penalty) == pytest.approx(expected, rel=1e-9)


def test_certainty_of_a_wrong_class_costs_what_it_costs_there() -> None:
    x = np.repeat(np.eye(3), 4, axis=0) * 1e4
    y = np.arange(12) // 4
    model = LogisticRegression(C=1000.0, max_iter=300, tol=1e-3).fit(x, y)
    expected = log_loss(np.roll(y, 4), model.predict_proba(x), labels=model.classes_)
    assert held_out_nll(x, y, x, np.roll(y, 4), 1000.0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("classes", [(0, 1), (1, 4), (0, 2, 7), (3, 4, 5, 9)])
def test_cross_validation_is_the_same_whatever_the_numbers_of_the_classes(classes: tuple[int, ...]) -> None:
    """Two classes, and weights of classes, take scikit-learn's own way."""
    x, y = samples(50, 20, len(classes), seed=len(classes))
    labels = np.array(classes)[y]
    validation = Validation(labels, seed=3)
    coordinates = validation.coordinates(x)
    of_folds = []
    for fitted, held_out in validation.folds:
        model = LogisticRegression(C=30.0, max_iter=300, tol=1e-3).fit(coordinates[fitted], validation.y[fitted])
        p = model.predict_proba(coordinates[held_out])
        of_folds.append(log_loss(validation.y[held_out], p, labels=model.classes_))
    assert validation.nll(coordinates, 30.0) == pytest.approx(np.mean(of_folds), rel=1e-9)
