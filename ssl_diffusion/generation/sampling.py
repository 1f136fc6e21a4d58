r"""Samplers: from noise to images, down a sequence of noise levels.

All of them follow the same process, in the notation of :mod:`ssl_diffusion.models.noise`: an image at level :math:`s` is
:math:`x_s = x + s \epsilon`, and knowing D(x_s; s), the mean of the clean image, is enough to go to a lower level t.
The deterministic ones solve the probability-flow equation (Karras et al. 2022, arXiv 2206.00364, eq. 1)

.. math:: dx / d\sigma = (x - D(x; \sigma)) / \sigma,

in different ways; a sampler is one :meth:`~Sampler.step`, the loop is in :func:`integrate`, and guidance wraps the denoiser.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.inference.predict import evaluating
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import check_gradient
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.packing import packed
from ssl_diffusion.models.pixels import to_bytes
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = [
    "DDIM",
    "SAMPLERS",
    "DDPMAncestral",
    "DPMSolverPP",
    "Denoiser",
    "Heun",
    "NoiseStream",
    "Sampler",
    "denoising_strip",
    "find_sampler",
    "integrate",
    "sample",
    "sample_run",
]

_GUIDED_STEPS = 40

# D(x; sigma) for a batch (B, C, H, W) at one noise level.
Denoiser = Callable[[Tensor, float], Tensor]


class NoiseStream:
    """Standard normal noise, one stream for each sample, so that a sample does not depend on those beside it.

    Args:
        seeds: Random seed of each sample.
        shape: Shape of an image, (C, H, W).
    """

    def __init__(self, seeds: Iterable[int], shape: tuple[int, ...]) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = shape

    def draw(self) -> Tensor:
        """The next noise of every sample, float32, (n, C, H, W)."""
        return torch.stack([torch.randn(self._shape, generator=g) for g in self._streams])


class Sampler(ABC):
    """Rule for the step from one noise level to a lower one.

    An object serves one trajectory, because it may remember the step before; :func:`integrate` makes one for each.

    Attributes:
        default_steps: Number of steps for a good sample.
        evaluations: Denoiser evaluations of one step.
    """

    default_steps: ClassVar[int]
    evaluations: ClassVar[int] = 1

    @abstractmethod
    def step(self, denoise: Denoiser, x: Tensor, s: float, t: float, noise: NoiseStream) -> Tensor:
        """Take images from one noise level to the next.

        Args:
            denoise: Denoiser, guided or not.
            x: Images at level s, (B, C, H, W).
            s: Noise level of the images.
            t: Noise level to reach, in [0, s).
            noise: Source of noise for stochastic samplers.

        Returns:
            Images at level t, (B, C, H, W).
        """


class Heun(Sampler):
    """Second order, deterministic: algorithm 1 of Karras et al. 2022. The step to 0 takes one evaluation, all others two."""

    default_steps = 18
    evaluations = 2

    def step(self, denoise: Denoiser, x: Tensor, s: float, t: float, noise: NoiseStream) -> Tensor:
        """Two slopes, averaged."""
        slope = (x - denoise(x, s)) / s
        proposal = x + (t - s) * slope
        if t == 0:
            return proposal
        return x + (t - s) * (slope + (proposal - denoise(proposal, t)) / t) / 2


class DPMSolverPP(Sampler):
    """DPM-Solver++(2M): second order from one evaluation a step (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    The schedule here has alpha = 1, so half the log-SNR is lambda = -ln sigma.
    """

    default_steps = 18

    def __init__(self) -> None:
        self._last: tuple[Tensor, float] | None = None  # the estimate one step ago, and its noise level

    def step(self, denoise: Denoiser, x: Tensor, s: float, t: float, noise: NoiseStream) -> Tensor:
        """The estimate, extrapolated from the last two levels, then as :class:`DDIM`."""
        estimate = denoise(x, s)
        combined = estimate
        if self._last is not None and t > 0:
            before, level = self._last
            ratio = math.log(s / t) / math.log(level / s)  # of this step to the last one, in lambda
            combined = estimate + ratio / 2 * (estimate - before)
        self._last = estimate, s
        return combined + t / s * (x - combined)


class DDIM(Sampler):
    """First order, deterministic (Song et al. 2021, arXiv 2010.02502, eq. 12 with eta = 0): Euler's method in sigma."""

    default_steps = 50

    def step(self, denoise: Denoiser, x: Tensor, s: float, t: float, noise: NoiseStream) -> Tensor:
        """Keep the direction of the noise, with less of it."""
        estimate = denoise(x, s)
        return estimate + t / s * (x - estimate)


class DDPMAncestral(Sampler):
    """Draws from the posterior q(x_t | x_s, x = D) (Ho et al. 2020, arXiv 2006.11239, eq. 6 and 7); needs many steps."""

    default_steps = 1000

    def step(self, denoise: Denoiser, x: Tensor, s: float, t: float, noise: NoiseStream) -> Tensor:
        """Keep a fraction of the noise, and draw the rest anew."""
        estimate = denoise(x, s)
        fraction = (t / s) ** 2
        mean = estimate + fraction * (x - estimate)
        return mean + t * (1 - fraction) ** 0.5 * noise.draw().to(x) if t > 0 else mean


SAMPLERS: dict[str, type[Sampler]] = {"heun": Heun, "dpmpp": DPMSolverPP, "ddim": DDIM, "ddpm": DDPMAncestral}


def find_sampler(name: str) -> type[Sampler]:
    """The sampler of a name in :data:`SAMPLERS`; raises :class:`SSLDError` for any other name.

    Example:
        >>> find_sampler("heun").__name__
        'Heun'
    """
    if name not in SAMPLERS:
        raise SSLDError(f"no sampler {shown(name)}; {nearest_names(name, SAMPLERS)}")
    return SAMPLERS[name]


def integrate(
    sampler: type[Sampler],
    denoise: Denoiser,
    x: Tensor,
    levels: Tensor,
    noise: NoiseStream,
    *,
    watch: Callable[[int, float, Tensor], None] | None = None,
) -> Tensor:
    """Take images from the first noise level to the last.

    Args:
        sampler: Class of the sampler; one object serves this trajectory.
        denoise: Denoiser, guided or not.
        x: Images at the first noise level, (B, C, H, W).
        levels: Decreasing noise levels, see :meth:`ssl_diffusion.models.Parameterisation.levels`; increasing ones, above 0,
            take DDIM back into the noise.
        noise: Source of noise for stochastic samplers.
        watch: Callback after each step for its number, its noise level and the images there.

    Returns:
        Images at the last noise level, (B, C, H, W).

    Example:
        >>> levels, noise = model.noise.levels(18), NoiseStream(range(4), model.config.image_shape)
        >>> x = integrate(Heun, model.denoise, noise.draw() * float(levels[0]), levels, noise)
    """
    trajectory = sampler()
    for i, (s, t) in enumerate(pairwise(levels.tolist())):
        x = trajectory.step(denoise, x, s, t, noise)
        if watch is not None:
            watch(i + 1, t, x)
    return x


def sample(
    model: JointDiffusion,
    n: int,
    y: Tensor | int | None = None,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: Guidance | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    precision: str = "fp32",
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Draw images from a model.

    The same state of the generator gives the same images, whatever the batch size (except for rounding).

    Args:
        model: Joint model with its EMA weights.
        n: Number of images.
        y: Classes to guide towards, int64, (n,), or one class for all images; None draws without guidance.
        sampler: Name in :data:`SAMPLERS`. None is "dpmpp", or "ddpm" under guidance, whose errors fresh noise corrects.
        steps: Number of steps. None is the sampler's default; 40 if the sampler is None, too, and there is guidance.
        guidance: Form and scale of the guidance; None is the default of :class:`~ssl_diffusion.generation.Guidance`.
        generator: Random generator on the CPU; None is torch's global one.
        batch_size: Images per batch.
        precision: Precision of the network, "fp32" or "bf16".
        progress: Callback for the number of steps done.

    Returns:
        Images, float32, (n, C, H, W), in [-1, 1], on the CPU.

    Raises:
        SSLDError: If the sampler is unknown, the model has no classes to guide towards, or a class does not exist.

    Example:
        >>> x = sample(model, 16, y=3, generator=torch.Generator().manual_seed(0))
    """
    if sampler is None:
        sampler, steps = ("dpmpp", steps) if y is None else ("ddpm", _GUIDED_STEPS if steps is None else steps)
    chosen = find_sampler(sampler)
    steps = chosen.default_steps if steps is None else steps
    if steps < 1:
        raise SSLDError(f"a sampler takes at least one step, not {steps}")
    classes = None if y is None else _classes(model, y, n)
    guidance = guidance or Guidance()
    levels = model.noise.levels(steps)
    seeds = torch.randint(2**62, (n,), generator=generator, device="cpu").tolist()
    images = torch.empty((n, *model.config.image_shape))
    total = n * (len(levels) - 1)
    with evaluating(model, precision, gradients=True) as device:
        reader = packed(model, precision)
        for start in range(0, n, batch_size):
            noise = NoiseStream(seeds[start : start + batch_size], model.config.image_shape)
            x = noise.draw().to(device) * float(levels[0])
            denoise: Denoiser = reader.denoise
            if classes is not None:  # guidance needs gradients
                denoise = guidance.wrap(model, classes[start : start + batch_size].to(device), noise.draw)

            def report(step: int, _: float, x: Tensor, start: int = start) -> None:
                if progress is not None:
                    done = start * (len(levels) - 1) + step * len(x)
                    progress(ProgressUpdate("sample", done, total, "image steps"))

            x = integrate(chosen, denoise, x, levels, noise, watch=report)
            images[start : start + batch_size] = x.clamp(-1, 1).cpu()
    return images


def sample_run(
    run: Run,
    n: int,
    y: NDArray[np.int64] | int | None = None,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: Guidance | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
) -> NDArray[np.uint8]:
    """Draw images from a run.

    Args:
        run: Fitted model.
        n: Number of images.
        y: Class to guide towards, or one class for each image, (n,); None samples without guidance.
        sampler: Name of the sampler; None takes the default of :func:`sample`.
        steps: Steps of the sampler; None takes its own number.
        guidance: Form and scale of the guidance; None takes the default.
        seed: Random seed of the noise.
        batch_size: Images per batch.
        progress: Callback for the number of steps done.

    Returns:
        Images, uint8 (n, C, H, W).

    Raises:
        RunError: If a class is given and the run has no classes, or several for one image.

    Example:
        >>> images = sample_run(load_run("runs/digits-40-s0"), 16, y=3)  # doctest: +SKIP
    """
    if y is not None:
        run.check_single_label("to sample from")
        check_gradient(run.model)
    x = sample(
        run.model,
        n,
        torch.as_tensor(y) if isinstance(y, np.ndarray) else y,
        sampler=sampler,
        steps=steps,
        guidance=guidance,
        generator=torch.Generator().manual_seed(seed),
        batch_size=batch_size,
        precision=run.precision,
        progress=progress,
    )
    return to_bytes(x)


def denoising_strip(
    model: JointDiffusion, n: int, shown: int, *, generator: torch.Generator | None = None
) -> tuple[list[NDArray[np.float32]], list[float]]:
    """Draw images and keep what they look like on the way from noise to image.

    Args:
        model: Joint model with its EMA weights.
        n: Number of images.
        shown: Largest number of noise levels to keep, evenly spaced over the steps.
        generator: Random generator on the CPU; None is torch's global one.

    Returns:
        The images at each of these noise levels, float32, (n, C, H, W), and the levels, decreasing to 0.

    Example:
        >>> rows, levels = denoising_strip(model, 2, 5)  # doctest: +SKIP
    """
    levels = model.noise.levels(Heun.default_steps)
    kept = set(np.linspace(0, len(levels) - 1, shown).round().astype(int).tolist())
    noise = NoiseStream(torch.randint(2**62, (n,), generator=generator).tolist(), model.config.image_shape)
    steps: list[NDArray[np.float32]] = []

    def watch(step: int, _: float, x: Tensor) -> None:
        if step in kept:
            steps.append(x.float().cpu().numpy())

    with evaluating(model, "fp32") as device:
        x = noise.draw().to(device) * float(levels[0])
        watch(0, float(levels[0]), x)
        integrate(Heun, packed(model, "fp32").denoise, x, levels, noise, watch=watch)
    return steps, [float(levels[i]) for i in sorted(kept)]


def _classes(model: JointDiffusion, y: Tensor | int, n: int) -> Tensor:
    k = model.config.n_classes
    if not k:
        raise SSLDError("this model was trained without labels, so it has no classes to sample from")
    classes = torch.as_tensor(y, dtype=torch.int64, device="cpu").expand(n) if isinstance(y, int) else y.cpu()
    if classes.shape != (n,):
        raise SSLDError(f"one class for each of {n} images is needed, not {tuple(classes.shape)}")
    if n and not 0 <= int(classes.min()) <= int(classes.max()) < k:
        raise SSLDError(f"classes are 0 to {k - 1}; {sorted(set(classes.tolist()) - set(range(k)))} are not among them")
    return classes
