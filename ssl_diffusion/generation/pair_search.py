"""Counterfactuals of the pairs that a folder of explanations shows: at the boundary, and as sure as was asked for."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.generation.attribution import attributed_regions
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import SURE, SearchOptions, explain_run
from ssl_diffusion.generation.regions import seen_region
from ssl_diffusion.inference.run import Run

__all__ = ["AUTO", "Explained", "searched"]

AUTO = "auto"
"""The region that is chosen by attribution."""


@dataclass(frozen=True)
class Explained:
    """Images to explain, m of them.

    Attributes:
        images: Images, uint8, (m, C, H, W).
        originals: Files as a backbone reads them, uint8, (m, C, S, S); None without one.
        files: Files at whose size the pictures are; None in the place of those that have the size of the images.
        masks: Masks of what may change in the pictures, bool (H', W'); None is all of them.
    """

    images: NDArray[np.uint8]
    originals: NDArray[np.uint8] | None
    files: list[Path | None]
    masks: list[NDArray[np.bool_]] | None


def searched(
    run: Run,
    some: Explained,
    target: str | int | NDArray[np.int64],
    options: SearchOptions,
    *,
    attributed: bool = False,
) -> tuple[CounterfactualResult, CounterfactualResult]:
    """Search the counterfactuals of images.

    Args:
        run: Fitted model with classes.
        some: Images to explain.
        target: Target class, or one for each image, int64 (m,), or "runner-up", "nearest" or "all".
        options: Options of the search; a confidence that is not given becomes 0.9.
        attributed: Whether each pair is searched first where the decision between its classes lies, inside the masks.

    Returns:
        Counterfactuals at the boundary, and those of the same pairs with the confidence; twice the same without one.
    """
    sure = options.setdefault("confidence", SURE)
    images, originals, region = some.images, some.originals, None
    if some.masks is not None:
        shape = (images.shape[2], images.shape[3])
        region = np.stack([seen_region(mask, shape, run.aspect) for mask in some.masks])
    to_boundary: SearchOptions = {**options, "confidence": 0.0}
    boundary = explain_run(run, images, target, originals, region, **to_boundary)
    at = boundary.image
    images, originals = images[at], None if originals is None else originals[at]
    region = None if region is None else region[at]
    if not attributed:
        if not sure:
            return boundary, boundary
        result = explain_run(run, images, boundary.target, originals, region, **options)
        return boundary, replace(result, image=at)

    where = attributed_regions(run.model, images, boundary.target, originals, seed=options.get("seed", 0))
    where = where if region is None else where * region
    inside = replace(explain_run(run, images, boundary.target, originals, where, **to_boundary), image=at)
    inside = replace(inside, network_evaluations=inside.network_evaluations + boundary.network_evaluations)
    result = inside
    if sure:
        result = replace(explain_run(run, images, boundary.target, originals, where, **options), image=at)
    left = np.flatnonzero(~result.success)
    if len(left):  # for these the decision is not where its gradient is largest
        inside = inside.with_rows(left, boundary.take(left))
        beside = None if originals is None else originals[left]
        within = None if region is None else region[left]
        again = (
            explain_run(run, images[left], boundary.target[left], beside, within, **options) if sure else boundary.take(left)
        )
        again = replace(again, network_evaluations=again.network_evaluations + result.network_evaluations[left])
        result = result.with_rows(left, again)
    return inside, result
