"""The boundary on the way from an image to its counterfactual: a few predictions instead of a second search."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.generation.counterfactual.refining import blended
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.inference.predict import evaluating
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import rounded, to_bytes, to_floats

__all__ = ["boundary_on_the_way"]


def boundary_on_the_way(
    model: JointDiffusion, result: CounterfactualResult, originals: NDArray[np.uint8] | None = None
) -> CounterfactualResult:
    """The smallest fraction of each change that makes the target the most probable class.

    It is farther away than the boundary that a search of its own finds: distances for acquisition are not measured by it.

    Args:
        model: Joint model with its EMA weights.
        result: Counterfactuals, m of them.
        originals: Files that the images come from, one of each pair, uint8 (m, C, S, S), see
            :func:`ssl_diffusion.generation.explain`.

    Returns:
        The pairs with the images, probabilities and distances in pixels of the boundary; those that failed as they were.

    Example:
        >>> edge = boundary_on_the_way(run.model, explain(run.model, images, confidence=0.9))  # doctest: +SKIP
    """
    rows = np.flatnonzero(result.success)
    if not rows.size:
        return result
    some = result.take(rows)
    with evaluating(model, "fp32") as device:
        x, found = to_floats(some.original, device), to_floats(some.images(), device)
        target = torch.from_numpy(some.target).to(device)
        judge = model
        if originals is not None and isinstance(model, FusedDiffusion):
            judge = model.anchored(x, to_floats(originals[rows], device))

        def reaches(images: Tensor) -> Tensor:
            predicted: Tensor = judge.classify(rounded(images)).argmax(dim=1)
            return predicted == target

        made = x + blended(x, found - x, reaches)
        p = judge.classify(rounded(made)).softmax(dim=1).cpu().numpy()
    images, every = to_bytes(made), np.arange(len(some))
    distance = np.sqrt(np.square((images.astype(np.float64) - some.original) / 255).mean(axis=(1, 2, 3)))
    edge = replace(
        some, counterfactual=images, p_source=p[every, some.source], p_target=p[every, some.target], distance_pixel=distance
    )
    return result.with_rows(rows, edge)
