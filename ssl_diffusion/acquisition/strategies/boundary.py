"""How near a sample is to the boundary between classes: along the representation, in pixels, or along the model's manifold.

Utility is 1 / (1 + distance / median), in (0, 1], with the median of the distances on the shortlist.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import diverse, shortlist
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, register_batch
from ssl_diffusion.acquisition.strategies.uncertainty import margin

if TYPE_CHECKING:
    from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
    from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["counterfactual", "deepfool", "linear"]


@register_batch(
    "linear",
    needs="labels",
    cost="one encoder pass over a shortlist of five batches",
    when="two or more labels a class; nearly as good as counterfactual, and much cheaper",
    reference="first-order boundary distance (as DeepFool, arXiv 1511.04599) in the representation, k-means++ for diversity",
    reads_labeled=False,
)
def linear(c: Candidates, n: int) -> Choice:
    """Distance to the first-order boundary in the representation, on a shortlist by margin; then k-means++."""
    from ssl_diffusion.generation.boundary_distance import linear_distance

    return _funnel(c, n, lambda model, images: linear_distance(model, images, "nearest").distance_representation)


@register_batch(
    "deepfool",
    needs="labels",
    cost="several forward and backward passes over a shortlist of five batches",
    when="for comparison: distances in pixels follow adversarial directions",
    reference="Ducoffe and Precioso 2018, arXiv 1802.09841; k-means++ for diversity",
    reads_labeled=False,
)
def deepfool(c: Candidates, n: int) -> Choice:
    """DeepFool distance in pixels, on a shortlist by margin; then k-means++."""
    from ssl_diffusion.generation.boundary_distance import deepfool_distance

    return _funnel(c, n, lambda model, images: _censored(deepfool_distance(model, images, "runner-up")))


@register_batch(
    "counterfactual",
    needs="labels",
    cost="about 70 passes over a shortlist of five batches",
    when="two or more labels a class; the choice comes with an explanation",
    reference="counterfactual distance of this package (ssl_diffusion.generation.counterfactual), k-means++ for diversity",
    reads_labeled=False,
)
def counterfactual(c: Candidates, n: int) -> Choice:
    """Counterfactual distance to the runner-up, on a shortlist by margin; then k-means++."""
    from ssl_diffusion.generation.counterfactual.search import explain

    def distance(model: "JointDiffusion", images: NDArray[np.uint8]) -> NDArray[np.float64]:
        # Reverting, which pictures need, takes a quarter more passes and hardly changes the order (0.97 by Spearman).
        seed = int(c.rng.integers(2**31))
        return _censored(explain(model, images, "runner-up", revert=False, seed=seed, precision=c.precision))

    return _funnel(c, n, distance)


Distance = Callable[["JointDiffusion", NDArray[np.uint8]], NDArray[np.float64]]


def _funnel(c: Candidates, n: int, distance: Distance) -> Choice:
    """Shortlist by margin, distances on it, and a diverse batch of it; candidates outside have utility 0."""
    rows = shortlist(margin(c), n, c.rng)
    utilities = np.zeros(len(c))
    distances = distance(*c.images_of(rows))
    utilities[rows] = 1 / (1 + distances / max(float(np.median(distances)), 1e-12))
    choice = diverse(c.representation[rows], utilities, n, c.rng, rows)
    at = np.searchsorted(rows, choice.picks)
    nearer = [(distances > d).mean() for d in distances[at]]
    pairs = zip(distances[at], nearer, strict=True)
    return replace(choice, notes=tuple(f"distance {d:.3g}, nearer than {s:.0%} of the shortlist" for d, s in pairs))


def _censored(result: "CounterfactualResult") -> NDArray[np.float64]:
    """Pixel distances; failures, whose distances are lower bounds, are not nearer than any success."""
    distance = result.distance_pixel.copy()
    if result.success.any():
        distance[~result.success] = np.maximum(distance[~result.success], distance[result.success].max())
    return distance
