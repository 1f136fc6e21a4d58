r"""Counterfactuals: the closest image on the model's manifold that the classifier gives another class.

The search for an image x and a target class:

1. **escalate**: noise x to a level, denoise it under guidance towards the target; images that did not change class try again
   with more noise and stronger guidance (:data:`ATTEMPTS`), the others leave the batch;
2. **blend**: bisect between x and what was found, for the smallest share of the change that still changes the class;
3. **revert**: take back the changes that this does not need, those with the smallest effect on the logits (to first order)
   first, as many as the class bears, again by bisection;
4. every check reads the image after rounding to 8 bits, as it would be saved.

What is random depends on the seed and on the image, not on its place in a batch. Failures are part of the result, with
`success=False` and as distance that of the largest change that was tried, a lower bound of the true one.

Distances: `distance_pixel` is the root mean square over the values of an image, in [0, 1] units; `distance_representation`
the Euclidean distance of the representations.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.guidance import Guidance
from ssl_diffusion.joint import JointDiffusion
from ssl_diffusion.pixels import rounded, to_bytes, to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.sampling import DDIM, Noise, integrate, sampling_mode

__all__ = [
    "ATTEMPTS",
    "CounterfactualResult",
    "Pairs",
    "check_images",
    "explain",
    "make_pairs",
]

# Noise level and scale of guidance of each attempt.
ATTEMPTS = ((0.3, 0.5), (0.3, 1.5), (0.6, 1.5), (1.2, 1.5), (1.2, 4.0), (2.4, 8.0))
_STEPS = 8
_BLEND_CHECKS = 8
_REVERSIONS = 2  # the effects are of first order, so a second look finds more


@dataclass(frozen=True)
class CounterfactualResult:
    """Counterfactuals of m pairs of an image and a target class; every field has one entry a pair.

    Attributes:
        image: index of the image among those that were given, int64 (m,).
        original: uint8 (m, C, H, W).
        counterfactual: uint8 (m, C, H, W); of a failure the last attempt. None if the method only measures a distance.
        source: predicted class of the original, int64 (m,).
        target: int64 (m,).
        success: whether the counterfactual, rounded to 8 bits, is classified as the target (with the confidence that was asked
            for), bool (m,).
        p_source: probability of the source class after the change, float32 (m,), in [0, 1].
        p_target: probability of the target class after the change.
        distance_pixel: root mean square change in [0, 1] units, float64 (m,); of a failure, a lower bound. NaN if the method
            does not work on pixels.
        distance_representation: Euclidean distance between the representations, float64 (m,).
        noise_level: noise level of the attempt that is kept; 0 for methods without noise.
        scale: its scale of guidance.
        network_evaluations: passes of the image through the network or its encoder, forward or backward, int64 (m,).
        seconds: time per pair (that of its batch, shared evenly), float64 (m,).
    """

    image: NDArray[np.int64]
    original: NDArray[np.uint8]
    counterfactual: NDArray[np.uint8] | None
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    success: NDArray[np.bool_]
    p_source: NDArray[np.float32]
    p_target: NDArray[np.float32]
    distance_pixel: NDArray[np.float64]
    distance_representation: NDArray[np.float64]
    noise_level: NDArray[np.float64]
    scale: NDArray[np.float64]
    network_evaluations: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: NDArray[Any]) -> "CounterfactualResult":
        """Some of the pairs, by index or by a mask."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v[rows] for name, v in values.items() if v is not None})

    def nearest(self) -> "CounterfactualResult":
        """The pair with the smallest pixel distance for each image, successes before failures; costs are summed."""
        distance = np.where(np.isnan(self.distance_pixel), self.distance_representation, self.distance_pixel)
        order = np.lexsort((distance, ~self.success, self.image))
        best = order[np.unique(self.image[order], return_index=True)[1]]
        number = np.searchsorted(self.image[best], self.image)
        return replace(
            self.take(best),
            network_evaluations=np.bincount(number, weights=self.network_evaluations).astype(np.int64),
            seconds=np.bincount(number, weights=self.seconds).astype(np.float64),
        )

    def to_frame(self, ids: NDArray[Any] | None = None, classes: tuple[str, ...] | None = None) -> pd.DataFrame:
        """One row a pair, without the images; with `ids` and `classes`, ids and names stand for the numbers."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("original", "counterfactual")}
        if ids is not None:
            columns = {"id": np.asarray(ids)[columns.pop("image")]} | columns
        if classes is not None:
            names = np.array(classes)
            columns |= {"source": names[self.source], "target": names[self.target]}
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class Pairs:
    """Images and the classes that they are to be moved to: `image` int64 (m,), `source` and `target` int64 (m,)."""

    image: NDArray[np.int64]
    source: NDArray[np.int64]
    target: NDArray[np.int64]


def make_pairs(logits: NDArray[np.float32], target: str | int | NDArray[np.integer[Any]]) -> Pairs:
    """The pairs that a target means, given the logits of the images, (n, K).

    Args:
        logits: class logits, (n, K).
        target: "runner-up", the second most probable class; "nearest" or "all", every other class; one class; or a class for
            each image.

    Raises:
        DataError: if a target does not exist or is the predicted class of an image.
    """
    n, k = logits.shape
    source = logits.argmax(axis=1)
    if isinstance(target, str):
        if target == "runner-up":
            return Pairs(np.arange(n), source, np.argsort(-logits, axis=1, kind="stable")[:, 1])
        if target in ("nearest", "all"):
            image, wanted = np.nonzero(np.arange(k)[None] != source[:, None])
            return Pairs(image, source[image], wanted)
        raise DataError(f"a target is a class, 'runner-up', 'nearest' or 'all', not {target!r}")
    wanted = np.broadcast_to(np.asarray(target), (n,)).astype(np.int64) if np.ndim(target) == 0 else np.asarray(target)
    if wanted.shape != (n,):
        raise DataError(f"one target for each of {n} images is needed, not an array of shape {wanted.shape}")
    if n and not 0 <= wanted.min() <= wanted.max() < k:
        raise DataError(f"targets are classes 0 to {k - 1}; {sorted(set(wanted.tolist()) - set(range(k)))} are not")
    if (same := np.flatnonzero(wanted == source)).size:
        raise DataError(f"image {same[0]} is classified as {source[same[0]]} already; choose another target for it")
    return Pairs(np.arange(n), source, wanted)


def explain(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    target: str | int | NDArray[np.integer[Any]] = "runner-up",
    *,
    confidence: float = 0.0,
    revert: bool = True,
    seed: int = 0,
    batch_size: int = 128,
    precision: str = "fp32",
    progress: ProgressCallback | None = None,
) -> CounterfactualResult:
    """Search the counterfactuals of images.

    Args:
        model: the joint model; its EMA weights.
        images: uint8, (n, C, H, W), of the size that the model was made for.
        target: "runner-up", "nearest" (of all classes, the one that takes the smallest change), "all" (one row for each
            other class), one class, or a class for each image.
        confidence: least probability of the target class, in [0, 1); 0 is the boundary, where it just becomes the largest.
        revert: take back the changes of single values that are not needed. Without, a counterfactual is the image blended with
            a sample of the model: smoother, of more small changes.
        seed: of the noise.
        batch_size: pairs at a time.
        precision: "fp32" or "bf16", of the search; the checks are always made in fp32.
        progress: called with the number of pairs that are found or given up.

    Raises:
        RunError: if the model has no classes, or only one.
        DataError: if the images are not what the model was made for, or a target cannot be meant.
    """
    logits = check_images(model, images)
    if not 0 <= confidence < 1:
        raise DataError(f"the confidence of a counterfactual is a probability in [0, 1), not {confidence}")
    pairs = make_pairs(logits, target)
    search = _Search(model, images, pairs, confidence, revert, seed, batch_size, precision, progress)
    result = search.run()
    return result.nearest() if isinstance(target, str) and target == "nearest" else result


def check_images(model: JointDiffusion, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of the images, if they can be explained; else the errors of :func:`explain`."""
    from ssl_diffusion.evaluation import predict_logits

    if model.config.n_classes < 2:
        raise RunError(f"a counterfactual needs a model of at least two classes, not {model.config.n_classes}")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images are uint8 arrays (n, C, H, W), not {images.dtype} {images.shape}")
    if images.shape[1:] != tuple(model.config.image_shape):
        raise DataError(f"images have shape {images.shape[1:]}, but the model was made for {tuple(model.config.image_shape)}")
    if not len(images):
        return np.zeros((0, model.config.n_classes), dtype=np.float32)
    return predict_logits(model, images)


