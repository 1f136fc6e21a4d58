"""Samplers against a Gaussian, whose probability flow is known in closed form; and what a sample may depend on."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.sampling import SAMPLERS, DDPMAncestral, NoiseStream, find_sampler, integrate, sample
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.noise import DDPM, EDM
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.testing.toys import GaussianDenoiser, LinearModel

MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
ROTATION = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
VARIANCES = torch.tensor([0.4, 0.05, 0.001], dtype=torch.float64)
GAUSSIAN = GaussianDenoiser(MEAN, ROTATION, VARIANCES)


def flow(name: str, steps: int) -> tuple[Tensor, Tensor]:
    """What a deterministic sampler makes of the Gaussian: x_0 = A x_T + b, found by sending a basis through it."""
    levels = EDM().levels(steps)
    ends = torch.cat([torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)]).view(4, 1, 1, 3)
    x = integrate(find_sampler(name), GAUSSIAN, ends, levels, NoiseStream(range(4), (1, 1, 3))).view(4, 3)
    return (x[1:] - x[0]).T, x[0]


@pytest.mark.parametrize(("name", "steps"), [("heun", 40), ("dpmpp", 80), ("ddim", 400)])
def test_deterministic_samplers_reach_mean_and_covariance(name: str, steps: int) -> None:
    a, b = flow(name, steps)
    covariance = EDM().sigma_max ** 2 * a @ a.T
    torch.testing.assert_close(b, MEAN, atol=5e-3, rtol=0)
    torch.testing.assert_close(covariance, ROTATION @ VARIANCES.diag() @ ROTATION.T, atol=0.01, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("heun", 2), ("dpmpp", 2), ("ddim", 1)])
def test_order_of_convergence(name: str, order: int) -> None:
    exact = ROTATION @ (VARIANCES / (VARIANCES + EDM().sigma_max ** 2)).sqrt().diag() @ ROTATION.T

    def error(steps: int) -> float:
        return float((flow(name, steps)[0] - exact).norm() / exact.norm())

    observed = [math.log2(error(n) / error(2 * n)) for n in (40, 80)]
    assert observed == pytest.approx([order] * 2, abs=0.35)


def test_trajectories_of_one_sampler_are_independent() -> None:
    """DPM-Solver++ remembers the step before, which must not be the last one of another trajectory."""
    assert torch.equal(flow("dpmpp", 10)[0], flow("dpmpp", 10)[0])


def test_ancestral_sampling_reaches_mean_and_covariance() -> None:
    n, levels = 1500, EDM().levels(250)
    noise = NoiseStream(range(n), (1, 1, 3))
    x = integrate(DDPMAncestral, GAUSSIAN, noise.draw().double() * float(levels[0]), levels, noise).view(n, 3)
    torch.testing.assert_close(x.mean(dim=0), MEAN, atol=0.06, rtol=0)
    main = (x - MEAN) @ ROTATION
    assert main.var(dim=0).numpy() == pytest.approx(VARIANCES.numpy(), rel=0.15)


class Constant(NoiseStream):
    """The same value in the place of noise."""

    def __init__(self, value: float) -> None:
        self.value = value

    def draw(self) -> Tensor:
        return torch.full((1, 1, 1, 3), self.value, dtype=torch.float64)


def test_more_ancestral_steps_are_never_worse_with_an_exact_denoiser() -> None:
    """Mean and covariance of the samples in closed form, for a step is linear: its errors fall as one over the steps."""
    ends = torch.cat([torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)]).view(4, 1, 1, 3)
    exact, errors = ROTATION @ VARIANCES.diag() @ ROTATION.T, []
    for steps in (50, 250, 1000):
        levels = EDM().levels(steps)
        mean, covariance = torch.zeros(3, dtype=torch.float64), float(levels[0]) ** 2 * torch.eye(3, dtype=torch.float64)
        for s, t in pairwise(levels.tolist()):
            still = DDPMAncestral().step(GAUSSIAN, ends, s, t, Constant(0)).view(4, 3)
            fresh = DDPMAncestral().step(GAUSSIAN, ends[:1], s, t, Constant(1)).view(3) - still[0]
            a = (still[1:] - still[0]).T
            mean, covariance = a @ mean + still[0], a @ covariance @ a.T + fresh.square().diag()
        torch.testing.assert_close(mean, MEAN, atol=1e-3, rtol=0)
        errors.append(float((covariance - exact).norm() / exact.norm()))
    assert errors[2] < 0.012
    assert errors[0] / errors[1] == pytest.approx(4.46, rel=0.01)  # towards 5
    assert errors[1] / errors[2] == pytest.approx(3.91, rel=0.01)  # towards 4


@pytest.mark.parametrize("parameterisation", [EDM(), DDPM(100)])
def test_levels_fall_to_zero(parameterisation: EDM | DDPM) -> None:
    levels = parameterisation.levels(18)
    assert len(levels) == 19 or (isinstance(parameterisation, DDPM) and 15 <= len(levels) < 19)  # no more levels there
    assert float(levels[0]) == pytest.approx(parameterisation.sigma_max)
    assert float(levels[-1]) == 0
    assert bool((levels.diff() < 0).all())
    part = parameterisation.levels(5, 0.6)
    assert float(part[0]) == pytest.approx(0.6, rel=0.05)
    assert len(DDPM(100).levels(1000)) == 101  # there are no more levels than the schedule has


# ---- the model's sample


@pytest.fixture(scope="module")
def model() -> JointDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = JointConfig(
            model=ModelSettings(channels=8, blocks=1, groups=4), n_classes=3, image_shape=(1, 6, 5), head_noise=0.5
        )
        made = JointDiffusion(config)
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return made


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("y", [None, 1])
def test_a_sample_depends_on_the_generator_alone(model: JointDiffusion, name: str, y: int | None) -> None:
    def draw(batch_size: int, seed: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample(model, 5, y, sampler=name, steps=4, generator=generator, batch_size=batch_size)

    x = draw(5)
    assert x.shape == (5, 1, 6, 5)
    assert x.dtype == torch.float32
    assert float(x.abs().max()) <= 1
    assert torch.equal(x, draw(5))
    torch.testing.assert_close(x, draw(2), atol=1e-3, rtol=0)
    assert not torch.equal(x, draw(5, seed=4))


def test_the_model_is_left_as_it_was(model: JointDiffusion) -> None:
    model.train()
    sample(model, 2, 0, steps=2)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_progress_counts_every_step(model: JointDiffusion) -> None:
    seen: list[tuple[int, int]] = []
    sample(model, 5, sampler="ddim", steps=3, batch_size=2, progress=lambda u: seen.append((u.done, u.total)))
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_cannot_be_sampled_is_said(model: JointDiffusion) -> None:
    with pytest.raises(SSLDError, match="did you mean heun"):
        sample(model, 1, sampler="huen")
    with pytest.raises(SSLDError, match="at least one step"):
        sample(model, 1, steps=0)
    with pytest.raises(SSLDError, match=r"classes are 0 to 2; \[3\] are not"):
        sample(model, 2, torch.tensor([0, 3]))
    with pytest.raises(SSLDError, match="one class for each of 2 images"):
        sample(model, 2, torch.tensor([0, 1, 2]))
    unlabeled = JointDiffusion(JointConfig(model=ModelSettings(channels=8, blocks=1, groups=4), image_shape=(1, 6, 6)))
    with pytest.raises(SSLDError, match="no classes to sample from"):
        sample(unlabeled, 1, 0)


# ---- guidance


def test_guidance_moves_samples_into_the_class() -> None:
    gaussian = GaussianDenoiser(torch.zeros(4), torch.eye(4), torch.full((4,), 0.25))
    weight = torch.tensor([[6.0, 0, 0, 0], [-6.0, 0, 0, 0]])
    toy = LinearModel(weight, torch.zeros(2), (1, 2, 2), gaussian)

    def share(guidance: Guidance) -> float:
        x = sample(toy, 400, 0, guidance=guidance, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        return float((toy.classify(x).argmax(dim=1) == 0).float().mean())

    assert share(Guidance(scale=0)) == pytest.approx(0.5, abs=0.1)
    assert share(Guidance(scale=1)) > 0.95


@pytest.mark.parametrize("form", ["estimate", "representation"])
@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_guidance_without_scale_changes_nothing_and_with_it_something(model: JointDiffusion, form: str, sigma: float) -> None:
    x, target = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])

    def estimate(scale: float) -> Tensor:
        with torch.no_grad():
            return Guidance(form, scale).wrap(model.eval(), target, lambda: torch.zeros_like(x))(x, sigma)

    torch.testing.assert_close(estimate(0), model.denoise(x, sigma).detach())
    torch.testing.assert_close(estimate(1e-6), estimate(0), atol=1e-4, rtol=0)
    assert not torch.allclose(estimate(1.0), estimate(0), atol=1e-4)


def test_unknown_guidance_is_refused() -> None:
    with pytest.raises(SSLDError, match="'estimate' or 'representation', not 'pixels'"):
        Guidance("pixels")
    with pytest.raises(SSLDError, match="a number from 0, not -1"):
        Guidance(scale=-1)


def test_the_ddpm_parameterisation_is_sampled_on_its_own_levels() -> None:
    """Its exact denoiser of a Gaussian gives the Gaussian back, too."""
    toy = LinearModel(
        torch.zeros(2, 4),
        torch.zeros(2),
        (1, 2, 2),
        GaussianDenoiser(torch.full((4,), 0.3), torch.eye(4), torch.full((4,), 0.04)),
    )
    toy.noise = DDPM(1000)
    for name, steps in (("dpmpp", 60), ("heun", 30), ("ddpm", 1000)):
        x = sample(toy, 400 if name == "ddpm" else 1500, sampler=name, steps=steps, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        assert float(x.mean()) == pytest.approx(0.3, abs=0.03)
        assert float(x.var()) == pytest.approx(0.04, rel=0.12)


def test_colour_images_of_an_odd_size_can_be_guided_and_explained() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = ModelSettings(channels=8, blocks=1, groups=4, stem=2, read_sigma=0.2)
        model = JointDiffusion(JointConfig(model=unet, n_classes=3, image_shape=(3, 7, 6), head_noise=0.5))
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.2)
    assert sample(model, 2, 1, steps=3).shape == (2, 3, 7, 6)
    images = torch.randint(0, 256, (2, 3, 7, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    for precision in ("fp32", "bf16"):
        result = explain(model, images, precision=precision)
        assert result.counterfactual is not None
        x = torch.from_numpy(result.counterfactual).float() / 127.5 - 1
        with torch.no_grad():
            reached = model.eval().classify(x).argmax(dim=1).numpy() == result.target
        assert reached.tolist() == result.success.tolist()  # the search may be in bf16, the verdict is not
