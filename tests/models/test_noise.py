"""The diffusion process against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_diffusion.models.noise import DDPM, EDM, Parameterisation, target

SIGMAS = torch.tensor([0.002, 0.01, 0.1, 0.5, 1.0, 7.0, 80.0])
levels = st.floats(0.002, 80.0, allow_nan=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sigma_data", [0.2, 0.5, 1.3])
def test_edm_coefficients_are_those_of_table_1(sigma_data: float) -> None:
    c = EDM(sigma_data).coefficients(SIGMAS)
    for i, s in enumerate(SIGMAS.double().tolist()):
        norm = math.sqrt(s * s + sigma_data * sigma_data)
        assert c.skip[i].item() == pytest.approx(sigma_data**2 / norm**2, rel=1e-5)
        assert c.out[i].item() == pytest.approx(s * sigma_data / norm, rel=1e-5)
        assert c.in_[i].item() == pytest.approx(1 / norm, rel=1e-5)
    assert c.skip.shape == c.out.shape == c.in_.shape == (len(SIGMAS), 1, 1, 1)
    assert c.conditioning.shape == (len(SIGMAS),)


def test_edm_weight_is_that_of_table_1() -> None:
    expected = (SIGMAS.double() ** 2 + 0.3**2) / (SIGMAS.double() * 0.3) ** 2
    torch.testing.assert_close(EDM(0.3).weight(SIGMAS).double(), expected, rtol=1e-5, atol=0)


def test_edm_scalar_condition_is_a_strictly_increasing_affine_map_of_ln_sigma() -> None:
    noise = EDM().coefficients(SIGMAS).conditioning
    slopes = noise.diff() / SIGMAS.log().diff()
    assert (slopes > 0).all()
    torch.testing.assert_close(slopes, slopes[:1].expand_as(slopes), rtol=1e-4, atol=0)


@pytest.mark.parametrize("process", [EDM(0.5), DDPM(100)], ids=["edm", "ddpm"])
def test_levels_below_the_smallest_count_as_the_smallest(process: Parameterisation) -> None:
    zero = process.coefficients(torch.zeros(1))
    lowest = process.coefficients(torch.tensor([process.sigma_min]))
    for name in ("skip", "out", "in_", "conditioning"):
        assert torch.equal(getattr(zero, name), getattr(lowest, name))
        assert torch.isfinite(getattr(zero, name)).all()


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("s", [0.25, 1.0])
def test_exact_denoiser_of_gaussian_data_is_skip_times_input(s: float, sigma: float) -> None:
    """For x ~ N(0, s^2) with sigma_data = s, E[x | x_sigma] = c_skip x_sigma, so the target is uncorrelated with the input."""
    n = 200_000
    x = s * torch.randn(n, generator=generator(1), dtype=torch.float64)
    noised = x + sigma * torch.randn(n, generator=generator(2), dtype=torch.float64)
    c = EDM(s).coefficients(torch.tensor([sigma]))
    posterior_mean = noised * s**2 / (s**2 + sigma**2)
    torch.testing.assert_close(
        c.skip.double() * noised[None, None, None], posterior_mean[None, None, None], rtol=1e-5, atol=1e-7
    )
    wanted = target(x.view(1, 1, 1, -1), noised.view(1, 1, 1, -1), c).flatten()
    for low in (True, False):  # the mean of the target is zero on either half of the inputs
        half = noised < 0 if low else noised >= 0
        assert abs(wanted[half].mean().item()) < 5 / math.sqrt(n / 2)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 20.0])
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 0.5), (-0.7, 0.4)], ids=["centered", "dark background"])
def test_network_sees_and_returns_unit_variance(mean: float, spread: float, sigma: float) -> None:
    n = 200_000
    x = mean + spread * torch.randn(n, generator=generator(3), dtype=torch.float64)
    noised = x + sigma * torch.randn(n, generator=generator(4), dtype=torch.float64)
    c = EDM(math.sqrt(mean**2 + spread**2)).coefficients(torch.tensor([sigma]))
    wanted = target(x.view(1, 1, 1, -1), noised.view(1, 1, 1, -1), c)
    assert (c.in_ * noised).square().mean().item() == pytest.approx(1, abs=0.02)
    assert wanted.square().mean().item() == pytest.approx(1, abs=0.02)


@settings(max_examples=50, deadline=None)
@given(sigma=levels, sigma_data=st.floats(0.05, 2.0), seed=st.integers(0, 2**31), ddpm=st.booleans())
def test_weighted_image_error_is_the_network_error(sigma: float, sigma_data: float, seed: int, ddpm: bool) -> None:
    process = DDPM(200) if ddpm else EDM(sigma_data)
    s = torch.tensor([max(sigma, process.sigma_min)])
    g = generator(seed)
    clean, eps, raw = torch.randn(3, 1, 2, 4, 5, generator=g, dtype=torch.float64)
    noised = clean + s.double() * eps
    c = process.coefficients(s)
    denoised = c.skip.double() * noised + c.out.double() * raw
    in_image_space = process.weight(s).double() * (denoised - clean).square().mean()
    in_network_space = (raw - target(clean, noised, c)).square().mean()
    assert in_image_space.item() == pytest.approx(in_network_space.item(), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(sigma=levels, seed=st.integers(0, 2**31))
def test_denoiser_that_returns_its_target_is_perfect(sigma: float, seed: int) -> None:
    clean, eps = torch.randn(2, 1, 1, 3, 3, generator=generator(seed), dtype=torch.float64)
    noised = clean + sigma * eps
    c = EDM(0.5).coefficients(torch.tensor([sigma], dtype=torch.float64))
    torch.testing.assert_close(c.skip * noised + c.out * target(clean, noised, c), clean, rtol=1e-4, atol=1e-4)


def test_edm_draws_are_log_normal_and_in_range() -> None:
    draws = EDM(0.5, p_mean=-0.8, p_std=0.9).draw(50_000, generator()).double()
    assert draws.log().mean().item() == pytest.approx(-0.8, abs=0.02)
    assert draws.log().std().item() == pytest.approx(0.9, abs=0.02)
    wide = EDM(0.5, p_mean=0.0, p_std=20.0, sigma_min=0.01, sigma_max=10.0).draw(1000, generator())
    assert wide.min().item() == pytest.approx(0.01)
    assert wide.max().item() == pytest.approx(10.0)


@pytest.mark.parametrize("process", [EDM(), DDPM(50)], ids=["edm", "ddpm"])
def test_draws_come_from_the_generator_alone(process: Parameterisation) -> None:
    first = process.draw(20, generator(7))
    torch.manual_seed(123)
    assert torch.equal(first, process.draw(20, generator(7)))
    assert not torch.equal(first, process.draw(20, generator(8)))
    assert first.dtype == torch.float32
    assert first.shape == (20,)


@pytest.mark.parametrize("steps", [21, 500, 1000])
def test_ddpm_table_follows_from_the_linear_schedule(steps: int) -> None:
    beta = np.linspace(0.1 / steps, 20 / steps, steps)
    alpha_bar = np.cumprod(1 - beta)
    process = DDPM(steps)
    np.testing.assert_allclose(process.alpha_bar.numpy(), alpha_bar, rtol=1e-9)
    np.testing.assert_allclose(process.sigmas.numpy(), np.sqrt(1 / alpha_bar - 1), rtol=1e-9)
    assert (process.sigma_min, process.sigma_max) == (process.sigmas[0].item(), process.sigmas[-1].item())


@pytest.mark.parametrize("steps", [21, 500, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ddpm_every_level_is_its_own_step(steps: int, dtype: torch.dtype) -> None:
    process = DDPM(steps)
    assert torch.equal(process.step_of(process.sigmas.to(dtype)), torch.arange(steps))
    assert torch.equal(process.coefficients(process.sigmas.to(dtype)).conditioning, torch.arange(steps).float())


@settings(max_examples=50, deadline=None)
@given(sigma=st.floats(1e-4, 1e4))
def test_ddpm_step_is_the_nearest_in_the_logarithm(sigma: float) -> None:
    process = DDPM(100)
    clipped = max(sigma, process.sigma_min)
    distances = (process.sigmas.log() - math.log(clipped)).abs()
    step = process.step_of(torch.tensor([sigma], dtype=torch.float64)).item()
    assert distances[step].item() <= distances.min().item() + 1e-9


def test_ddpm_draws_are_levels_of_the_table_and_uniform() -> None:
    process = DDPM(25)
    draws = process.draw(25_000, generator())
    counts = torch.bincount(process.step_of(draws), minlength=25)
    assert torch.isin(draws, process.sigmas.float()).all()
    assert counts.min() > 800
    assert counts.max() < 1200


@settings(max_examples=30, deadline=None)
@given(step=st.integers(0, 199), seed=st.integers(0, 2**31))
def test_ddpm_target_is_eps_and_input_is_the_variance_preserving_one(step: int, seed: int) -> None:
    process = DDPM(200)
    sigma = process.sigmas[step].float().view(1)
    clean, eps = torch.randn(2, 1, 3, 4, 4, generator=generator(seed), dtype=torch.float64)
    noised = clean + sigma.double() * eps
    c = process.coefficients(sigma)
    torch.testing.assert_close(target(clean, noised, c), eps, rtol=1e-5, atol=1e-5)
    alpha_bar = process.alpha_bar[step]
    torch.testing.assert_close(
        c.in_.double() * noised, alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * eps, rtol=1e-5, atol=1e-5
    )


def test_ddpm_refuses_a_schedule_with_beta_above_one() -> None:
    with pytest.raises(ValueError, match="at least 21"):
        DDPM(20)
    assert (DDPM(21).alpha_bar > 0).all()
