"""Uncertainty and diversity at once."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.batch_selection import central, spread_out, squared_distances
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.registry import Choice, register_batch

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["badge", "gradient_norms", "latent_mix"]

_FRACTIONS = tuple(0.025 * 2**i for i in range(8))


@register_batch(
    "badge",
    needs="labels",
    cost="one encoder pass over the pool, n passes over the representations",
    when="two or more labels a class, large batches",
    reference="Ash et al. 2020, arXiv 1906.03671",
    reads_labeled=False,
)
def badge(c: Candidates, n: int) -> Choice:
    """k-means++ on gradient embeddings: those of the loss with the predicted class as label, by the head's last layer.

    An embedding is the outer product of (p - onehot) and the representation; its size is the utility. Distances are computed
    from the two factors, so that the (N, K * F) matrix is never made.
    """
    a, z = _factors(c)
    norm = gradient_norms(c)
    picks, probabilities = spread_out(lambda i: _squared(a, z, norm, i), np.ones(len(c)), n, c.rng)
    return Choice(picks, norm, probabilities)


def gradient_norms(c: Candidates) -> NDArray[np.float64]:
    """Euclidean norm of each gradient embedding, (N,)."""
    a, z = _factors(c)
    norms: NDArray[np.float64] = np.linalg.norm(a, axis=1) * np.sqrt(squared_distances(z, np.zeros_like(z[0])))
    return norms


def _factors(c: Candidates) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    a = c.p.astype(np.float64)
    a[np.arange(len(a)), a.argmax(axis=1)] -= 1
    return a, c.x


def _squared(a: NDArray[np.float64], z: NDArray[np.float32], norm: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    """Squared distance of all embeddings to the i-th: |g|^2 + |g_i|^2 - 2 (a a_i) (z z_i)."""
    distance: NDArray[np.float64] = norm**2 + norm[i] ** 2 - 2 * (a @ a[i]) * (z @ z[i])
    return distance.clip(0)


@register_batch(
    "latent-mix",
    needs="labels",
    cost="two encoder passes over the pool",
    when="two or more labels a class, small batches",
    reference="Parvaneh et al. 2022 (ALFA-Mix), arXiv 2203.07034",
)
def latent_mix(c: Candidates, n: int) -> Choice:
    """Candidates whose prediction changes when a little of the mean of another class is mixed into their representation, along
    the gradient of the loss; of these, those nearest to n centres of k-means.

    The fraction that is mixed in grows until n candidates have changed; utility is 1 / (1 + number of the fraction that did
    it), 0 for those that none changed.
    """
    import torch

    from ssl_diffusion.inference.predict import by_batches

    predicted = c.p.argmax(axis=1)
    model, images = c.all_images()
    anchors = _class_means(model, c)

    def first_change(model: "JointDiffusion", x: "Tensor", rows: NDArray[np.int64]) -> "Tensor":
        z, y = model.representation(x), torch.from_numpy(predicted[rows]).to(x.device)
        with torch.enable_grad():
            at = z.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(model.classify_representation(at), y, reduction="sum")
            (g,) = torch.autograd.grad(loss, at)
        g = g / g.norm(dim=1, keepdim=True).clamp(min=1e-20)
        found = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
        for number, fraction in enumerate(_FRACTIONS):
            for anchor in anchors or [z.mean(dim=0)]:
                step = fraction * (anchor - z).norm(dim=1, keepdim=True) * g
                changed = model.classify_representation(z + step).argmax(dim=1) != y
                found[changed & (found == 0)] = 1 / (1 + number)
        return found

    utilities = by_batches(model, first_change, images, gradients=True)
    level = np.sort(utilities)[::-1][n - 1]
    rows = np.flatnonzero(utilities >= level)
    picks = rows[central(c.representation[rows], n, c.rng)]
    return Choice(picks[np.argsort(-utilities[picks], kind="stable")], utilities, np.ones(n))


def _class_means(model: "JointDiffusion", c: Candidates) -> "list[Tensor]":
    """Mean representation of the labeled samples of each class that has any, (F,), on the device of the model."""
    import torch

    from ssl_diffusion.inference.predict import represent

    if c.labeled_images is None or not len(c.labeled_images):
        return []
    device = next(model.parameters()).device
    z = torch.from_numpy(represent(model, c.labeled_images)).to(device)
    classes = torch.from_numpy(c.labeled_classes).to(device)
    return [z[classes == k].mean(dim=0) for k in np.unique(c.labeled_classes).tolist()]
