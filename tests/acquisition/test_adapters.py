"""Strategies on estimators, in the loops of scikit-activeml, and as callables of modAL."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone

from ssl_diffusion import JointDiffusionClassifier
from ssl_diffusion.acquisition import STRATEGIES
from ssl_diffusion.acquisition.adapters.arrays import choose_rows
from ssl_diffusion.acquisition.adapters.to_modal import modal_strategy
from ssl_diffusion.errors import DataError, SSLDError

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def arrays(digits_pool) -> Arrays:
    """120 images of three classes, thirty labeled: X, and y with -1."""
    rows = digits_pool.train[np.isin(digits_pool.labels[digits_pool.train], (0, 3, 7))][:120]
    y = digits_pool.labels[rows].copy()
    y[30:] = -1
    return digits_pool.images[rows], y


def estimator() -> JointDiffusionClassifier:
    return JointDiffusionClassifier(
        recipe="digits",
        max_steps=8,
        pretrain_steps=8,
        batch_size=16,
        labeled_batch_size=16,
        settings={"model.channels": 8, "model.groups": 4, "model.blocks": 1},
        random_state=0,
    )


@pytest.fixture(scope="module")
def fitted(arrays: Arrays) -> JointDiffusionClassifier:
    return estimator().fit(*arrays)


@pytest.mark.parametrize("strategy", ["auto", *STRATEGIES])
def test_every_strategy_works_on_arrays(strategy: str, fitted: JointDiffusionClassifier, arrays: Arrays) -> None:
    X, y = arrays
    before = {k: v.clone() for k, v in fitted.model_.state_dict().items()}
    choice = choose_rows(fitted, X, y, 5, strategy)
    assert len(set(choice.picks.tolist())) == 5
    assert (y[choice.picks] == -1).all()
    assert np.isnan(choice.utilities[:30]).all()
    assert np.isfinite(choice.utilities[30:]).all()
    assert all((v == before[k]).all() for k, v in fitted.model_.state_dict().items())


def test_margin_on_arrays_is_that_of_predict_proba(fitted: JointDiffusionClassifier, arrays: Arrays) -> None:
    X, y = arrays
    choice = choose_rows(fitted, X, y, 4, "margin", candidates=np.arange(90, 40, -1))
    p = np.sort(fitted.predict_proba(X[41:91]), axis=1)
    np.testing.assert_allclose(choice.utilities[41:91], 1 - (p[:, -1] - p[:, -2]), atol=1e-5)
    assert set(choice.picks) == set(41 + np.argsort(p[:, -1] - p[:, -2])[:4])


def test_what_cannot_be_chosen_from(fitted: JointDiffusionClassifier, arrays: Arrays) -> None:
    X, y = arrays
    with pytest.raises(DataError, match="nothing is left"):
        choose_rows(fitted, X[:30], y[:30])
    with pytest.raises(DataError, match="distinct rows of X, 0 to 119"):
        choose_rows(fitted, X, y, candidates=np.array([3, 3]))
    with pytest.raises(DataError, match="for 120 images"):
        choose_rows(fitted, X, y[:5])
    with pytest.raises(DataError, match=r"not fitted with: \['9'\]"):
        choose_rows(fitted, X, np.where(y == 7, 9, y))


# ---- modAL


def test_a_callable_for_modal(fitted: JointDiffusionClassifier, arrays: Arrays) -> None:
    X, y = arrays
    learner = SimpleNamespace(estimator=fitted, X_training=X[:30], y_training=y[:30])
    query = modal_strategy("badge", random_state=3)
    rows, utilities = query(learner, X[30:], n_instances=6, random_tie_break=True)
    assert rows.shape == utilities.shape == (6,)
    assert len(set(rows.tolist())) == 6
    assert rows.max() < 90
    np.testing.assert_array_equal(rows + 30, choose_rows(fitted, X, y, 6, "badge", random_state=3).picks)
    alone = SimpleNamespace(estimator=fitted, X_training=None, y_training=None)
    assert modal_strategy("margin")(alone, X, 2)[0].shape == (2,)
    with pytest.raises(SSLDError, match="must be a JointDiffusionClassifier"):
        query(SimpleNamespace(estimator=object()), X)


# ---- scikit-activeml


@pytest.fixture(scope="module")
def activeml():
    pytest.importorskip("skactiveml", reason="the extra activeml is not installed")
    from ssl_diffusion.acquisition.adapters import to_activeml

    return to_activeml


def test_without_scikit_activeml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skactiveml.base", None)
    monkeypatch.delitem(sys.modules, "ssl_diffusion.acquisition.adapters.to_activeml", raising=False)
    with pytest.raises(SSLDError, match=r"pip install 'ssld\[activeml\]'"):
        import ssl_diffusion.acquisition.adapters.to_activeml  # noqa: F401


def test_our_strategy_in_a_loop_of_scikit_activeml(activeml, arrays: Arrays, digits_pool) -> None:
    from skactiveml.utils import is_unlabeled

    X, codes = arrays
    truth = {image.tobytes(): label for image, label in zip(digits_pool.images, digits_pool.labels, strict=True)}
    y = np.where(codes == -1, np.nan, codes)
    clf = activeml.JointClassifier(estimator(), classes=[0, 3, 7])
    strategy = activeml.JointStrategy("margin", random_state=0)
    for n_left in (90, 85):
        assert is_unlabeled(y).sum() == n_left
        rows, utilities = strategy.query(X, y, clf, batch_size=5, return_utilities=True)
        assert not hasattr(clf, "estimator_")  # the one that was given stays as it was
        assert utilities.shape == (5, 120)
        assert is_unlabeled(y[rows]).all()
        assert np.isnan(utilities[:, ~is_unlabeled(y)]).all()
        assert np.isnan(utilities[1:, rows[0]]).all()
        assert (rows == np.nanargmax(utilities, axis=1)).all()
        y[rows] = [truth[X[i].tobytes()] for i in rows]
    again = activeml.JointStrategy("margin", random_state=0).query(X, np.where(codes == -1, np.nan, codes), clf, batch_size=5)
    first = activeml.JointStrategy("margin", random_state=0).query(X, np.where(codes == -1, np.nan, codes), clf, batch_size=5)
    np.testing.assert_array_equal(again, first)
    some = strategy.query(X, y, clf, candidates=np.array([100, 101, 102]), batch_size=2)
    assert set(some) <= {100, 101, 102}


def test_strategies_of_scikit_activeml_on_our_model(activeml, arrays: Arrays) -> None:
    from skactiveml.pool import RandomSampling, UncertaintySampling

    X, codes = arrays
    y = np.where(codes == -1, np.nan, codes)
    clf = activeml.JointClassifier(estimator(), classes=[0, 3, 5, 7]).fit(X, y)
    p = clf.predict_proba(X)
    assert p.shape == (120, 4)
    assert (p[:, 2] == 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert set(clf.predict(X)) <= {0, 3, 7}
    assert clf.score(X[:30], codes[:30]) == np.mean(clf.predict(X[:30]) == codes[:30])
    # Theirs works on flat rows: give the estimator the shape.
    flat = activeml.JointClassifier(clone(estimator()).set_params(image_shape=(1, 8, 8)), classes=[0, 3, 7])
    flat.fit(X.reshape(120, -1), y)
    rows = UncertaintySampling(method="margin_sampling", random_state=0).query(
        X.reshape(120, -1), y, flat, fit_clf=False, batch_size=3
    )
    ours = activeml.JointStrategy("margin", random_state=0).query(X.reshape(120, -1), y, flat, fit_clf=False, batch_size=3)
    assert set(rows) == set(ours)
    assert RandomSampling(random_state=0).query(X.reshape(120, -1), y).shape == (1,)


def test_without_a_label_the_classifier_knows_nothing(activeml, arrays: Arrays) -> None:
    X, _ = arrays
    y = np.full(120, np.nan)
    clf = activeml.JointClassifier(estimator(), classes=[0, 3, 7]).fit(X, y)
    assert (clf.predict_proba(X) == 1 / 3).all()
    with pytest.raises(SSLDError, match="no sample has a label yet"):
        activeml.JointStrategy().query(X, y, clf)


def test_bad_classifiers_and_weights(activeml, arrays: Arrays) -> None:
    X, codes = arrays
    y = np.where(codes == -1, np.nan, codes)
    with pytest.raises(SSLDError, match="wrap it in JointClassifier"):
        activeml.JointStrategy().query(X, y, estimator())
    with pytest.raises(ValueError, match="sample weights"):
        activeml.JointClassifier(estimator()).fit(X, y, sample_weight=np.ones(120))
