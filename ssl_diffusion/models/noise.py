r"""Noise levels, preconditioning and loss weights: every formula of the diffusion process stands here, once.

Notation. A clean image :math:`x` has shape (B, C, H, W) and values in [-1, 1]. At noise level :math:`\sigma`
(standard deviation of the added Gaussian noise) the network sees

.. math:: x_\sigma = x + \sigma \epsilon, \qquad \epsilon \sim \mathcal N(0, I).

The denoiser wraps a raw network F so that F never meets the noise schedule (Karras et al. 2022, eq. 7):

.. math:: D(x_\sigma; \sigma) = c_{skip} x_\sigma + c_{out} F(c_{in} x_\sigma; c_{noise}).

The denoising loss :math:`w(\sigma) |D(x_\sigma; \sigma) - x|^2` with :math:`w = 1 / c_{out}^2` is the plain mean
squared error of F to its target, :func:`target`, and is computed in that form: it never divides by a small number.

Two parameterisations share this interface:

* :class:`EDM`: Karras et al. 2022, arXiv 2206.00364, table 1, column "Ours".
* :class:`DDPM`: eps-prediction on a linear beta schedule, Ho et al. 2020, arXiv 2006.11239, written in terms of
  :math:`\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`, so that samplers and guidance need one notation only.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DDPM", "EDM", "Coefficients", "Parameterisation", "target"]


@dataclass(frozen=True)
class Coefficients:
    """Preconditioning at given noise levels.

    Attributes:
        skip: Weight c_skip of the noised image in the estimate, (B, 1, 1, 1).
        out: Weight c_out of the network's output, (B, 1, 1, 1).
        in_: Factor c_in of the network's input, (B, 1, 1, 1).
        conditioning: Scalar c_noise that tells the network the noise level, (B,).
    """

    skip: Tensor
    out: Tensor
    in_: Tensor
    conditioning: Tensor


class Parameterisation(ABC):
    """Distribution of noise levels, and preconditioning of the raw network.

    Training draws float32 levels, in which the network computes; samplers get float64 levels, because their steps are
    differences of levels that span five orders of magnitude.

    Attributes:
        sigma_min: Smallest noise level; a clean image is treated as having this one.
        sigma_max: Largest noise level; a sample starts here.
    """

    sigma_min: float
    sigma_max: float

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw noise levels for training.

        Args:
            n: Number of levels.
            generator: Random generator.

        Returns:
            Noise levels, float32, (n,), on the generator's device.
        """

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Preconditioning for noise levels, (B,); levels below `sigma_min` count as `sigma_min`."""

    @abstractmethod
    def levels(self, steps: int, start: float | None = None) -> Tensor:
        """Noise levels of a sampler.

        Args:
            steps: Number of steps.
            start: First noise level; None is `sigma_max`.

        Returns:
            Decreasing levels from `start` to exactly 0, float64, (steps + 1,); fewer if the schedule has fewer.
        """

    @abstractmethod
    def spread(self, sigma: float) -> float:
        """Rough standard deviation of a clean pixel given its noised image, on the scale [-1, 1]: what no denoiser can know."""

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight w(sigma) = 1 / c_out^2 of the squared error in image space, (B,)."""
        return self.coefficients(sigma).out.flatten() ** -2


class EDM(Parameterisation):
    r"""Karras et al. 2022: ln sigma ~ N(p_mean, p_std^2), unit-variance input and target for the network.

    Args:
        sigma_data: Root mean square of the data's pixel values in [-1, 1]. The paper writes "standard deviation", for
            zero-mean data; the second moment makes the variance of the network's input and target one when the mean is
            not zero, too (most of a Fashion-MNIST image is background at -1).
        p_mean: Mean of ln sigma during training.
        p_std: Standard deviation of ln sigma during training.
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.

    Example:
        >>> noise = EDM(sigma_data=0.5)
        >>> sigma = noise.draw(128, torch.Generator().manual_seed(0))
    """

    def __init__(
        self,
        sigma_data: float = 0.5,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        self.sigma_data = sigma_data
        self.p_mean = p_mean
        self.p_std = p_std
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Log-normal noise levels within [sigma_min, sigma_max]."""
        normal = torch.randn(n, generator=generator, device=generator.device)
        return (normal * self.p_std + self.p_mean).exp().clamp(self.sigma_min, self.sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Table 1 of Karras et al. 2022, except for the scale of `conditioning`."""
        s = sigma.float().clamp(min=self.sigma_min)
        total = s**2 + self.sigma_data**2
        shape = (-1, 1, 1, 1)
        return Coefficients(
            skip=(self.sigma_data**2 / total).view(shape),
            out=(s * self.sigma_data * total.rsqrt()).view(shape),
            in_=total.rsqrt().view(shape),
            # Karras et al. use ln(sigma) / 4. The same embedding serves DDPM's integer steps, whose frequencies run
            # from 1 down to 1e-4, so ln(sigma) is stretched: more than two or three of them then carry information.
            conditioning=s.log() * 10.0,
        )

    def levels(self, steps: int, start: float | None = None) -> Tensor:
        """Eq. 5 of Karras et al. with rho = 7: evenly spaced in sigma^(1/7)."""
        levels = _karras(self.sigma_max if start is None else start, self.sigma_min, steps)
        return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])

    def spread(self, sigma: float) -> float:
        """Posterior standard deviation of Gaussian data with standard deviation sigma_data; equals c_out."""
        return sigma * self.sigma_data / math.hypot(sigma, self.sigma_data)


