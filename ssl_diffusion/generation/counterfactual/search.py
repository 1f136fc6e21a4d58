r"""Counterfactuals: the closest image on the model's manifold that the classifier gives another class.

The search for an image x and a target class:

1. **invert**: integrate x along the probability-flow ODE to a noised image z (DDIM backwards; Song et al. 2021,
   arXiv 2010.02502), from which the model returns to x;
2. **escalate**: denoise z under guidance towards the target. Images that do not change class are tried again with stronger
   guidance and finally from a higher noise level (:data:`ATTEMPTS`); the others leave the batch. The change is the difference
   between the results with and without guidance, so that errors of inversion and model, which both share, cancel;
3. **blend**: bisect for the smallest fraction of the change that still changes the class, down to the resolution of 8 bits;
4. **revert**: undo the change where it is not needed for that, in patches without edges
   (:mod:`ssl_diffusion.generation.counterfactual.refining`): those with the smallest first-order effect on the logits first, as
   many as keep the class, again by bisection; then blend once more. Where a probability is asked for, the search aims at half
   of the doubt that it leaves (0.95 for 0.9), since where it just suffices it often does so for this model alone;
5. every check reads the image after rounding to 8 bits, as it would be saved.

With a reference, a **reflection** takes the place of guidance (:mod:`ssl_diffusion.generation.counterfactual.reflection`): z is
moved towards it, at a lower noise level, and denoised without guidance. At most 40 evaluations, no gradient, nothing reverted.

Random numbers depend on the seed and on the image, not on its place in a batch. Failures are part of the result: they have
`success=False` and the image of the surest attempt, and their distance is a lower bound of the true one, namely that of the
largest change that was tried, but at least the standard deviation of what the denoiser cannot know at the highest noise level.

Distances: `distance_pixel` is the root mean square over the values of an image, on the scale [0, 1];
`distance_representation` is the Euclidean distance of the representations.
"""

import hashlib
import time
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.generation.counterfactual.masks import region_masks, within_region
from ssl_diffusion.generation.counterfactual.refining import CHECKS, blended, loosened, reverted
from ssl_diffusion.generation.counterfactual.reflection import SCALES, Reference, pulls
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult, Pairs, make_pairs
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.sampling import DDIM, NoiseStream, integrate
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.predict import evaluating, predict_logits, represent
from ssl_diffusion.inference.rows import FusedRows, Rows
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.fused import FusedDiffusion, check_gradient
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import rounded, to_bytes, to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["ATTEMPTS", "SURE", "SearchOptions", "check_images", "explain", "explain_run"]

# Noise levels, and the scales of guidance that are tried from each.
ATTEMPTS = ((2.4, (0.3, 0.6, 1.5, 4.0)), (5.0, (8.0,)), (12.0, (8.0, 30.0)))
_SURE_ATTEMPTS = ((2.4, (1.0, 4.0)), (1.2, (4.0, 12.0)), (5.0, (4.0, 8.0)), (12.0, (8.0, 30.0)))
SURE = 0.9  # probability of the target from which on people, and other models, mostly see it, too
_STEPS, _FEW = 8, 5
_FEW_CHECKS, _SURE_CHECKS = 5, 8
_READ = 64  # files that a backbone reads at once


class SearchOptions(TypedDict, total=False):
    """Options that :func:`explain_run` and what builds on it pass on; defaults and meaning as in :func:`explain`."""

    confidence: float
    revert: bool
    reference: Reference | None
    seed: int
    batch_size: int
    progress: ProgressCallback | None


