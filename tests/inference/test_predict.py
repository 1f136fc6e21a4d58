"""Figures of merit against hand-computed values and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.metrics import classification_metrics, expected_calibration_error
from ssl_diffusion.inference.predict import evaluating, predict_logits, probabilities, represent
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.classification_report import wilson_interval


@pytest.fixture
def model() -> JointDiffusion:
    torch.manual_seed(0)
    unet = ModelSettings(channels=8, multipliers=(1, 2), blocks=1, groups=4, dropout=0.5, head_dropout=0.5)
    model = JointDiffusion(JointConfig(model=unet, n_classes=10, image_shape=(1, 8, 8)))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_accuracy_and_nll_agree_with_scikit_learn(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 3, (n, k)).astype(np.float32), rng.integers(0, k, n)
    p = probabilities(logits, multilabel=False).astype(np.float64)
    m = classification_metrics(logits, labels)
    assert m["nll"] == pytest.approx(log_loss(labels, p / p.sum(axis=1, keepdims=True), labels=range(k)), rel=1e-4, abs=1e-6)
    assert m["accuracy"] == pytest.approx(accuracy_score(labels, p.argmax(axis=1)))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_nll_of_two_images_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]], dtype=np.float32))
    m = classification_metrics(logits, np.array([0, 1]))
    assert m["nll"] == pytest.approx(-(math.log(0.7) + math.log(0.4)) / 2, rel=1e-5)
    assert m["accuracy"] == 0.5
    # Confidence 0.7 right, 0.5 wrong, in bins of their own: |1 - 0.7| / 2 + |0 - 0.5| / 2.
    assert m["ece"] == pytest.approx(0.4, rel=1e-5)


def test_multilabel_metrics_by_hand() -> None:
    p = np.array([[0.9, 0.2], [0.6, 0.7]])
    logits = np.log(p / (1 - p)).astype(np.float32)
    labels = np.array([[1, 0], [0, 1]])
    m = classification_metrics(logits, labels)
    assert m["accuracy"] == 0.75
    assert m["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.7)) / 4, rel=1e-5)
    np.testing.assert_allclose(probabilities(logits, multilabel=True), p, rtol=1e-5)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, False, True])
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)
    # One bin: the mean confidence against the accuracy.
    assert expected_calibration_error(confidence, right, bins=1) == pytest.approx(abs(4 / 6 - confidence.mean()))


def test_calibration_error_of_errors_that_cancel_across_bins_is_not_zero() -> None:
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    right = np.array([True] * 6 + [False] * 4 + [True] * 9 + [False])
    assert right.mean() == pytest.approx(confidence.mean())
    assert expected_calibration_error(confidence, right) == pytest.approx(0.3)


@pytest.mark.parametrize("low", np.arange(9) / 10 + 0.05)
def test_neighboring_bins_are_kept_apart(low: float) -> None:
    """Half of the answers too sure by 0.2, half not sure enough: together they would look calibrated."""
    confidence = np.array([low, low + 0.1]).repeat(1000)
    right = np.arange(2000) % 1000 < 1000 * np.clip(confidence + np.array([0.2, -0.2]).repeat(1000), 0, 1)
    by_hand = np.abs(right.reshape(2, -1).mean(axis=1) - [low, low + 0.1]).mean()
    assert by_hand > 0.05
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx(by_hand)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1 / 15, 14 / 15])
def test_bin_edges_count_once(confidence: float) -> None:
    assert expected_calibration_error(np.full(4, confidence), np.full(4, False)) == pytest.approx(confidence)


def test_calibrated_predictions_have_almost_no_error_and_overconfident_ones_do() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(5, 0.5), 50_000)
    labels = (p.cumsum(axis=1) < rng.random((50_000, 1))).sum(axis=1)
    calibrated = classification_metrics(np.log(p + 1e-12).astype(np.float32), labels)
    sharpened = classification_metrics(3 * np.log(p + 1e-12).astype(np.float32), labels)
    assert calibrated["ece"] < 0.01
    assert sharpened["ece"] > 0.1
    assert sharpened["accuracy"] == calibrated["accuracy"]


def test_predictions_do_not_depend_on_the_batch_size(model: JointDiffusion, digits_pool: Pool) -> None:
    images = digits_pool.images[:50]
    whole = predict_logits(model, images, batch_size=50)
    assert whole.shape == (50, 10)
    assert whole.dtype == np.float32
    for size in (1, 7, 256):
        np.testing.assert_allclose(predict_logits(model, images, batch_size=size), whole, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(represent(model, images, batch_size=size), represent(model, images), rtol=1e-4, atol=1e-4)


def test_prediction_switches_dropout_off_and_leaves_the_model_as_it_was(model: JointDiffusion, digits_pool: Pool) -> None:
    images = digits_pool.images[:8]
    for mode in (True, False):
        model.train(mode)
        first = predict_logits(model, images)
        assert np.array_equal(first, predict_logits(model, images))
        assert model.training == mode
    model.train()

    def fail() -> None:
        with evaluating(model, "fp32"):
            assert not model.training
            assert torch.is_inference_mode_enabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert model.training


def test_gradients_with_respect_to_inputs_can_be_asked_for_and_none_of_parameters_is_kept(model: JointDiffusion) -> None:
    for p in model.unet.parameters():
        p.requires_grad_(False)
    trainable = [p.requires_grad for p in model.parameters()]
    with evaluating(model, "fp32", gradients=True):
        assert not model.training
        assert not model.classify(torch.zeros(1, 1, 8, 8)).requires_grad
        with torch.enable_grad():
            x = torch.zeros(1, 1, 8, 8, requires_grad=True)
            (gradient,) = torch.autograd.grad(model.classify(x).square().sum(), x)
            assert gradient.abs().sum() > 0
            assert not model.classify(torch.zeros(1, 1, 8, 8)).requires_grad
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert 0 < sum(trainable) < len(trainable)


def test_pixels_are_scaled_to_minus_one_to_one(model: JointDiffusion) -> None:
    images = np.array([0, 255], dtype=np.uint8).repeat(64).reshape(2, 1, 8, 8)
    scaled = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(-1, 1, 8, 8)
    with torch.inference_mode():
        expected = model.eval().classify(scaled).numpy()
    np.testing.assert_allclose(predict_logits(model, images), expected, rtol=1e-4, atol=1e-5)


def test_bf16_predictions_are_close_to_fp32_and_not_the_same(model: JointDiffusion, digits_pool: Pool) -> None:
    images = digits_pool.images[:20]
    exact, rounded = (predict_logits(model, images, precision=p) for p in ("fp32", "bf16"))
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    assert np.abs(exact - rounded).max() < 0.1 * exact.std() + 0.05


def test_progress_is_reported_to_the_end(model: JointDiffusion, digits_pool: Pool) -> None:
    seen: list[ProgressUpdate] = []
    predict_logits(model, digits_pool.images[:25], batch_size=10, progress=seen.append, task="look")
    assert [(u.task, u.done, u.total) for u in seen] == [("look", 10, 25), ("look", 20, 25), ("look", 25, 25)]


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [
        # Newcombe 1998, table I (Wilson score without continuity correction).
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0 / 20, 20, 0.0, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
        (1.0, 20, 0.8389, 1.0),
    ],
)
def test_wilson_interval_against_published_values(share: float, n: int, low: float, high: float) -> None:
    assert wilson_interval(share, n) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 10_000), data=st.data())
def test_wilson_interval_contains_the_share_and_shrinks(n: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, n)) / n
    low, high = wilson_interval(share, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wide = wilson_interval(share, n, z=2.6)
    more = wilson_interval(share, 4 * n)
    assert wide[1] - wide[0] > high - low > more[1] - more[0]
