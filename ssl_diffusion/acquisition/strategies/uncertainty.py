"""Chance, and what the classifier is unsure of: of its probabilities for an image, or of those for the image under noise."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import in_proportion
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, register_batch, register_score

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["bald", "entropy", "least_confidence", "margin", "random"]

_ONE_PASS = "one encoder pass over the pool"
_DRAWS = 5


@register_batch(
    "random",
    needs="images",
    cost="none",
    when="as a baseline, and for an unbiased estimate of the accuracy",
    reference="simple random sampling",
    reads_labeled=False,
    reads_representation=False,
)
def random(c: Candidates, n: int) -> Choice:
    """Every candidate with the same probability."""
    return in_proportion(np.ones(len(c)), n, 1.0, c.rng)


@register_score(
    "least-confidence",
    needs="labels",
    cost=_ONE_PASS,
    when="many labels already, small batches",
    reference="Lewis and Gale 1994, arXiv cmp-lg/9407020",
    reads_labeled=False,
    reads_representation=False,
)
def least_confidence(c: Candidates) -> NDArray[np.float64]:
    """1 - p of the most probable class, scaled by K / (K - 1)."""
    k = c.p.shape[1]
    u: NDArray[np.float64] = (1 - c.p.max(axis=1).astype(np.float64)) * (k / max(1, k - 1))
    return u


@register_score(
    "margin",
    needs="labels",
    cost=_ONE_PASS,
    when="many labels already, small batches; the strongest of the simple ones",
    reference="Scheffer et al. 2001, doi 10.1007/3-540-44816-0_31",
    reads_labeled=False,
    reads_representation=False,
)
def margin(c: Candidates) -> NDArray[np.float64]:
    """1 - (p of the most probable class - p of the runner-up)."""
    if c.p.shape[1] < 2:
        return np.zeros(len(c))
    two = np.partition(c.p.astype(np.float64), -2, axis=1)[:, -2:]
    u: NDArray[np.float64] = 1 - (two[:, 1] - two[:, 0])
    return u


@register_score(
    "entropy",
    needs="labels",
    cost=_ONE_PASS,
    when="many labels already, few classes, small batches",
    reference="Settles 2009, Computer Sciences Technical Report 1648, University of Wisconsin-Madison, sec. 3.1",
    reads_labeled=False,
    reads_representation=False,
)
def entropy(c: Candidates) -> NDArray[np.float64]:
    """Entropy of the class probabilities, divided by ln K."""
    p = c.p.astype(np.float64)
    k = max(2, p.shape[1])
    u: NDArray[np.float64] = -(p * np.log(p.clip(1e-30))).sum(axis=1) / np.log(k)
    return u


@register_score(
    "bald",
    needs="labels",
    cost="five encoder passes over the pool",
    when="many labels already; where the images are noisy, so that part of the uncertainty cannot be labeled away",
    reference="Houlsby et al. 2011, arXiv 1112.5745; the ensemble is one model under several draws of light noise",
    reads_labeled=False,
    reads_representation=False,
)
def bald(c: Candidates) -> NDArray[np.float64]:
    """Entropy of the mean prediction minus mean entropy of the predictions, divided by ln K, over draws of noise.

    Noise levels are spread evenly up to the one that the head was trained with.
    """
    import torch

    from ssl_diffusion.generation.sampling import NoiseStream
    from ssl_diffusion.inference.predict import by_batches

    k = c.p.shape[1]
    model, images = c.all_images()
    seeds = c.rng.integers(2**62, size=len(c)).tolist()

    def information(model: "JointDiffusion", x: "Tensor", rows: NDArray[np.int64]) -> "Tensor":
        noise = NoiseStream([seeds[i] for i in rows], tuple(x.shape[1:]))
        draws = []
        for i in range(1, _DRAWS + 1):
            sigma = (model.config.head_noise or 0.1) * i / _DRAWS
            draws.append(model.classify(x + sigma * noise.draw().to(x.device), sigma).softmax(dim=1))
        p = torch.stack(draws).double()
        return (_entropy(p.mean(dim=0)) - _entropy(p).mean(dim=0)).clamp(min=0)

    utilities: NDArray[np.float64] = by_batches(model, information, images) / np.log(max(2, k))
    return utilities


def _entropy(p: "Tensor") -> "Tensor":
    import torch

    entropies: Tensor = torch.special.entr(p).sum(dim=-1)
    return entropies
