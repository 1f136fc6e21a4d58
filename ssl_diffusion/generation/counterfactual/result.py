"""What a search of counterfactuals is asked and what it answers: pairs of an image and a target class."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError

__all__ = ["CounterfactualResult", "Pairs", "make_pairs"]


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