def explain(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    target: str | int | NDArray[np.integer[Any]] = "runner-up",
    *,
    originals: NDArray[np.uint8] | None = None,
    region: NDArray[np.float32] | None = None,
    confidence: float = 0.0,
    revert: bool = True,
    reference: Reference | None = None,
    seed: int = 0,
    batch_size: int = 128,
    precision: str = "fp32",
    progress: ProgressCallback | None = None,
) -> CounterfactualResult:
    """Search counterfactuals of images.

    Args:
        model: Joint model with its EMA weights.
        images: Images, uint8, (n, C, H, W), of the shape that the model was made for.
        target: Target class, or one for each image, int, (n,); "runner-up" is the second most probable class, "nearest" the
            class that takes the smallest change, "all" every other class (one pair each).
        originals: The files that the images come from, as the model's backbone reads them, uint8 (n, C, S, S)
            (:func:`ssl_diffusion.inference.original_images`); changes are enlarged and added to them. None where the model has
            no backbone, or one that reads the images.
        region: Mask of what may change, float32 (H, W), or (n, H, W) with one for each image, in [0, 1]: nothing changes
            where it is 0, and changes are multiplied by what is in between. None is everywhere.
        confidence: Least probability of the target class, in [0, 1); 0 is the boundary, where it just becomes the largest. The
            search aims at half of the doubt that it leaves.
        revert: Whether changes that are not needed are undone, patch by patch; reflections are left as they are.
        reference: Images of the pool to reflect with; None searches with gradients.
        seed: Random seed of the noise.
        batch_size: Pairs per batch.
        precision: Precision of the search, "fp32" or "bf16"; the checks are always made in fp32.
        progress: Callback for the number of counterfactuals found.

    Returns:
        One entry for each pair of an image and a target class.

    Raises:
        RunError: If the model has no classes, or only one.
        DataError: If the images or the region do not suit the model, or a target does not exist or is the predicted class.

    Example:
        >>> result = explain(model, images, "nearest")
        >>> result.counterfactual[result.success]
    """
    logits = check_images(model, images, originals)
    if not 0 <= confidence < 1:
        raise DataError(f"the confidence of a counterfactual is a probability in [0, 1), not {confidence}")
    pairs = make_pairs(logits, target)
    masks = region_masks(region, images)
    pull = None
    if reference is not None:
        z = represent(model, _rows(model, images, originals))
        pull = pulls(model, reference, images, z, logits, pairs, confidence)
    search = _Search(model, images, originals, masks, pairs, pull, confidence, revert, seed, batch_size, precision, progress)
    result = search.run()
    return result.nearest() if isinstance(target, str) and target == "nearest" else result


