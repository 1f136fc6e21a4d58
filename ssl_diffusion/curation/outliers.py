r"""Foreign images: far from all others in the representation, or such that a denoiser of the others restores them badly.

Four measures speak: the distance to the nearest images; how much farther the fiftieth is than the third, which is far for a few
foreign images of one kind, each other's nearest; the error of the denoiser; and that error beside the one of images with such
detail, since rich detail is restored badly in ordinary images, too. How much a measure :math:`x` says depends on its
tail. That of ordinary images is taken for exponential beyond the 85th percentile, with the scale that the 96th gives, so that a
part :math:`p(x)` of them has more. Of n images, of which m have at least x, a fraction

.. math:: q(x) = n \, p(x) / m

should be ordinary (Benjamini and Hochberg 1995, with an extrapolated p). An image is as foreign as the measure with the least q
says: a measure with a heavy tail, and no more in it than its shape explains, keeps silent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.curation.held_out import condensed
from ssl_diffusion.inference.projection import project
from ssl_diffusion.inference.rows import Rows

__all__ = ["Outliers", "find_outliers"]

_NEIGHBORS = 5
_NEAR, _BEYOND = 3, 50  # neighbors whose distances tell a few images of one kind: all but the first few are far away
_OWN_CLASS = 0.5  # of the images with a label: where more of them are such a kind, it is a class of its own
_REFERENCE = 10_000  # images that distances are measured to
_BLOCK = 1024
_LOWER, _UPPER = 0.85, 0.96  # quantiles that give the tail of ordinary images
_LONGEST = 1.0  # scale of the tail, in distances of the 85th percentile from the median: 0.5 of a normal distribution
_ORDINARY = 0.7  # largest fraction of ordinary images among those that count as foreign
_SILENT = 0.95  # fraction from which on a measure says nothing
_DOUBT = 5.0  # the measures of a kind and of detail have to say as many times more than the others
_ROUNDS, _KEPT = 3, 2.5  # of a robust regression; deviations of the images that it is fitted to


@dataclass(frozen=True)
class Outliers:
    """How foreign N images are.

    Attributes:
        score: Rank, float64 (N,), larger for more foreign images; images that no measure calls odd follow by distance and kind.
        ordinary: Fraction of ordinary images that is expected among those at least as odd, float64 (N,); 1 from 0.95 on.
        distance: Robust deviations of the log-distance to the nearest images, float64 (N,): the mean of those of features as
            they are, in which large ones count, and of standardised ones.
        kind: Robust deviations of the log-ratio of the distances to the 50th and to the 3rd nearest image, float64 (N,); a mean
            of the same two.
        denoising: Robust deviations of the log-error of the denoiser, float64 (N,); zeros without one.
        detail: Robust deviations of that log-error from the one of images with such detail, float64 (N,); zeros without a
            denoiser or images.
    """

    score: NDArray[np.float64]
    ordinary: NDArray[np.float64]
    distance: NDArray[np.float64]
    kind: NDArray[np.float64]
    denoising: NDArray[np.float64]
    detail: NDArray[np.float64]

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Images that count as foreign, bool (N,): at most 70 % of those at least as odd should be ordinary."""
        return np.asarray(self.ordinary < _ORDINARY)


