r"""How much a denoiser knows of its images beyond their mean and covariance.

With mean :math:`\mu` and covariance :math:`C` alone, the denoiser with the least error is linear (Wiener's filter),

.. math:: D(x_\sigma) = \mu + C (C + \sigma^2 I)^{-1} (x_\sigma - \mu),

and what one samples with it is Gaussian noise in the colours of the images. A network that is not clearly better has not
learned what the images show, whatever its loss: samples and counterfactuals made with it are noise. The measure here is the
ratio of the two mean squared errors on images that the covariance has not seen, as a geometric mean over four noise levels:
those at which the content of an image is decided, and a linear filter does not know it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.inference.predict import map_batches
from ssl_diffusion.inference.rows import Rows
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.seeding import derive_seed

__all__ = ["DenoiserQuality", "LinearDenoiser", "denoiser_quality", "denoising_errors"]

LEVELS = (0.2, 0.4, 0.8, 1.6)
_REFERENCE, _READ, _LEAST = 1000, 128, 50  # images for the covariance, for the errors, and in all
_LEAST_VARIANCE = 1e-5  # that of rounding to 8 bits is 5e-6


@dataclass(frozen=True)
class DenoiserQuality:
    """Errors of a denoiser beside those of the best linear one.

    Attributes:
        levels: Noise levels, standard deviations on the scale [-1, 1].
        errors: Mean squared errors per value of the denoiser, by level.
        linear_errors: Mean squared errors of the linear denoiser, with the same noise.
    """

    levels: tuple[float, ...]
    errors: tuple[float, ...]
    linear_errors: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Geometric mean of the ratios of the errors; above 1 a linear filter is better."""
        ratios = [a / b for a, b in zip(self.errors, self.linear_errors, strict=True)]
        return math.exp(sum(map(math.log, ratios)) / len(ratios))

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON: levels, errors, linear_errors, ratio."""
        values = {name: [float(f"{v:.4g}") for v in getattr(self, name)] for name in ("levels", "errors", "linear_errors")}
        return values | {"ratio": round(self.ratio, 4)}


def denoiser_quality(
    model: JointDiffusion, images: Rows, rows: NDArray[np.int64], *, seed: int = 0, precision: str = "fp32"
) -> DenoiserQuality | None:
    """Compare a denoiser with the best linear one.

    Args:
        model: Joint diffusion model.
        images: Images, uint8 (N, C, H, W).
        rows: Row numbers of the images that may be read, int64 (n,); at most 1,128 of them are.
        seed: Random seed of the choice of the images and of their noise.
        precision: Precision of the network, "fp32" or "bf16".

    Returns:
        The comparison; None with fewer than 50 images, or if they are all the same.

    Example:
        >>> quality = denoiser_quality(run.model, pool.images, pool.train)
        >>> quality.ratio  # doctest: +SKIP
        0.66
    """
    chosen = np.random.default_rng(seed).permutation(rows)
    read = min(_READ, len(chosen) // 2)
    if len(chosen) < _LEAST:
        return None
    reference = np.asarray(images[np.sort(chosen[read : read + _REFERENCE])])
    if _floats(reference).var(axis=0).mean() < _LEAST_VARIANCE:
        return None
    linear = LinearDenoiser.fit(reference)
    seen = np.asarray(images[np.sort(chosen[:read])])
    mine = denoising_errors(model, seen, LEVELS, seed=seed, precision=precision).mean(axis=1)
    theirs = [np.square(linear.denoise(noised, level) - clean).mean() for clean, noised, level in _noised(seen, LEVELS, seed)]
    return DenoiserQuality(LEVELS, tuple(map(float, mine)), tuple(map(float, theirs)))


def denoising_errors(
    model: JointDiffusion,
    images: Rows,
    levels: tuple[float, ...],
    *,
    seed: int = 0,
    precision: str = "fp32",
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Errors of a denoiser on single images.

    Args:
        model: Joint diffusion model.
        images: Images, uint8 (N, C, H, W).
        levels: Noise levels, standard deviations on the scale [-1, 1].
        seed: Random seed of the noise, which also depends on the position of an image and on the level.
        precision: Precision of the network, "fp32" or "bf16".
        batch_size: Images in a batch.

    Returns:
        Mean squared errors per value on the scale [-1, 1], float32 (levels, N).

    Example:
        >>> denoising_errors(run.model, pool.images[:3], (0.2, 0.8)).shape
        (2, 3)
    """
    errors = np.empty((len(levels), len(images)), dtype=np.float32)
    for i, level in enumerate(levels):

        def error(net: JointDiffusion, x: torch.Tensor, rows: NDArray[np.int64], level: float = level) -> tuple[torch.Tensor]:
            noise = torch.from_numpy(_noise(rows, x.shape[1:], level, seed)).to(x)
            return ((net.denoise(x + level * noise, level).float() - x).square().flatten(1).mean(dim=1),)

        for rows, (found,) in map_batches(model, error, images, precision=precision, batch_size=batch_size):
            errors[i, rows] = found
    return errors


