"""Quality of counterfactuals; definitions version 2. All distances are on the scale [0, 1] of 8-bit images.

Over all pairs:

* `validity`: fraction that is classified as the target, after rounding to 8 bits; 1 is best.
* `validity_correct`: the same among the images that were classified correctly before.

Means over the valid pairs (`rms_median` is a median):

* `l1`: mean absolute change of an image. `rms`, `rms_median`: root mean square change.
* `representation_distance`: Euclidean distance of the representations.
* `sparsity`: fraction of values that did not change; higher is sparser.
* `redundancy`: fraction of the changed patches (see `patch_side`; single pixels in small images) that can be reset, one at a
  time, without losing the target; 0 is best. After CARLA (Pawelczyk et al. 2021, arXiv 2108.00783), which resets single
  values: `redundancy_values`.
* `cout`: values of the counterfactual are inserted into the original, the largest changes first; area under the probability
  of the target minus area under that of the source, in [-1, 1], higher is better (Khorram and Fuxin 2022, arXiv 2203.15117).
* `ynn`: fraction of the 5 nearest reference images that are classified as the target (CARLA); higher is better. Neighbours
  are found by the features of an extractor if there is one, otherwise by pixels. A change that only fools the model moves
  nothing in the features of another one.
* `split_fd`: Fréchet distance between the originals of one half and the counterfactuals of the other, both ways, averaged:
  as the halves share no image, the distance cannot be small because of what did not change (ACE, Jeanneret et al. 2023,
  arXiv 2303.09962, where it is called sFID, a name that means something else elsewhere). Lower is better.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.counterfactual.refining import patch_side
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.quality import frechet_distance
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["METRICS_VERSION", "counterfactual_metrics", "insertion_areas", "nearest_agreement", "redundancy", "split_frechet"]

METRICS_VERSION = 2
_COUT_STEPS = 50

Extractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def counterfactual_metrics(
    model: JointDiffusion,
    result: CounterfactualResult,
    *,
    labels: NDArray[np.int64] | None = None,
    reference: NDArray[np.uint8] | None = None,
    features: Extractor | None = None,
) -> dict[str, float]:
    """The metrics of this module, as far as the arguments allow.

    Args:
        model: Model that was explained.
        result: Counterfactuals, with images.
        labels: True classes of the images that were explained, int64, in their order; for `validity_correct`.
        reference: Images of the data, uint8, (n, C, H, W); for `ynn`.
        features: Extractor of another model, from uint8 images to features, (n, d); for `split_fd` and `ynn`.

    Returns:
        Metrics by name, with the version of the definitions and the number of pairs n; only these and the validity if no pair
        is valid. `split_fd` needs at least 40 valid pairs.

    Raises:
        DataError: If the result has no images or no pairs.

    Example:
        >>> counterfactual_metrics(model, explain(model, images))["validity"]
    """
    if result.counterfactual is None or not len(result):
        raise DataError("metrics need counterfactual images; this result has none")
    values = {"version": float(METRICS_VERSION), "n": float(len(result)), "validity": float(result.success.mean())}
    if labels is not None:
        correct = result.source == labels[result.image]
        values["validity_correct"] = float(result.success[correct].mean()) if correct.any() else float("nan")
    valid = result.take(np.flatnonzero(result.success))
    if not len(valid):
        return values
    change = (valid.images().astype(np.float64) - valid.original) / 255
    areas = insertion_areas(model, valid)
    values |= {
        "l1": float(np.abs(change).mean()),
        "rms": float(valid.distance_pixel.mean()),
        "rms_median": float(np.median(valid.distance_pixel)),
        "representation_distance": float(valid.distance_representation.mean()),
        "sparsity": float((change == 0).mean()),
        "redundancy": float(redundancy(model, valid).mean()),
        "redundancy_values": float(redundancy(model, valid, values=True).mean()),
        "cout": float((areas[:, 0] - areas[:, 1]).mean()),
    }
    if reference is not None:
        values["ynn"] = float(nearest_agreement(model, valid, reference, features).mean())
    if features is not None and len(valid) >= 40:
        values["split_fd"] = split_frechet(features(valid.original), features(valid.images()))
    return values


def redundancy(model: JointDiffusion, result: CounterfactualResult, *, values: bool = False) -> NDArray[np.float64]:
    """Fraction of the changed patches that can be reset, one at a time, without losing the target.

    Args:
        model: Model that was explained.
        result: Counterfactuals, with images.
        values: Whether single values are reset instead of patches.

    Returns:
        Fractions, float64, (m,), in [0, 1]; lower is better.
    """
    shape = result.original.shape[1:]
    side = patch_side(shape)
    if values:
        part = np.arange(np.prod(shape)).reshape(shape)
    else:
        part = np.broadcast_to(np.arange(shape[1])[:, None] // side * shape[2] + np.arange(shape[2]) // side, shape)
    fractions = np.zeros(len(result))
    for i, (original, found) in enumerate(zip(result.original, result.images(), strict=True)):
        changed = np.unique(part[found != original])
        tries = np.where(part[None] == changed[:, None, None, None], original[None], found[None])
        p = predict_probabilities(model, tries)
        fractions[i] = (p.argmax(axis=1) == result.target[i]).mean() if len(changed) else 0.0
    return fractions


def insertion_areas(model: JointDiffusion, result: CounterfactualResult) -> NDArray[np.float64]:
    """Areas under the class probabilities while the changes are inserted, the largest first.

    Args:
        model: Model that was explained.
        result: Counterfactuals, with images.

    Returns:
        Areas of the target and of the source class, float64, (m, 2), in [0, 1].
    """
    areas = np.zeros((len(result), 2))
    for i, (original, found) in enumerate(zip(result.original, result.images(), strict=True)):
        change = np.abs(found.astype(np.int64) - original).sum(axis=0).ravel()  # all channels of a pixel go together
        order = np.argsort(-change, kind="stable")
        flat, end = original.reshape(len(original), -1), found.reshape(len(original), -1)
        steps = np.repeat(flat[None], _COUT_STEPS + 1, axis=0)
        for j, count in enumerate(np.linspace(0, len(order), _COUT_STEPS + 1).round().astype(int)):
            steps[j][:, order[:count]] = end[:, order[:count]]
        p = predict_probabilities(model, steps.reshape(-1, *original.shape))
        areas[i] = [np.trapezoid(p[:, k], dx=1 / _COUT_STEPS) for k in (result.target[i], result.source[i])]
    return areas


def nearest_agreement(
    model: JointDiffusion,
    result: CounterfactualResult,
    reference: NDArray[np.uint8],
    features: Extractor | None = None,
    y: int = 5,
) -> NDArray[np.float64]:
    """Fraction of the nearest reference images that the model classifies as the target.

    Args:
        model: Model that was explained.
        result: Counterfactuals, with images.
        reference: Images of the data, uint8, (n, C, H, W).
        features: Extractor, from uint8 images to features, (n, d); None compares pixels.
        y: Number of neighbours.

    Returns:
        Fractions, float64, (m,), in [0, 1]; higher is better.
    """
    features = features or _pixels
    classes = predict_probabilities(model, reference).argmax(axis=1)
    near = NearestNeighbors(n_neighbors=min(y, len(reference))).fit(features(reference))
    found = near.kneighbors(features(result.images()), return_distance=False)
    agreement: NDArray[np.float64] = (classes[found] == result.target[:, None]).mean(axis=1)
    return agreement


def split_frechet(original: NDArray[np.float32], counterfactual: NDArray[np.float32]) -> float:
    """Fréchet distance between the originals of each half and the counterfactuals of the other, averaged.

    Args:
        original: Features of the originals, (m, d).
        counterfactual: Features of their counterfactuals, (m, d).

    Returns:
        Distance from 0; lower is better.

    Raises:
        DataError: If a half has fewer than 10 images, or features are not finite.
    """
    half = len(original) // 2
    one, two = slice(None, half), slice(half, None)
    return (frechet_distance(original[one], counterfactual[two]) + frechet_distance(original[two], counterfactual[one])) / 2


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)