def check_images(
    model: JointDiffusion, images: NDArray[np.uint8], originals: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """Check that images can be explained, and predict them.

    Args:
        model: Joint model.
        images: Images, uint8, (n, C, H, W).
        originals: Files that they come from, see :func:`explain`.

    Returns:
        Class logits, float32, (n, K).

    Raises:
        RunError: If the model has fewer than two classes, or no gradient runs from them to the images.
        DataError: If the images do not suit the model.
    """
    check_gradient(model, with_originals=originals is not None)
    if model.config.n_classes < 2:
        raise RunError(f"a counterfactual needs a model of at least two classes, not {model.config.n_classes}")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images are uint8 arrays (n, C, H, W), not {images.dtype} {images.shape}")
    if images.shape[1:] != tuple(model.config.image_shape):
        raise DataError(f"images have shape {images.shape[1:]}, but the model was made for {tuple(model.config.image_shape)}")
    return predict_logits(model, _rows(model, images, originals))


def _rows(model: JointDiffusion, images: NDArray[np.uint8], originals: NDArray[np.uint8] | None) -> Rows:
    """Images with the features of their originals, where there are some."""
    if originals is None or not isinstance(model, FusedDiffusion):
        return images
    ids = [str(i) for i in range(len(images))]
    parts = [model.backbone.embed(ids[i : i + _READ], originals[i : i + _READ]) for i in range(0, len(images), _READ)]
    return FusedRows(images, np.concatenate(parts))


def explain_run(
    run: Run,
    images: NDArray[np.uint8],
    target: str | int | NDArray[np.integer[Any]] = "runner-up",
    originals: NDArray[np.uint8] | None = None,
    region: NDArray[np.float32] | None = None,
    **options: Unpack[SearchOptions],
) -> CounterfactualResult:
    """Search counterfactuals of images with the classifier of a run.

    Args:
        run: Fitted model.
        images: Images, uint8 (n, C, H, W).
        target: Target class, or one for each image, (n,), or "runner-up", "nearest" or "all".
        originals: Files that the images come from, see :func:`explain`.
        region: Mask of what may change, see :func:`explain`.
        options: Confidence, revert, seed, batch size and progress, see :func:`explain`.

    Returns:
        Result of :func:`explain`.

    Raises:
        RunError: If the run has no classes, or several for one image.

    Example:
        >>> result = explain_run(run, images, "nearest")  # doctest: +SKIP
    """
    run.check_single_label("to explain")
    return explain(run.model, images, target, originals=originals, region=region, precision=run.precision, **options)


class _Search:
    """State of a search over all pairs; every step runs on chunks of the pairs that still need it."""

    def __init__(
        self,
        model: JointDiffusion,
        images: NDArray[np.uint8],
        originals: NDArray[np.uint8] | None,
        masks: NDArray[np.float32] | None,
        pairs: Pairs,
        pull: NDArray[np.float32] | None,
        confidence: float,
        revert: bool,
        seed: int,
        batch_size: int,
        precision: str,
        progress: ProgressCallback | None,
    ) -> None:
        m = len(pairs.image)
        self.model, self.pairs, self.batch_size, self.precision, self.progress = model, pairs, batch_size, precision, progress
        self.confidence, self.revert, self.pull = confidence, revert and pull is None, pull
        margin = (1 - confidence) / 2 if confidence and pull is None else 0.0
        self.least = np.full(m, confidence + margin, dtype=np.float32)  # probability that the search of a pair aims at
        self.seeds = [_image_seed(image, seed) for image in images]
        self.original, self.files = images[pairs.image], originals
        self.masks = None if masks is None else masks[pairs.image]
        self.found = self.original.copy()
        self.success = np.zeros(m, dtype=bool)
        self.level, self.scale, self.bound = np.zeros(m), np.zeros(m), np.zeros(m)
        self.best = np.full(m, -1.0, dtype=np.float32)  # probability of the target in what is kept
        self.evaluations = np.full(m, 1 if pull is None else 2)  # those that found the source, and the representation
        self.seconds = np.zeros(m)

    def run(self) -> CounterfactualResult:
        with evaluating(self.model, "fp32", gradients=True) as device:
            for level, scales in (SCALES,) if self.pull is not None else _SURE_ATTEMPTS if self.confidence else ATTEMPTS:
                for rows in self._chunks(np.flatnonzero(~self.success)):
                    self._attempt(rows, level, scales, device)
                self._take_what_suffices()
            for rows in self._chunks(np.flatnonzero(self.success)):
                self._refine(rows, device)
        (z, p), (z_original, _) = (self._embedded(images) for images in (self.found, self.original))
        apart = z - z_original
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
            distance_representation=np.linalg.norm(apart, axis=1),
            noise_level=self.level,
            scale=self.scale,
            network_evaluations=self.evaluations,
            seconds=self.seconds,
        )

    def _embedded(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Representations and class probabilities of the images of all pairs, changed or not."""
        if self.files is None:
            whole = embed(self.model, images, projected=False, batch_size=self.batch_size)
            return whole.representation, whole.probabilities
        parts = []
        with evaluating(self.model, "fp32") as device:
            for rows in self._chunks(np.arange(len(images))):
                z = self._classifier(rows, device).representation(to_floats(images[rows], device))
                parts.append((z.cpu().numpy(), self.model.classify_representation(z).softmax(dim=1).cpu().numpy()))
        first, second = zip(*parts, strict=True) if parts else ([self.success[:, None]], [self.success[:, None]])
        return np.concatenate(first), np.concatenate(second)

    def _classifier(self, rows: NDArray[np.int64], device: torch.device) -> JointDiffusion:
        """The model for changed images of some pairs: one with a backbone that reads files sees the changes in them."""
        if self.files is None or not isinstance(self.model, FusedDiffusion):
            return self.model
        files = to_floats(self.files[self.pairs.image[rows]], device)
        return self.model.anchored(to_floats(self.original[rows], device), files)

    def _chunks(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def _attempt(self, rows: NDArray[np.int64], level: float, scales: tuple[float, ...], device: torch.device) -> None:
        """Invert, denoise with and without guidance, check; repeat with the next scale for those that did not change class."""
        model = self.model
        levels = model.noise.levels(_STEPS if self.pull is None else _FEW, level)
        began = time.perf_counter()
        x, target = to_floats(self.original[rows], device), torch.from_numpy(self.pairs.target[rows]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            z = integrate(DDIM, model.denoise, x, levels[:-1].flip(0), self._noise(rows))
            way = {float(levels[0]): z}  # back to the image without guidance, by noise level
            plain = integrate(DDIM, model.denoise, z, levels, self._noise(rows), watch=lambda _, s, here: way.update({s: here}))
        self.evaluations[rows] += 2 * len(levels) - 3
        self._spend(rows, began)
        left = np.arange(len(rows))
        for scale in scales:
            began, part = time.perf_counter(), rows[left]
            at, guidance, noise = torch.from_numpy(left).to(device), Guidance("estimate", scale), self._noise(part)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                start, towards = z[at], guidance.wrap(self._classifier(part, device), target[at], noise.draw)
                if self.pull is not None:
                    start, towards = start + scale * torch.from_numpy(self.pull[part]).to(device), model.denoise
                if self.masks is None:
                    change = integrate(DDIM, towards, start, levels, noise) - plain[at]
                else:  # around the region the guided denoiser sees what will be there: the image as it was
                    mask = torch.from_numpy(self.masks[part]).to(device)
                    within = within_region(towards, mask, {s: here[at] for s, here in way.items()})
                    change = mask * (integrate(DDIM, within, start, levels, noise) - plain[at])
            moved = rounded(x[at] + change)
            costs = [1 if self.pull is not None else guidance.evaluations(model, s) for s in levels[:-1].tolist()]
            self.evaluations[part] += sum(costs)
            flipped, p = self._judged(moved, target[at], part)
            # Of attempts that failed the surest is kept: the last and strongest ones may have destroyed the image.
            better = flipped | (p > self.best[part])
            kept = part[better]
            self.found[kept], self.success[part], self.best[kept] = to_bytes(moved)[better], flipped, p[better]
            self.level[kept], self.scale[kept] = level, scale
            reached = np.maximum(_rms(to_bytes(moved), self.original[part]), model.noise.spread(level) / 2)
            self.bound[part] = np.maximum(self.bound[part], reached)
            self._spend(part, began)
            left = left[~flipped]
            if not len(left):
                break

    def _take_what_suffices(self) -> None:
        """Accept the surest attempts that are sure enough without the margin; above a half the target is the largest."""
        suffices = ~self.success & (self.best >= max(self.confidence, 0.5))
        if self.confidence:
            self.success |= suffices
            self.least[suffices] = self.confidence

    def _noise(self, rows: NDArray[np.int64]) -> NoiseStream:
        return NoiseStream([self.seeds[i] for i in self.pairs.image[rows]], self.model.config.image_shape)

    def _refine(self, rows: NDArray[np.int64], device: torch.device) -> None:
        """Blend, undo what is not needed, blend."""
        began = time.perf_counter()
        x, found = to_floats(self.original[rows], device), to_floats(self.found[rows], device)
        target = torch.from_numpy(self.pairs.target[rows]).to(device)

        def flips(images: Tensor) -> Tensor:
            return torch.from_numpy(self._judged(images, target, rows)[0]).to(device)

        checks = _FEW_CHECKS if self.pull is not None else _SURE_CHECKS if self.confidence else CHECKS
        change, whole = blended(x, found - x, flips, checks), found - x
        if self.revert:
            change = loosened(x, change, whole, flips)
            gradient = self._gradient(x + change, target, rows)
            change = blended(x, reverted(x, change, gradient, flips), flips, checks)
        self.found[rows] = to_bytes(x + change)
        self._spend(rows, began)

    def _gradient(self, x: Tensor, target: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Gradient of the margin of the target over all other classes with respect to images."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            logits = self._classifier(rows, x.device).classify(at)
            wanted = logits.gather(1, target[:, None])[:, 0]
            others = logits.scatter(1, target[:, None], -torch.inf).logsumexp(dim=1)
            (gradient,) = torch.autograd.grad((wanted - others).sum(), at)
        self.evaluations[rows] += 2
        return gradient

    def _judged(self, x: Tensor, target: Tensor, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Whether images, rounded to 8 bits, are classified as the target, and its probabilities; always in fp32."""
        self.evaluations[rows] += 1
        every = self._classifier(rows, x.device).classify(rounded(x)).softmax(dim=1)
        p, predicted = every.max(dim=1)
        flipped: NDArray[np.bool_] = (predicted == target).cpu().numpy() & (p.cpu().numpy() >= self.least[rows])
        return flipped, every.gather(1, target[:, None])[:, 0].cpu().numpy()

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