@dataclass(frozen=True)
class LinearDenoiser:
    """Wiener's filter with a shrunken covariance (Ledoit and Wolf 2004): a combination of the sample's and of the identity.

    Attributes:
        mean: Mean of the images, float64 (D,).
        variances: Variances along the components, float64 (r,).
        components: Orthonormal components, float64 (r, D).
        rest: Variance in every other direction.
    """

    mean: NDArray[np.float64]
    variances: NDArray[np.float64]
    components: NDArray[np.float64]
    rest: float

    @classmethod
    def fit(cls, images: NDArray[np.uint8]) -> "LinearDenoiser":
        """The denoiser of images, uint8 (n, C, H, W), from products of images: there are fewer of them than of values."""
        x = _floats(images)
        mean = x.mean(axis=0)
        x = x - mean
        n, d = x.shape
        values, vectors = np.linalg.eigh(x @ x.T / n)
        scale = values.sum() / d  # mean variance
        # Squared norms of matrices, divided by d: of the covariance around the scaled identity, and of its sampling error.
        spread = np.square(values).sum() / d - scale**2
        error = (np.square(np.square(x).sum(axis=1)).sum() / n - np.square(values).sum()) / n / d
        shrinkage = min(max(error, 0.0), spread) / spread if spread > 0 else 1.0
        kept = values > values[-1] * 1e-9 if values[-1] > 0 else np.zeros(n, dtype=bool)
        components = (vectors[:, kept] / np.sqrt(n * values[kept])).T @ x
        return cls(mean, (1 - shrinkage) * values[kept] + shrinkage * scale, components, float(shrinkage * scale))

    def denoise(self, x: NDArray[np.float64], level: float) -> NDArray[np.float64]:
        """Estimates of clean images, float64 (n, D), from noised ones."""
        x = x - self.mean
        along = x @ self.components.T
        rest = self.rest / (self.rest + level**2)
        factors = self.variances / (self.variances + level**2)
        return np.asarray(self.mean + rest * x + (along * (factors - rest)) @ self.components)


def _floats(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images.reshape(len(images), -1) / 127.5 - 1


def _noise(rows: NDArray[np.int64], shape: torch.Size, level: float, seed: int) -> NDArray[np.float32]:
    """Noise of unit variance by row number, so that it does not depend on batches."""
    streams = (np.random.default_rng(derive_seed(seed, "denoising error", f"{level:g}", int(row))) for row in rows)
    return np.stack([stream.standard_normal(tuple(shape), dtype=np.float32) for stream in streams])


def _noised(images: NDArray[np.uint8], levels: tuple[float, ...], seed: int) -> Any:
    """Clean images, float64 (n, D), their noised ones and the level, for each level."""
    clean, rows = _floats(images), np.arange(len(images))
    for level in levels:
        noise = _noise(rows, torch.Size(images.shape[1:]), level, seed)
        yield clean, clean + level * noise.reshape(clean.shape), level
