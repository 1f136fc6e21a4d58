"""Where in an image the decision between two classes lies, before anything is changed: a region for a counterfactual.

The attribution is the size of the gradient of the margin of the target over the predicted class with respect to the image,
averaged over noised copies of it (SmoothGrad, Smilkov et al. 2017, arXiv 1706.03825) and smoothed by a window of the size of a
patch. The region is made of the cells with the largest attribution that together hold a given fraction of all of it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.generation.counterfactual.refining import patch_side
from ssl_diffusion.inference.predict import evaluating
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_floats

__all__ = ["attributed_regions"]

_NOISE = (0.0, 0.1, 0.2, 0.4)  # standard deviations of what is added to the copies, on the scale [-1, 1]


def attributed_regions(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    targets: NDArray[np.int64],
    originals: NDArray[np.uint8] | None = None,
    *,
    part: float = 0.85,
    seed: int = 0,
    batch_size: int = 128,
) -> NDArray[np.float32]:
    """The smallest set of cells that holds most of the attribution of the decision between two classes.

    Args:
        model: Joint model with its EMA weights.
        images: Images, uint8 (n, C, H, W).
        targets: Other class of each image, int64 (n,).
        originals: Files that they come from, as the model's backbone reads them, uint8 (n, C, S, S); None without one.
        part: Fraction of the attribution that the region holds, in (0, 1].
        seed: Random seed of the noise.
        batch_size: Images per batch.

    Returns:
        Masks, float32 (n, H, W), 1 in the region and 0 elsewhere.

    Example:
        >>> region = attributed_regions(run.model, images, targets)  # doctest: +SKIP
        >>> explain(run.model, images, targets, region=region)  # doctest: +SKIP
    """
    regions = np.empty((len(images), *images.shape[2:]), dtype=np.float32)
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        files = None if originals is None else originals[rows]
        noise = torch.Generator().manual_seed(seed)
        regions[rows] = _region(model, images[rows], targets[rows], files, part, noise)
    return regions


def _region(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    targets: NDArray[np.int64],
    files: NDArray[np.uint8] | None,
    part: float,
    noise: torch.Generator,
) -> NDArray[np.float32]:
    with evaluating(model, "fp32", gradients=True) as device:
        x, target = to_floats(images, device), torch.from_numpy(targets).to(device)
        judge = model
        if files is not None and isinstance(model, FusedDiffusion):
            judge = model.anchored(x, to_floats(files, device))
        source = judge.classify(x).argmax(dim=1)
        total = torch.zeros_like(x[:, :1])
        for level in _NOISE:
            # The same noise for every image: what is said of one does not depend on those beside it.
            copies = x + level * torch.randn(x.shape[1:], generator=noise).to(device)
            total += _gradient(judge, copies, source, target).abs().sum(dim=1, keepdim=True)
        side = patch_side(tuple(x.shape[1:]))
        taps = max(3, side | 1)
        padded = functional.pad(total, (taps // 2,) * 4, mode="replicate")
        smooth = functional.avg_pool2d(padded, taps, stride=1)
        cells = functional.avg_pool2d(smooth, side, ceil_mode=True)
        values, order = cells.flatten(1).sort(dim=1, descending=True, stable=True)
        before = values.cumsum(dim=1) - values
        kept = torch.zeros_like(values).scatter(1, order, (before < part * values.sum(dim=1, keepdim=True)).float())
        mask = kept.view_as(cells).repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    found: NDArray[np.float32] = mask[:, 0, : x.shape[2], : x.shape[3]].cpu().numpy()
    return found


def _gradient(model: JointDiffusion, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        logits = model.classify(at)
        margin = logits.gather(1, target[:, None]) - logits.gather(1, source[:, None])
        (gradient,) = torch.autograd.grad(margin.sum(), at)
    return gradient
