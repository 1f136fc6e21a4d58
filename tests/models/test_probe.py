"""The probe is logistic regression: the same as scikit-learn's, whatever the number of features, and a joint model like any."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ssl_diffusion import JointDiffusionClassifier
from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.inference.predict import predict_logits, represent
from ssl_diffusion.models.probe import PENALTIES, fit_probe, standardisation
from ssl_diffusion.training.fit import fit_model
from ssl_diffusion.training.recipe import Recipe


def blobs(
    n: int, features: int, k: int = 3, spread: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Gaussian classes whose features have very different scales."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    z = rng.normal(size=(k, features))[y] + spread * rng.normal(size=(n, features))
    return (z * 10.0 ** rng.uniform(-1, 1, features) + rng.normal(size=features)).astype(np.float32), y


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("n", "features", "largest"), [(60, 8, 1000), (30, 400, 1000), (30, 400, 10)])
def test_it_is_penalised_logistic_regression_on_standardised_features(
    n: int, features: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more samples than features, in coordinates of the samples' span, and with too many samples for that."""
    monkeypatch.setattr("ssl_diffusion.models.probe._LARGEST_SPAN", largest)
    z, y = blobs(n, features)
    probe = fit_probe(z, y, z, 3, inverse_penalty=5.0)
    x = (z - z.mean(axis=0)) / z.std(axis=0) / np.sqrt(features)
    reference = LogisticRegression(C=5.0, max_iter=5000, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(softmax(probe.logits(z)), reference.predict_proba(x), atol=2e-3)
    assert probe.weight.shape == (3, features)
    assert probe.weight.dtype == probe.bias.dtype == np.float32


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-2, 1e2), shift=st.floats(-10, 10))
def test_units_and_origin_of_the_features_do_not_matter(scale: float, shift: float) -> None:
    z, y = blobs(24, 6)
    plain = softmax(fit_probe(z, y, z, 3, inverse_penalty=10.0).logits(z))
    moved = (z * scale + shift).astype(np.float32)
    np.testing.assert_allclose(softmax(fit_probe(moved, y, moved, 3, inverse_penalty=10.0).logits(moved)), plain, atol=5e-3)


def test_two_classes_give_two_logits() -> None:
    z, y = blobs(40, 5, k=2, spread=0.3)
    probe = fit_probe(z, y, z, 2)
    assert probe.weight.shape == (2, 5)
    assert (probe.logits(z).argmax(axis=1) == y).mean() > 0.9


def test_a_class_without_labels_is_unlikely_everywhere_and_the_others_are_as_without_it() -> None:
    z, y = blobs(40, 10, k=3)
    with_third = softmax(fit_probe(z, np.where(y == 2, 3, y), z, 4, inverse_penalty=10.0).logits(z))
    without = softmax(fit_probe(z, y, z, 3, inverse_penalty=10.0).logits(z))
    assert with_third[:, 2].max() < 0.1
    rest = with_third[:, [0, 1, 3]] / with_third[:, [0, 1, 3]].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(rest, without, atol=1e-4)


def test_one_class_only_is_predicted_everywhere() -> None:
    z, _ = blobs(10, 4)
    probe = fit_probe(z, np.full(10, 1), z, 3)
    assert (probe.logits(z).argmax(axis=1) == 1).all()
    assert np.isfinite(probe.weight).all()


def test_several_labels_an_image_are_as_many_regressions() -> None:
    z, y = blobs(60, 6, k=3)
    labels = np.stack([y == 0, y != 2, np.zeros(60)], axis=1).astype(np.int64)
    probe = fit_probe(z, labels, z, 3, inverse_penalty=10.0)
    x = (z - z.mean(axis=0)) / z.std(axis=0) / np.sqrt(6)
    for k in (0, 1):
        reference = LogisticRegression(C=10.0, max_iter=5000, tol=1e-8).fit(x, labels[:, k]).predict_proba(x)[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-probe.logits(z)[:, k])), reference, atol=2e-3)
    assert (probe.logits(z)[:, 2] < 0).all()


def test_validation_prefers_strong_penalties_for_noise_and_weak_ones_for_clean_classes() -> None:
    clean, y = blobs(120, 40, spread=0.2)
    noise = np.random.default_rng(1).normal(size=(120, 40)).astype(np.float32)
    assert fit_probe(clean, y, clean, 3).inverse_penalty > fit_probe(noise, y, noise, 3).inverse_penalty
    assert fit_probe(noise, y, noise, 3).inverse_penalty == min(PENALTIES)


