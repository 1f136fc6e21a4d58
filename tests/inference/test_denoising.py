"""The errors of a denoiser, and of the best linear one, against closed forms."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference import LinearDenoiser, denoiser_quality, denoising_errors
from ssl_diffusion.inference.denoising import DenoiserQuality
from ssl_diffusion.models import JointConfig, JointDiffusion, ModelSettings, build_model


@pytest.fixture(scope="module")
def fresh() -> JointDiffusion:
    """A network whose output is zero before it is trained, so that its estimate is c_skip times the noised image."""
    settings = ModelSettings(channels=8, multipliers=(1,), blocks=1, stem=1)
    return build_model(JointConfig(model=settings, n_classes=0, image_shape=(1, 8, 8)), seed=0).eval()


def images_of(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)


def test_the_covariance_is_that_of_ledoit_and_wolf(digits_pool: Pool) -> None:
    images = digits_pool.images[:40]  # fewer than values
    linear = LinearDenoiser.fit(images)
    covariance, _ = ledoit_wolf(images.reshape(40, -1) / 127.5 - 1)
    along = linear.components.T @ np.diag(linear.variances - linear.rest) @ linear.components
    np.testing.assert_allclose(along + linear.rest * np.eye(64), covariance, atol=1e-12)


def test_the_linear_denoiser_is_wieners_filter(digits_pool: Pool) -> None:
    images = digits_pool.images[:40]
    linear, x = LinearDenoiser.fit(images), images.reshape(40, -1) / 127.5 - 1
    covariance, _ = ledoit_wolf(x)
    noised = x + 0.7 * np.random.default_rng(0).standard_normal(x.shape)
    gain = covariance @ np.linalg.inv(covariance + 0.49 * np.eye(64))
    np.testing.assert_allclose(linear.denoise(noised, 0.7), x.mean(axis=0) + (noised - x.mean(axis=0)) @ gain.T, atol=1e-9)


def test_the_error_of_a_fresh_network_is_that_of_scaling(fresh: JointDiffusion) -> None:
    images = images_of(2000)
    x = torch.from_numpy(images / 127.5 - 1)
    errors = denoising_errors(fresh, images, (0.3, 2.0))
    for level, found in zip((0.3, 2.0), errors, strict=True):
        skip = float(fresh.noise.coefficients(torch.tensor([level])).skip)
        expected = (1 - skip) ** 2 * x.square().mean() + skip**2 * level**2
        assert found.mean() == pytest.approx(float(expected), rel=0.02)


def test_errors_do_not_depend_on_the_batch(fresh: JointDiffusion) -> None:
    images = images_of(7)
    whole = denoising_errors(fresh, images, (0.5,), seed=3)
    np.testing.assert_allclose(denoising_errors(fresh, images, (0.5,), seed=3, batch_size=2), whole, rtol=1e-5)
    np.testing.assert_allclose(denoising_errors(fresh, images[:3], (0.5,), seed=3), whole[:, :3], rtol=1e-5)
    assert not np.allclose(denoising_errors(fresh, images, (0.5,), seed=4), whole)


def test_a_fresh_network_is_worse_than_a_linear_filter(fresh: JointDiffusion, digits_pool: Pool) -> None:
    quality = denoiser_quality(fresh, digits_pool.images, digits_pool.train)
    assert quality is not None
    assert quality.ratio > 1.2
    assert quality.to_dict()["ratio"] == pytest.approx(quality.ratio, abs=1e-4)
    assert len(quality.to_dict()["errors"]) == len(quality.levels)


def test_the_ratio_is_a_geometric_mean() -> None:
    assert DenoiserQuality((0.1, 1.0), (0.2, 0.2), (0.1, 0.4)).ratio == pytest.approx(1)


@pytest.mark.parametrize("images", [images_of(49), np.full((60, 1, 8, 8), 7, dtype=np.uint8)])
def test_too_few_images_and_equal_ones_are_not_compared(fresh: JointDiffusion, images: NDArray[np.uint8]) -> None:
    assert denoiser_quality(fresh, images, np.arange(len(images))) is None
