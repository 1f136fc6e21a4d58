r"""Cheap distances to the decision boundary, for comparison with counterfactuals and for acquisition.

* :func:`linear_distance`: closed form of the first-order boundary in representation space. With class scores
  :math:`f_k(z)`, the boundary between source s and target t is :math:`(f_s - f_t) / |\nabla (f_s - f_t)|` away; for a linear
  head this is exact.
* :func:`deepfool_distance`: the same in pixel space, iterated until the class changes (Moosavi-Dezfooli et al. 2016,
  arXiv 1511.04599, algorithm 2, for one target class at a time).

Both return a :class:`~ssl_diffusion.generation.CounterfactualResult`, without noise. They leave the manifold of images:
DeepFool finds a perturbation that is hardly visible, not an explanation.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.generation.counterfactual.result import CounterfactualResult, Pairs, make_pairs
from ssl_diffusion.generation.counterfactual.search import check_images
from ssl_diffusion.inference.predict import evaluating
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_bytes, to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["deepfool_distance", "linear_distance"]

_OVERSHOOTS = (1.02, 1.1, 1.25, 1.5, *(2.0**i for i in range(1, 8)))
_LEVELS = (0.75, 1.5, 3.0)  # largest change of a pixel, in levels of 8 bits, where all these factors are lost in rounding
_UNCERTAIN = 1e-6  # difference of two scores that single precision cannot tell from 0, relative to the scores


def linear_distance(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    target: str | int | NDArray[np.integer[Any]] = "nearest",
    *,
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
) -> CounterfactualResult:
    """Distance to the first-order boundary in representation space, with one encoder pass per image.

    Args:
        model: Joint model with its EMA weights.
        images: Images, uint8, (n, C, H, W).
        target: Target class or classes, see :func:`ssl_diffusion.generation.explain`.
        batch_size: Pairs per batch.
        progress: Callback for the number of pairs done.

    Returns:
        One entry for each pair. `success` says whether the class of the representation changes to the target just behind the
        boundary; it does not if a third class lies between or the head is not linear enough, and the distance then is a lower
        bound. There is no image: `counterfactual` is None and `distance_pixel` NaN.

    Raises:
        RunError: If the model has fewer than two classes.
        DataError: If the images do not suit the model, or a target does not exist or is the predicted class.

    Example:
        >>> linear_distance(model, images, "nearest").distance_representation
    """

    def measure(x: Tensor, source: Tensor, wanted: Tensor) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            z = model.representation(x)
        step, _ = _step_to_boundary(model.classify_representation, z, source, wanted)
        # Behind it by a thousandth, and by more than the rounding error of two scores that are almost equal.
        length = step.norm(dim=1, keepdim=True).clamp(min=1e-30)
        overshoot = torch.maximum(1e-3 * length, 1e-5 * z.norm(dim=1, keepdim=True))
        behind = model.classify_representation(z + step * (1 + overshoot / length))
        return {
            "success": _numpy(behind.argmax(dim=1) == wanted),
            "distance_representation": _numpy(step.double().norm(dim=1)),
            "distance_pixel": np.full(len(x), np.nan),
            "network_evaluations": np.ones(len(x), dtype=np.int64),
            **_probabilities(model.classify_representation(z + step), source, wanted),
        }

    return _measure_all(model, images, target, batch_size, progress, measure)


def deepfool_distance(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    target: str | int | NDArray[np.integer[Any]] = "nearest",
    *,
    max_steps: int = 50,
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
) -> CounterfactualResult:
    """The smallest change of pixels that changes the class, found by DeepFool.

    Args:
        model: Joint model with its EMA weights.
        images: Images, uint8, (n, C, H, W).
        target: Target class or classes, see :func:`ssl_diffusion.generation.explain`.
        max_steps: Largest number of iterations.
        batch_size: Pairs per batch.
        progress: Callback for the number of pairs done.

    Returns:
        One entry for each pair. `distance_pixel` is that of the point on the boundary, before rounding; `counterfactual` lies
        behind it, by 2 % or as much as the class needs to change after rounding to 8 bits. `success` is False where neither a
        factor of 128 nor three levels of 8 bits in the pixel that changes most are enough, or no boundary was found.

    Raises:
        RunError: If the model has fewer than two classes.
        DataError: If the images do not suit the model, or a target does not exist or is the predicted class.

    Example:
        >>> deepfool_distance(model, images, "nearest").distance_pixel
    """

    def measure(x: Tensor, source: Tensor, wanted: Tensor) -> dict[str, NDArray[Any]]:
        change = torch.zeros_like(x)
        steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        left = torch.arange(len(x), device=x.device)
        for _ in range(max_steps):
            at = x[left] + 1.02 * change[left]
            # On the boundary, but for rounding, a step of the difference found might never end behind it.
            step, logits = _step_to_boundary(model.classify, at, source[left], wanted[left], uncertain=_UNCERTAIN)
            steps[left] += 2
            open_ = logits.argmax(dim=1) != wanted[left]
            left, step = left[open_], step[open_]
            if not len(left):
                break
            change[left] += step
        found = x + change
        success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        one_level = 2 / 255 / change.abs().flatten(1).amax(dim=1).clamp(min=1e-30)  # as a factor
        factors = [torch.full_like(one_level, factor) for factor in _OVERSHOOTS]
        farther = [n * one_level for n in _LEVELS]
        for factor in (*factors, *(torch.where(f > _OVERSHOOTS[-1], f, 0) for f in farther)):
            todo = torch.nonzero(~success & (factor > 0)).flatten()
            if not len(todo):
                continue
            changed = x[todo] + factor[todo, None, None, None] * change[todo]
            found[todo] = to_floats(to_bytes(changed), x.device)
            success[todo] = model.classify(found[todo]).argmax(dim=1) == wanted[todo]
            steps[todo] += 1
        rms = (change.double() / 2).flatten(1).square().mean(dim=1).sqrt()
        apart = (model.representation(found) - model.representation(x)).double().norm(dim=1)
        return {
            "counterfactual": to_bytes(found),
            "success": _numpy(success),
            "distance_pixel": _numpy(rms),
            "distance_representation": _numpy(apart),
            "network_evaluations": _numpy(steps + 1),
            **_probabilities(model.classify(found), source, wanted),
        }

    return _measure_all(model, images, target, batch_size, progress, measure)


Measure = Callable[[Tensor, Tensor, Tensor], dict[str, NDArray[Any]]]


def _measure_all(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    target: str | int | NDArray[np.integer[Any]],
    batch_size: int,
    progress: ProgressCallback | None,
    measure: Measure,
) -> CounterfactualResult:
    """Measure all pairs in batches."""
    pairs = make_pairs(check_images(model, images), target)
    parts, m = [], len(pairs.image)
    with evaluating(model, "fp32", gradients=True) as device:
        for start in range(0, max(1, m), batch_size):
            rows = slice(start, start + batch_size)
            original = images[pairs.image[rows]]
            began = time.perf_counter()
            source, wanted = (torch.from_numpy(v[rows]).to(device) for v in (pairs.source, pairs.target))
            values = measure(to_floats(original, device), source, wanted)
            spent = (time.perf_counter() - began) / max(1, len(original))
            parts.append(values | {"seconds": np.full(len(original), spent)})
            if progress is not None:
                progress(ProgressUpdate("distances", min(start + batch_size, m), m, "pairs"))
    joined: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    result = _result(images, pairs, joined)
    return result.nearest() if isinstance(target, str) and target == "nearest" else result


def _result(images: NDArray[np.uint8], pairs: Pairs, values: dict[str, Any]) -> CounterfactualResult:
    nothing = np.zeros(len(pairs.image))
    defaults: dict[str, Any] = {"counterfactual": None, "noise_level": nothing, "scale": nothing}
    given: dict[str, Any] = {
        "image": pairs.image,
        "original": images[pairs.image],
        "source": pairs.source,
        "target": pairs.target,
    }
    return CounterfactualResult(**defaults | given | values)


def _step_to_boundary(
    scores: Callable[[Tensor], Tensor], at: Tensor, source: Tensor, wanted: Tensor, uncertain: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The shortest step to the first-order boundary between two classes, in the shape of `at`, and the class scores at `at`.

    Args:
        scores: Function from points to class scores, (n, K).
        at: Points, (n, ...).
        source: Classes on this side, (n,).
        wanted: Classes on the other side, (n,).
        uncertain: Smallest difference of two scores to step over, relative to the largest score of the point.
    """
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        f = scores(at)
        gap = (f.gather(1, source[:, None]) - f.gather(1, wanted[:, None]))[:, 0]
        (g,) = torch.autograd.grad(gap.sum(), at)
    least = uncertain * f.detach().abs().amax(dim=1)
    gap = torch.where(gap.abs() < least, least, gap.detach())
    square = g.double().flatten(1).square().sum(dim=1).clamp(min=1e-30)
    length = (gap.double() / square).view(-1, *[1] * (at.ndim - 1))
    return (-length * g).to(at.dtype), f.detach()


def _probabilities(logits: Tensor, source: Tensor, wanted: Tensor) -> dict[str, NDArray[Any]]:
    p = logits.softmax(dim=1)
    return {
        "p_source": _numpy(p.gather(1, source[:, None])[:, 0]),
        "p_target": _numpy(p.gather(1, wanted[:, None])[:, 0]),
    }


def _numpy(t: Tensor) -> NDArray[Any]:
    values: NDArray[Any] = t.detach().cpu().numpy()
    return values
