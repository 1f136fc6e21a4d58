r"""Distances between two sets of images, by their features; definitions version 1.

Every metric compares features of real images, (n, d), with features of generated ones, (m, d). A value has a meaning only
together with the feature extractor and the numbers of images. "FID" names the Fréchet distance on Inception features only; the
general one is called FD here.

* :func:`frechet_distance`: :math:`|\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})`, the
  squared 2-Wasserstein distance of two Gaussians with these moments (Heusel et al. 2017, arXiv 1706.08500). Biased upwards
  for few images: use at least 5 to 10 times as many images as features.
* :func:`kernel_distance`: unbiased estimate of the squared MMD with kernel :math:`(x \cdot y / d + 1)^3` (Binkowski et al.
  2018, arXiv 1801.01401), so it may be slightly negative; suitable for few images, too.
* :func:`neighbor_measures`: precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et
  al. 2020, arXiv 2002.09797), all with balls up to the k-th nearest neighbour.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from ssl_diffusion.errors import DataError

__all__ = ["compare_features", "frechet_distance", "kernel_distance", "neighbor_measures"]

Features = NDArray[np.floating]


def compare_features(real: Features, generated: Features) -> dict[str, float]:
    """All metrics of two sets of images.

    Args:
        real: Features of real images, (n, d).
        generated: Features of generated images, (m, d).

    Returns:
        "fd" and "kid" (0 is best), "precision", "recall" and "coverage" (in [0, 1], 1 is best), and "density" (from 0; real
        images have 1).

    Raises:
        DataError: If a set has fewer than 10 images, the numbers of features differ, or features are not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> compare_features(rng.normal(size=(100, 4)), rng.normal(size=(100, 4)))["fd"]
    """
    return {
        "fd": frechet_distance(real, generated),
        "kid": kernel_distance(real, generated),
        **neighbor_measures(real, generated),
    }


def frechet_distance(a: Features, b: Features) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features, (n, d) and (m, d), from 0; lower is better.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> round(frechet_distance(z, z + 1), 6)
        2.0
    """
    a, b = _checked(a, b)
    difference = a.mean(axis=0) - b.mean(axis=0)
    root = _root(np.cov(a, rowvar=False))
    covariance = np.cov(b, rowvar=False)
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose argument is symmetric, so that its roots are real.
    crossed = np.sqrt(np.linalg.eigvalsh(root @ np.atleast_2d(covariance) @ root).clip(0)).sum()
    trace = np.square(root).sum() + np.trace(np.atleast_2d(covariance)) - 2 * crossed
    return float(max(0.0, difference @ difference + trace))


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared MMD of two sets of features, (n, d) and (m, d), with the cubic kernel of KID; lower is better.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> kernel_distance(z, z + 1) > 0
        True
    """
    a, b = _checked(a, b)
    d, n, m = a.shape[1], len(a), len(b)

    def total(x: Features, y: Features) -> float:
        return float(sum(((x[i : i + 1024] @ y.T / d + 1) ** 3).sum() for i in range(0, len(x), 1024)))

    def own(x: Features) -> float:
        return total(x, x) - float(((np.square(x).sum(axis=1) / d + 1) ** 3).sum())

    return own(a) / (n * (n - 1)) + own(b) / (m * (m - 1)) - 2 * total(a, b) / (n * m)


def neighbor_measures(real: Features, generated: Features, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage of generated images.

    Args:
        real: Features of real images, (n, d).
        generated: Features of generated images, (m, d).
        k: Number of the neighbour that the ball of an image reaches to, the image itself not counted.

    Returns:
        "precision", "recall" and "coverage" in [0, 1], and "density" from 0; higher is better.

    Raises:
        DataError: If a set has fewer than k + 1 images, the numbers of features differ, or features are not finite.

    Example:
        >>> z = np.random.default_rng(0).normal(size=(100, 2))
        >>> neighbor_measures(z, z)["precision"]
        1.0
    """
    real, generated = _checked(real, generated, least=k + 1)
    reach_real, reach_generated = _reach(real, k), _reach(generated, k)
    covers = np.zeros(len(generated), dtype=np.int64)  # balls of real images that a generated one lies in
    recalled = covered = 0
    start = 0
    for block in pairwise_distances_chunked(real, generated):
        rows = slice(start, start := start + len(block))
        inside = block < reach_real[rows, None]
        covers += inside.sum(axis=0)
        recalled += int((block < reach_generated[None]).any(axis=1).sum())
        covered += int(inside.any(axis=1).sum())
    return {
        "precision": float((covers > 0).mean()),
        "recall": recalled / len(real),
        "density": float(covers.mean() / k),
        "coverage": covered / len(real),
    }


def _reach(x: Features, k: int) -> Features:
    """Distance of each row to its k-th neighbour."""
    distance: Features = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()[0][:, -1]
    return distance


def _root(covariance: Features) -> Features:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    root: Features = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def _checked(a: Features, b: Features, least: int = 10) -> tuple[Features, Features]:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"two sets of features need the shapes (n, d) and (m, d), not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < least:
        raise DataError(f"each set needs at least {least} images, not {min(len(a), len(b))}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("features must be finite, but some are not")
    return a, b