def test_a_fit_of_the_objective_probe_reads_the_frozen_denoiser(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    labeled = choose_labeled(digits_pool, 40, seed=0)
    fitted = fit_model(tiny_recipe.with_setting("training.objective", "probe"), digits_pool, labeled)
    denoiser = fit_model(tiny_recipe.with_setting("training.objective", "denoise-only"), digits_pool, None)
    assert all(np.array_equal(fitted.ema[name], t) for name, t in denoiser.ema.items())
    assert fitted.training.steps == 0
    images, truth = digits_pool.images[digits_pool.test], digits_pool.labels[digits_pool.test]
    logits = predict_logits(fitted.model(), images)
    assert (logits.argmax(axis=1) == truth).mean() > 0.6  # a denoiser of four steps is nearly a random network
    positions = digits_pool.positions(labeled.train)
    z = represent(fitted.model(), digits_pool.images[np.concatenate([positions, digits_pool.train])])
    direct = fit_probe(z[:40], digits_pool.labels[positions], z[40:], 10)
    agreement = direct.logits(represent(fitted.model(), images)).argmax(axis=1) == logits.argmax(axis=1)
    assert agreement.mean() > 0.97


@pytest.mark.parametrize("seed", [0, 3])
def test_a_pool_whose_representation_is_at_hand_gives_the_probe_of_the_fit(
    tiny_recipe: Recipe, digits_pool: Pool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both standardise by the same images, here so few that others would show."""
    monkeypatch.setattr("ssl_diffusion.models.probe._REFERENCE", 50)
    labeled = choose_labeled(digits_pool, 40, seed=0)
    recipe = tiny_recipe.with_setting("training.objective", "probe").with_setting("training.seed", seed)
    model = fit_model(recipe, digits_pool, labeled).model()
    embedded = EmbeddedPool(digits_pool.images, represent(model, digits_pool.images), digits_pool.train, model)
    known = digits_pool.positions(labeled.train)
    probe = embedded.probe(known, digits_pool.labels[known], 10, seed=seed)
    logits = predict_logits(model, digits_pool.images)
    np.testing.assert_allclose(embedded.logits(probe, np.arange(len(digits_pool))), logits, atol=0.02)
    other = embedded.probe(known, digits_pool.labels[known], 10, seed=seed + 1)
    assert np.abs(embedded.logits(other, np.arange(len(digits_pool))) - logits).max() > 0.1


def test_training_can_start_from_the_probe(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    labeled = choose_labeled(digits_pool, 40, seed=0)
    still = ["training.steps=1", "training.learning_rate=1e-9", "training.head_start=probe"]
    probe, joint = (
        fit_model(tiny_recipe.with_overrides([*still, f"training.objective={objective}"]), digits_pool, labeled).model()
        for objective in ("probe", "joint")
    )
    images = digits_pool.images[digits_pool.test]
    np.testing.assert_allclose(predict_logits(joint, images), predict_logits(probe, images), atol=1e-3)


def test_the_estimator_can_be_a_probe(tiny_settings: tuple[str, ...], digits_pool: Pool) -> None:
    images, y = digits_pool.images[digits_pool.train][:300], digits_pool.labels[digits_pool.train][:300].copy()
    y[100:] = -1
    settings_ = dict(s.split("=") for s in tiny_settings)
    clf = JointDiffusionClassifier(recipe="digits", objective="probe", settings=settings_, random_state=0).fit(images, y)
    assert clf.n_iter_ == 0
    truth = digits_pool.labels[digits_pool.train][100:300]
    assert (clf.predict(images[100:]) == truth).mean() > 0.6


def test_what_a_probe_cannot_do_is_said(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    labeled = choose_labeled(digits_pool, 20, seed=0)
    with pytest.raises(RecipeError, match=r"needs the pretraining phase, but pretraining\.steps is 0"):
        fit_model(tiny_recipe.with_overrides(["training.objective=probe", "pretraining.steps=0"]), digits_pool, labeled)
    with pytest.raises(RecipeError, match="needs a linear head"):
        fit_model(tiny_recipe.with_overrides(["training.head_start=probe", "model.head_width=8"]), digits_pool, labeled)


@pytest.mark.parametrize("objective", ["labels-only", "probe"])
def test_head_start_is_for_joint_training_only(tiny_recipe: Recipe, digits_pool: Pool, objective: str) -> None:
    labeled = choose_labeled(digits_pool, 20, seed=0)
    settings_ = ["training.head_start=probe", "model.head_width=8", f"training.objective={objective}"]
    fitted = fit_model(tiny_recipe.with_overrides(settings_), digits_pool, labeled)
    assert fitted.model().head is not None


def test_a_probe_needs_less_memory_than_the_representations_it_is_given() -> None:
    """A copy in float64 would be twice as large: of 28,224 features it made a fit of Fashion-MNIST need 4 GB."""
    rng = np.random.default_rng(0)
    z, reference = (rng.normal(size=(n, 6000)).astype(np.float32) for n in (1500, 1000))
    labels = rng.integers(0, 3, len(z))
    tracemalloc.start()
    fit_probe(z, labels, reference, 3, inverse_penalty=0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * (z.nbytes + reference.nbytes)


def test_standardising_in_parts_changes_no_bit() -> None:
    reference = np.random.default_rng(1).normal(3.0, 2.0, size=(40, 5000)).astype(np.float32)
    mean, scale = standardisation(reference)
    np.testing.assert_array_equal(mean, reference.mean(axis=0, dtype=np.float64))
    np.testing.assert_array_equal(scale, reference.std(axis=0, dtype=np.float64) * np.sqrt(5000))