class DDPM(Parameterisation):
    r"""Ho et al. 2020: eps-prediction, linear beta schedule scaled so that `steps` steps reach the same end.

    beta_t runs linearly from 1e-4 * 1000 / steps to 0.02 * 1000 / steps. Then D(x_s; s) = x_s - s F(x_s / sqrt(1 + s^2); t),
    where t is the step whose sigma_t is nearest to s in the logarithm, and the loss is the MSE of F to eps.

    Args:
        steps: Number T of noise levels, at least 21 (1000 for 32 px images in the official code, 500 for Fashion-MNIST).

    Raises:
        ValueError: If there are too few steps for the schedule.
    """

    def __init__(self, steps: int = 1000) -> None:
        if steps < 21:
            raise ValueError(f"a linear schedule of {steps} steps has beta > 1 at its end; use at least 21")
        self.steps = steps
        scale = 1000 / steps
        # On the processor also where the network is only described, on the device "meta".
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64, device="cpu")
        self.alpha_bar = torch.cumprod(1 - beta, dim=0)
        self.sigmas = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()
        self.sigma_min = float(self.sigmas[0])
        self.sigma_max = float(self.sigmas[-1])
        # Boundaries between neighbouring levels, in ln sigma: `bucketize` then finds the nearest step.
        log = self.sigmas.log()
        self._boundaries = (log[1:] + log[:-1]) / 2

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Noise levels of uniformly drawn steps."""
        t = torch.randint(0, self.steps, (n,), generator=generator, device=generator.device)
        return self.sigmas.to(device=t.device, dtype=torch.float32)[t]

    def step_of(self, sigma: Tensor) -> Tensor:
        """Index t in 0..steps-1 of the noise level nearest to `sigma`, int64, shape of `sigma`."""
        log = sigma.double().clamp(min=self.sigma_min).log()
        return torch.bucketize(log, self._boundaries.to(sigma.device))

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """The variance-preserving input x_t and eps-prediction, written for x + sigma eps."""
        s = sigma.float().clamp(min=self.sigma_min)
        shape = (-1, 1, 1, 1)
        return Coefficients(
            skip=torch.ones_like(s).view(shape),
            out=-s.view(shape),
            in_=(1 + s**2).rsqrt().view(shape),
            conditioning=self.step_of(sigma).float(),
        )

    def levels(self, steps: int, start: float | None = None) -> Tensor:
        """All levels of the schedule if there are enough steps, otherwise those nearest to eq. 5 of Karras et al.

        Levels evenly spaced in t would leave too few small ones, where a deterministic sampler needs them.
        """
        last = self.steps - 1 if start is None else int(self.step_of(torch.tensor(start)))
        if steps > last:
            t = torch.arange(last, -1, -1)
        else:
            t = torch.unique(self.step_of(_karras(float(self.sigmas[last]), self.sigma_min, steps))).flip(0)
        return torch.cat([self.sigmas[t], torch.zeros(1, dtype=torch.float64)])

    def spread(self, sigma: float) -> float:
        """Posterior standard deviation of Gaussian data with standard deviation 1, for which the schedule was made."""
        return sigma / math.hypot(1, sigma)


def _karras(high: float, low: float, steps: int) -> Tensor:
    """Eq. 5 of Karras et al. 2022: evenly spaced in sigma^(1/rho), rho = 7; float64 (steps,)."""
    return torch.linspace(high ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64) ** 7


def target(clean: Tensor, noised: Tensor, c: Coefficients) -> Tensor:
    """Target of F, with which the denoiser returns the clean images: (x - c_skip x_s) / c_out.

    Args:
        clean: Clean images, (B, C, H, W).
        noised: The same images with noise, (B, C, H, W).
        c: Preconditioning at their noise levels.

    Returns:
        Target of the raw network, (B, C, H, W).

    Example:
        >>> c = EDM(sigma_data=0.5).coefficients(torch.tensor([1.0]))
        >>> f = target(clean, noised, c)  # doctest: +SKIP
    """
    return (clean - c.skip * noised) / c.out