class _Search:
    """State of a search over all pairs; what is done is done for chunks of those that still need it."""

    def __init__(
        self,
        model: JointDiffusion,
        images: NDArray[np.uint8],
        pairs: Pairs,
        confidence: float,
        revert: bool,
        seed: int,
        batch_size: int,
        precision: str,
        progress: ProgressCallback | None,
    ) -> None:
        m = len(pairs.image)
        self.model, self.pairs, self.batch_size, self.precision, self.progress = model, pairs, batch_size, precision, progress
        self.confidence, self.revert = confidence, revert
        self.seeds = [_image_seed(image, seed) for image in images]
        self.original = images[pairs.image]
        self.found = self.original.copy()
        self.success = np.zeros(m, dtype=bool)
        self.attempt = np.zeros(m, dtype=np.int64)
        self.bound = np.zeros(m)
        self.evaluations = np.ones(m, dtype=np.int64)  # the one that found the source
        self.seconds = np.zeros(m)

    def run(self) -> CounterfactualResult:
        with sampling_mode(self.model, "fp32") as device:
            for number, (level, scale) in enumerate(ATTEMPTS):
                for rows in self._chunks(np.flatnonzero(~self.success)):
                    self._attempt(rows, number, level, Guidance("estimate", scale), device)
            for rows in self._chunks(np.flatnonzero(self.success)):
                self._refine(rows, device)
            z, p = self._read(self.found, device)
            z_original, _ = self._read(self.original, device)
        self._report(final=True)
        every = np.arange(len(p))
        distance = _rms(self.found, self.original)
        return CounterfactualResult(
            image=self.pairs.image,
            original=self.original,
            counterfactual=self.found,
            source=self.pairs.source,
            target=self.pairs.target,
            success=self.success,
            p_source=p[every, self.pairs.source],
            p_target=p[every, self.pairs.target],
            distance_pixel=np.where(self.success, distance, self.bound),
            distance_representation=np.linalg.norm(z - z_original, axis=1),
            noise_level=np.array([level for level, _ in ATTEMPTS])[self.attempt],
            scale=np.array([scale for _, scale in ATTEMPTS])[self.attempt],
            network_evaluations=self.evaluations,
            seconds=self.seconds,
        )

    def _chunks(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def _attempt(self, rows: NDArray[np.int64], number: int, level: float, guidance: Guidance, device: torch.device) -> None:
        """Noise, denoise under guidance, check."""
        began = time.perf_counter()
        model = self.model
        noise = Noise([self.seeds[i] + number for i in self.pairs.image[rows]], model.config.image_shape)
        x, target = to_floats(self.original[rows], device), torch.from_numpy(self.pairs.target[rows]).to(device)
        levels = model.noise.levels(_STEPS, level)
        noised = x + float(levels[0]) * noise.draw().to(device)
        denoise = guidance.wrap(model, target, noise.draw)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            moved = integrate(DDIM(), denoise, noised, levels, noise)
        self.evaluations[rows] += sum(guidance.evaluations(model, s) for s in levels[:-1].tolist())
        flipped = self._flips(moved, target, rows)
        self.found[rows] = to_bytes(moved)
        self.success[rows] = flipped
        self.attempt[rows] = number
        self.bound[rows] = np.maximum(self.bound[rows], _rms(self.found[rows], self.original[rows]))
        self._spend(rows, began)

    def _refine(self, rows: NDArray[np.int64], device: torch.device) -> None:
        """Blend, then revert what is not needed."""
        began = time.perf_counter()
        x, found = to_floats(self.original[rows], device), to_floats(self.found[rows], device)
        target = torch.from_numpy(self.pairs.target[rows]).to(device)
        change = found - x
        share = self._bisect(lambda a: x + a[:, None, None, None] * change, target, rows, _BLEND_CHECKS)
        change = rounded(x + share[:, None, None, None] * change) - x
        for _ in range(_REVERSIONS if self.revert else 0):
            change = self._reverted(x, change, target, rows)
        self.found[rows] = to_bytes(x + change)
        self._spend(rows, began)

    def _reverted(self, x: Tensor, change: Tensor, target: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """The change without as many of its smallest effects as the class bears."""
        # Effect of each change on the margin of the target, to first order; the larger, the more it is needed.
        with torch.enable_grad():
            at = (x + change).requires_grad_()
            logits = self.model.classify(at)
            wanted = logits.gather(1, target[:, None])[:, 0]
            others = logits.scatter(1, target[:, None], -torch.inf).logsumexp(dim=1)
            (g,) = torch.autograd.grad((wanted - others).sum(), at)
        self.evaluations[rows] += 2
        effect = torch.where(change != 0, g * change, -torch.inf).flatten(1)
        rank = effect.argsort(dim=1).argsort(dim=1).view_as(change)
        size = rank[0].numel()

        def kept(a: Tensor) -> Tensor:  # the changes that stay, as a share of all values of the image
            return x + torch.where(rank >= ((1 - a) * size)[:, None, None, None].round(), change, 0.0)

        return kept(self._bisect(kept, target, rows, max(1, size.bit_length()))) - x

    def _bisect(self, make: Callable[[Tensor], Tensor], target: Tensor, rows: NDArray[np.int64], checks: int) -> Tensor:
        """The smallest share (up to 2^-checks) with which the made image is classified as the target; 1 is known to be."""
        low, high = torch.zeros(len(rows), device=target.device), torch.ones(len(rows), device=target.device)
        for _ in range(checks):
            middle = (low + high) / 2
            flipped = torch.from_numpy(self._flips(make(middle), target, rows)).to(target.device)
            low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
        return high

    def _flips(self, x: Tensor, target: Tensor, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether images, rounded to 8 bits, are classified as the target; read in fp32, like every prediction that counts."""
        self.evaluations[rows] += 1
        p, predicted = self.model.classify(rounded(x)).softmax(dim=1).max(dim=1)
        flipped: NDArray[np.bool_] = ((predicted == target) & (p >= self.confidence)).cpu().numpy()
        return flipped

    def _read(self, images: NDArray[np.uint8], device: torch.device) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Representations and class probabilities."""
        model, k = self.model, self.model.config.n_classes
        z, p = np.zeros((len(images), model.n_features), dtype=np.float32), np.zeros((len(images), k), dtype=np.float32)
        for rows in self._chunks(np.arange(len(images))):
            part = model.representation(to_floats(images[rows], device))
            z[rows] = part.cpu().numpy()
            p[rows] = model.classify_representation(part).softmax(dim=1).cpu().numpy()
        return z, p

    def _spend(self, rows: NDArray[np.int64], began: float) -> None:
        self.seconds[rows] += (time.perf_counter() - began) / len(rows)
        self._report()

    def _report(self, final: bool = False) -> None:
        if self.progress is not None:
            done = len(self.success) if final else int(self.success.sum())
            self.progress(ProgressUpdate("explain", done, len(self.success), "counterfactuals"))


def _image_seed(image: NDArray[np.uint8], seed: int) -> int:
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes() + str(seed).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _rms(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    change = (a.astype(np.float64) - b.astype(np.float64)) / 255
    distance: NDArray[np.float64] = np.sqrt(np.square(change).mean(axis=(1, 2, 3)))
    return distance