def find_outliers(
    z: NDArray[np.float32],
    *,
    errors: NDArray[np.float32] | None = None,
    images: Rows | None = None,
    group: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> Outliers:
    """Find foreign images.

    Args:
        z: Representations, float32 (N, F).
        errors: Errors of a denoiser, float32 (levels, N); None: no denoiser. See
            :func:`ssl_diffusion.inference.denoising_errors`.
        images: Images, uint8 (N, C, H, W), whose detail says which errors are to be expected; None: errors alone count.
        group: Number of the group of copies of each image, int64 (N,): copies are no neighbors. None: there are none.
        labels: Classes, int64 (N,), negative without one: a few images of one kind are not foreign for that where they are most
            of a class. None: no image has a label.

    Returns:
        Scores of all images.

    Example:
        >>> z = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
        >>> z[7] += 30
        >>> int(find_outliers(z).score.argmax())
        7
    """
    n = len(z)
    group = np.arange(n) if group is None else group
    spaces = [_distances(x, group) for x in (project(z), condensed(z))]
    distance = np.mean([_deviations(nearest) for nearest, _ in spaces], axis=0)
    kind = np.mean([_deviations(ratio) for _, ratio in spaces], axis=0)
    denoising, detail = np.zeros(n), np.zeros(n)
    said = [_said(distance), _own_classes_silent(_said(kind, doubt=_DOUBT), labels)]
    if errors is not None:
        denoising = np.mean([_deviations(level) for level in errors], axis=0)
        said.append(_said(denoising))
        if images is not None:
            shown = _detail(images)
            detail = np.mean([_scaled(_residuals(level, shown)) for level in errors], axis=0)
            said.append(_said(detail, doubt=_DOUBT))
    ordinary = np.exp(np.min([q for q, _ in said], axis=0))
    # Images with the same q are ranked by p, and those of which nothing is said by the less of those of distance and kind.
    silent = np.minimum(said[0][1], said[1][1] + np.log(_DOUBT))
    score = np.max([-q - 1e-3 * np.where(q < 0, p, 0) for q, p in said], axis=0) - 1e-6 * silent
    return Outliers(score, ordinary, distance, kind, denoising, detail)


def _said(x: NDArray[np.float64], doubt: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of q, which is at most 1, and p of a measure, see the formulas above; float64 (N,) each."""
    n = len(x)
    middle, lower, upper = np.quantile(x, [0.5, _LOWER, _UPPER])
    scale = (upper - lower) / np.log((1 - _LOWER) / (1 - _UPPER))
    scale = max(min(float(scale), _LONGEST * float(lower - middle)), 1e-9)  # many foreign images would lengthen the tail
    order = np.argsort(-x, kind="stable")
    rank = np.empty(n)
    rank[order] = np.arange(1, n + 1)
    p = np.where(x > upper, np.log(1 - _LOWER) - (x - lower) / scale, np.log(rank / (n + 1)))
    p = np.minimum(p, 0)
    q = p[order] + np.log(doubt * n) - np.log(np.arange(1, n + 1))
    least = np.empty(n)
    least[order] = np.minimum.accumulate(q[::-1])[::-1]
    return np.where(least < np.log(_SILENT), least, 0), p


def _own_classes_silent(
    said: tuple[NDArray[np.float64], NDArray[np.float64]], labels: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What was said of images by their kind, but for those of a class of which most are of such a kind."""
    q, p = said
    if labels is None:
        return said
    q, called = q.copy(), q < np.log(_ORDINARY)
    for k in np.unique(labels[called & (labels >= 0)]):
        if called[labels == k].mean() > _OWN_CLASS:
            q[labels == k] = 0
    return q, p


def _detail(images: Rows) -> NDArray[np.float64]:
    """Logarithms of four measures of detail, float64 (N, 4): differences of neighbors, their size, curvature, and contrast."""
    found = np.empty((len(images), 4))
    for start in range(0, len(images), _BLOCK):
        x = np.asarray(images[np.arange(start, min(start + _BLOCK, len(images)))]).astype(np.float32) / 127.5 - 1
        measures = [x.std(axis=(1, 2, 3))]
        along = [np.diff(x, axis=axis) for axis in (2, 3)]
        curved = [np.diff(x, n=2, axis=axis) for axis in (2, 3)]
        for parts, power in ((along, 2), (along, 1), (curved, 2)):
            each = [np.power(np.abs(part), power).mean(axis=(1, 2, 3)) for part in parts if part.size]
            measures.append(np.sum(each, axis=0) ** (1 / power) if each else np.zeros(len(x)))
        found[start : start + len(x)] = np.log(np.stack(measures, axis=1) + 1e-3)
    return found


def _residuals(errors: NDArray[np.float32], detail: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-errors (N,) less those expected of such detail (N, k), by a robust regression on its squares and products.

    Detail beyond that of 96 % of the images counts as if it were there: what is foreign in its detail is not explained by it.
    """
    y = np.log(np.maximum(errors.astype(np.float64), 1e-12))
    low, high = np.quantile(detail, [0.02, 0.98], axis=0)
    x = np.clip(detail, low, high)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    products = [x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i, x.shape[1])]
    design = np.stack([np.ones(len(x)), *x.T, *products], axis=1)
    kept, residuals = np.ones(len(y), dtype=bool), y
    for _ in range(_ROUNDS):
        weights = np.linalg.lstsq(design[kept], y[kept], rcond=None)[0]
        residuals = y - design @ weights
        kept = np.abs(residuals) <= _KEPT * 1.4826 * np.median(np.abs(residuals - np.median(residuals)))
    return residuals


def _distances(x: NDArray[np.float32], group: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Root mean square distances to the nearest images of other groups, and how much farther the 50th is than the 3rd.

    Both are float64 (N,). Neighbors are looked for among at most 10,000 images, the 50th among fewer than 500 is the last of a
    tenth of them. Images without so many others that are no copies have a ratio of 1.
    """
    n = len(x)
    x = x - x.mean(axis=0)
    reference = np.sort(np.random.default_rng(0).permutation(n)[:_REFERENCE])
    y, of = x[reference], group[reference]
    others = max(1, len(reference) - 1)
    k = min(_NEIGHBORS, others)
    beyond = min(max(min(_BEYOND, len(reference) // 10), _NEAR + 1), others)
    square, nearest, ratio = np.square(y).sum(axis=1), np.zeros(n), np.ones(n)
    for start in range(0, n, _BLOCK):
        part = x[start : start + _BLOCK]
        distances = np.square(part).sum(axis=1)[:, None] + square - 2 * part @ y.T
        distances[group[start : start + _BLOCK, None] == of] = np.inf
        last = max(k, beyond)
        found = np.maximum(np.sort(np.partition(distances, last - 1, axis=1)[:, :last], axis=1), 0)
        within = found[:, :k]
        nearest[start : start + _BLOCK] = np.where(np.isfinite(within), within, 0).mean(axis=1)
        near, far = found[:, min(_NEAR, last) - 1], found[:, beyond - 1]
        both = np.isfinite(far) & (near > 0)
        ratio[start : start + _BLOCK][both] = far[both] / near[both]
    return np.sqrt(nearest), np.sqrt(ratio)


def _deviations(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Robust deviations of logarithms from their median, see :func:`_scaled`."""
    return _scaled(np.log(np.maximum(values.astype(np.float64), 1e-12)))


def _scaled(log: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust deviations from the median; the spread is that above the median."""
    above = log - np.median(log)
    spread = 1.4826 * np.median(above[above >= 0])
    return np.asarray(above / max(float(spread), 1e-3))
