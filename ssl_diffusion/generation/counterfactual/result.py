"""Input and output of a counterfactual search: pairs of an image and a target class."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError

__all__ = ["CounterfactualResult", "Pairs", "joined", "make_pairs"]


@dataclass(frozen=True)
class CounterfactualResult:
    """Counterfactuals of m pairs of an image and a target class; every field has one entry per pair.

    Attributes:
        image: Index of the image among those that were given, int64, (m,).
        original: Images before the change, uint8, (m, C, H, W).
        counterfactual: Images after the change, uint8, (m, C, H, W); the surest attempt where the search failed. None if the
            method only measures a distance.
        source: Predicted class of the original, int64, (m,).
        target: Target class, int64, (m,).
        success: Whether the counterfactual, rounded to 8 bits, is classified as the target with the requested confidence,
            bool, (m,).
        p_source: Probability of the source class after the change, float32, (m,), in [0, 1].
        p_target: Probability of the target class after the change, float32, (m,), in [0, 1].
        distance_pixel: Root mean square change on the scale [0, 1], float64, (m,); a lower bound where the search failed. NaN
            if the method does not work on pixels.
        distance_representation: Euclidean distance between the representations, float64, (m,).
        noise_level: Noise level of the attempt that was kept, float64, (m,); 0 for methods without noise.
        scale: Scale of guidance of that attempt, float64, (m,).
        network_evaluations: Passes of the image through the network or its encoder, forward or backward, int64, (m,).
        seconds: Time in seconds, that of a batch divided evenly among its pairs, float64, (m,).
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
        """Some of the pairs, chosen by their indices or by a mask, (m,)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v[rows] for name, v in values.items() if v is not None})

    def with_rows(self, rows: NDArray[np.int64], other: "CounterfactualResult") -> "CounterfactualResult":
        """The result with other counterfactuals in some places.

        Args:
            rows: Indices of pairs, (n,).
            other: Result of as many pairs, n, that takes their places; the images keep their indices.
        """
        values = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name != "image" and mine is not None:
                values[f.name] = mine.copy()
                values[f.name][rows] = theirs
        return replace(self, **values)

    def images(self) -> NDArray[np.uint8]:
        """The counterfactuals, uint8, (m, C, H, W); raises :class:`DataError` if the method only measures a distance."""
        if self.counterfactual is None:
            raise DataError("this result has distances and no counterfactual images: use a method that changes the image")
        return self.counterfactual

    def nearest(self) -> "CounterfactualResult":
        """The pair with the smallest pixel distance for each image, successes before failures; costs are added up."""
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
        """The result as a table with one row per pair, without the images.

        Args:
            ids: Sample ids of the images that were given, to replace their indices.
            classes: Class names, to replace the class numbers.
        """
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("original", "counterfactual")}
        if ids is not None:
            columns = {"id": np.asarray(ids)[columns.pop("image")]} | columns
        if classes is not None:
            names = np.array(classes)
            columns |= {"source": names[self.source], "target": names[self.target]}
        return pd.DataFrame(columns)


def joined(results: Sequence[CounterfactualResult]) -> CounterfactualResult:
    """Several results with images as one.

    Args:
        results: Results, at least one.
    """
    names = [f.name for f in fields(CounterfactualResult)]
    return CounterfactualResult(**{name: np.concatenate([getattr(each, name) for each in results]) for name in names})


@dataclass(frozen=True)
class Pairs:
    """Images, and the classes that they are to be moved to.

    Attributes:
        image: Index of the image, int64, (m,).
        source: Predicted class of the image, int64, (m,).
        target: Class to reach, int64, (m,).
    """

    image: NDArray[np.int64]
    source: NDArray[np.int64]
    target: NDArray[np.int64]


def make_pairs(logits: NDArray[np.float32], target: str | int | NDArray[np.integer[Any]]) -> Pairs:
    """Pairs of images and target classes.

    Args:
        logits: Class logits of the images, (n, K).
        target: Target class, or one for each image, int, (n,); "runner-up" is the second most probable class, "nearest" and
            "all" are every other class.

    Returns:
        The pairs, in the order of the images.

    Raises:
        DataError: If a target does not exist or is the predicted class of an image.

    Example:
        >>> pairs = make_pairs(np.array([[2.0, 1.0, 0.0]]), "all")
        >>> pairs.target
        array([1, 2])
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
