r"""Reflections: what an image would look like on the other side of a linear boundary, by closed form and images of the pool.

With a linear head the representation :math:`z` of an image of class s is as surely of class t, with :math:`w = w_t - w_s`, at

.. math:: z^* = z + (g + \log \frac{p}{1 - p}) \, w / |w|^2,

where g is the gap between the two logits and p the probability that is asked for. The network has no decoder for
representations, so images of the pool take its place: z* is decoded as the mean of the ten whose representations are nearest to
it, among images that the model is sure are of class t (kernel regression). That is blurred; where the image itself is moved
towards it while it is noised, at a level at which the denoiser still knows the image, denoising makes of it an image again
(:mod:`ssl_diffusion.generation.counterfactual.search`). No gradient is needed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError
from ssl_diffusion.generation.counterfactual.result import Pairs
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["SCALES", "Reference", "linear_head", "pulls", "reference_of", "reflected"]

SCALES = (0.6, (0.7, 1.0, 1.4, 2.0))  # noise level, and the factors of the pull that are tried there
_SURE = 0.9
_NEIGHBORS = 10
_IMAGES = 2000


@dataclass(frozen=True)
class Reference:
    """Images of a pool, by which representations are decoded.

    Attributes:
        images: Images, uint8, (N, C, H, W).
        representation: Representations, float32, (N, F).
        probabilities: Class probabilities, float32, (N, K).
    """

    images: NDArray[np.uint8]
    representation: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def reference_of(run: Run, pool: Pool) -> Reference:
    """Up to 2,000 training images of a pool, spread evenly, as a run sees them; each is read once by the encoder.

    Args:
        run: Fitted model with a linear head.
        pool: Images of the run.

    Raises:
        RunError: If the run has no classes, or several for one image, or its head is not linear.

    Example:
        >>> result = explain_run(run, images, reference=reference_of(run, pool))
    """
    run.check_single_label("to explain")
    linear_head(run.model)
    rows = pool.train[:: max(1, -(-len(pool.train) // _IMAGES))]
    seen = embed(run.model, pool_rows(run, pool, rows), projected=False, precision=run.precision)
    return Reference(pool.images[rows], np.asarray(seen.representation), seen.probabilities)


def linear_head(model: JointDiffusion) -> nn.Linear:
    """The head of a model, if it is linear.

    Args:
        model: Joint model with classes.

    Raises:
        RunError: If the head has a hidden layer.
    """
    layers = [] if model.head is None else [m for m in model.head.modules() if isinstance(m, nn.Linear)]
    if len(layers) != 1:
        raise RunError("a reflection needs a linear head, and this model's has a hidden layer: search instead of reflecting")
    return layers[0]


def pulls(
    model: JointDiffusion,
    reference: Reference,
    images: NDArray[np.uint8],
    representation: NDArray[np.float32],
    logits: NDArray[np.float32],
    pairs: Pairs,
    confidence: float,
) -> NDArray[np.float32]:
    """From each image to its decoded reflection.

    Args:
        model: Joint model with a linear head.
        reference: Images of the pool.
        images: Images, uint8, (n, C, H, W).
        representation: Representations of the images, float32, (n, F).
        logits: Class logits of the images, float32, (n, K).
        pairs: Pairs of an image and a target, m of them.
        confidence: Probability of the target that is asked for, in [0, 1); up to 0.5 is the boundary.

    Returns:
        Differences in the units of the model, whose images are in [-1, 1], float32, (m, C, H, W).

    Raises:
        RunError: If the head is not linear.
    """
    every = torch.from_numpy(np.asarray(reference.representation))
    spread = every.std(dim=0).clamp(min=1e-6)
    z = reflected(linear_head(model), torch.from_numpy(np.asarray(representation)), logits, pairs, confidence) / spread
    found = np.empty((len(pairs.image), *images.shape[1:]), dtype=np.float32)
    for k in np.unique(pairs.target):
        rows, among = np.flatnonzero(pairs.target == k), _sure_of(reference, int(k))
        distance = torch.cdist(z[rows], every[among] / spread)
        nearest = distance.topk(min(_NEIGHBORS, len(among)), largest=False).indices
        decoded = _units(reference.images[among])[nearest].mean(dim=1)
        found[rows] = (decoded - _units(images[pairs.image[rows]])).numpy()
    return found


def reflected(head: nn.Linear, representation: Tensor, logits: NDArray[np.float32], pairs: Pairs, confidence: float) -> Tensor:
    """The nearest representations at which the target is as probable, beside the source, as is asked for.

    Args:
        head: Linear head.
        representation: Representations of the images, float32, (n, F).
        logits: Class logits of the images, float32, (n, K).
        pairs: Pairs of an image and a target, m of them.
        confidence: Probability of the target of the two classes, in [0, 1); up to 0.5 is the boundary.

    Returns:
        Representations, float32, (m, F).
    """
    weight = head.weight.detach().float().cpu()
    w = weight[pairs.target] - weight[pairs.source]
    gap = torch.from_numpy(logits[pairs.image, pairs.source] - logits[pairs.image, pairs.target])
    asked = float(np.log(max(confidence, 0.5) / (1 - max(confidence, 0.5))))
    return representation[pairs.image] + ((gap + asked) / w.square().sum(dim=1).clamp(min=1e-12))[:, None] * w


def _sure_of(reference: Reference, k: int) -> NDArray[np.int64]:
    """Images that the model is sure are of a class; where there are few, those that it most takes for it."""
    p = reference.probabilities[:, k]
    sure = np.flatnonzero((p >= _SURE) & (reference.probabilities.argmax(axis=1) == k))
    return sure if len(sure) >= _NEIGHBORS else np.argsort(-p, kind="stable")[:_NEIGHBORS]


def _units(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)
