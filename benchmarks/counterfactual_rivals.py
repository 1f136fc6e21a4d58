"""Other ways to a counterfactual on the same model, as baselines.

A DiME-style search, gradient descent on the pixels, and what is left of a reflection where nothing is denoised: a blend of the
image and the mean of ten others.
"""

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.generation.counterfactual.reflection import Reference, pulls
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult, Pairs, make_pairs
from ssl_diffusion.generation.sampling import DDPMAncestral, NoiseStream
from ssl_diffusion.inference.predict import evaluating, predict_logits, represent
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_bytes, to_floats

__all__ = ["dime", "mean_blend", "pixel_descent"]

_DIME_START, _DIME_STEPS = 1.2, 60  # the noise of step 60 of 200 of a linear schedule
_DIME_SCALES = (8.0, 10.0, 15.0, 40.0, 100.0)  # the first three are the published ones
_DIME_L1 = 0.05


def dime(model: JointDiffusion, images: NDArray[np.uint8], *, seed: int = 0, batch_size: int = 100) -> CounterfactualResult:
    """Jeanneret et al. 2022 (arXiv 2203.15636), on the runner-up class: 60 denoising steps, each guided by the gradient of the
    classifier at a clean image, which a nested chain of the remaining steps has drawn; the scale escalates for images that
    did not change class. The perceptual loss, which needs the weights of another network, is left out; L1 is kept."""

    def search(x: Tensor, target: Tensor, scale: float, noise: NoiseStream, rows: NDArray[np.int64]) -> tuple[Tensor, int]:
        levels = model.noise.levels(_DIME_STEPS, _DIME_START).tolist()
        step, evaluations = DDPMAncestral().step, 0
        at = x + levels[0] * noise.draw()
        for i, (s, t) in enumerate(pairwise(levels)):
            clean = at
            for u, v in pairwise(levels[i:]):
                clean = step(model.denoise, clean, u, v, noise)
                evaluations += 1
            with torch.enable_grad():
                clean = clean.detach().requires_grad_()
                loss = functional.cross_entropy(model.classify(clean), target, reduction="sum")
                (g,) = torch.autograd.grad(scale * loss + _DIME_L1 * (clean - x).abs().sum(), clean)
            evaluations += 3  # the classifier forward and backward, and the step itself
            at = step(model.denoise, at, s, t, noise) - t**2 * (1 - (t / s) ** 2) * g
        return at, evaluations

    return _escalate(model, images, _DIME_START, _DIME_SCALES, search, seed, batch_size)


def pixel_descent(
    model: JointDiffusion, images: NDArray[np.uint8], *, confidence: float = 0.0, seed: int = 0, batch_size: int = 100
) -> CounterfactualResult:
    """Normalised gradient steps on the pixels, of 0.01 in root mean square (of [-1, 1]), until the class changes, with at least
    the probability that is asked for."""

    def search(x: Tensor, target: Tensor, scale: float, noise: NoiseStream, rows: NDArray[np.int64]) -> tuple[Tensor, int]:
        at, evaluations = x.clone(), 0
        left = torch.arange(len(x))
        for _ in range(200):
            with torch.enable_grad():
                here = at[left].requires_grad_()
                logits = model.classify(here)
                (g,) = torch.autograd.grad(functional.cross_entropy(logits, target[left], reduction="sum"), here)
            evaluations += 3  # forward, backward, and the check of the rounded image
            g = g / g.flatten(1).square().mean(dim=1).sqrt().clamp(min=1e-20)[:, None, None, None]
            at[left] = (at[left] - scale * g).clamp(-1, 1)
            p, predicted = model.classify(to_floats(to_bytes(at[left]), x.device)).softmax(dim=1).max(dim=1)
            left = left[~((predicted == target[left]) & (p >= confidence))]
            if not len(left):
                break
        return at, evaluations

    return _escalate(model, images, 0.0, (0.01,), search, seed, batch_size, confidence)


def mean_blend(
    model: JointDiffusion, images: NDArray[np.uint8], reference: Reference, confidence: float, *, batch_size: int = 100
) -> CounterfactualResult:
    """The image pulled towards its decoded reflection, in 24 steps up to twice the way, until the class changes with the
    probability that is asked for: :mod:`ssl_diffusion.generation.counterfactual.reflection` without its denoising."""
    logits = predict_logits(model, images)
    pairs = make_pairs(logits, "runner-up")
    pull = torch.from_numpy(pulls(model, reference, images, represent(model, images), logits, pairs, confidence))

    def search(x: Tensor, target: Tensor, scale: float, noise: NoiseStream, rows: NDArray[np.int64]) -> tuple[Tensor, int]:
        at, left = x.clone(), torch.arange(len(x))
        for step in range(1, 25):
            at[left] = (x[left] + step / 12 * pull[rows][left]).clamp(-1, 1)
            p, predicted = model.classify(to_floats(to_bytes(at[left]), x.device)).softmax(dim=1).max(dim=1)
            left = left[~((predicted == target[left]) & (p >= confidence))]
            if not len(left):
                break
        return at, step

    return _escalate(model, images, 0.0, (1.0,), search, 0, batch_size, confidence)


Search = Callable[[Tensor, Tensor, float, NoiseStream, NDArray[np.int64]], tuple[Tensor, int]]


def _escalate(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    level: float,
    scales: tuple[float, ...],
    search: Search,
    seed: int,
    batch_size: int,
    confidence: float = 0.0,
) -> CounterfactualResult:
    """Try one scale after the other for images that did not change class; the counts are those of a whole batch."""
    pairs: Pairs = make_pairs(predict_logits(model, images), "runner-up")
    n = len(images)
    found, success = images.copy(), np.zeros(n, dtype=bool)
    used, evaluations, seconds = np.zeros(n), np.ones(n, dtype=np.int64), np.zeros(n)
    with evaluating(model, "fp32", gradients=True) as device:
        for scale in scales:
            todo = np.flatnonzero(~success)
            for rows in (todo[i : i + batch_size] for i in range(0, len(todo), batch_size)):
                began = time.perf_counter()
                x, target = to_floats(images[rows], device), torch.from_numpy(pairs.target[rows]).to(device)
                noise = NoiseStream([seed + int(i) for i in rows], model.config.image_shape)
                moved, count = search(x, target, scale, noise, rows)
                found[rows], used[rows] = to_bytes(moved), scale
                p, predicted = model.classify(to_floats(found[rows], device)).softmax(dim=1).max(dim=1)
                success[rows] = ((predicted == target) & (p >= confidence)).numpy()
                evaluations[rows] += count + 1
                seconds[rows] += (time.perf_counter() - began) / len(rows)
    after = torch.from_numpy(predict_logits(model, found)).softmax(dim=1).numpy()
    change = (found.astype(np.float64) - images) / 255
    every = np.arange(n)
    return CounterfactualResult(
        image=pairs.image,
        original=images,
        counterfactual=found,
        source=pairs.source,
        target=pairs.target,
        success=success,
        p_source=after[every, pairs.source],
        p_target=after[every, pairs.target],
        distance_pixel=np.sqrt(np.square(change).mean(axis=(1, 2, 3))),
        distance_representation=np.linalg.norm(represent(model, found) - represent(model, images), axis=1).astype(np.float64),
        noise_level=np.full(n, level),
        scale=used,
        network_evaluations=evaluations,
        seconds=seconds,
    )
