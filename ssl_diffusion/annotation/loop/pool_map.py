"""The map of a job: every sample at its place in a plane, with what is known of it, as bytes that a browser draws at once."""

import json
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.class_sets import summary_names
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.pool_view import PoolView
from ssl_diffusion.annotation.store.pool_rows import PoolRows, read_rows

__all__ = ["MapPoints", "map_points"]

_SCALE = 65_535


@dataclass(frozen=True)
class MapPoints:
    """Points of a map, in the order of the job.

    Attributes:
        model: Name of the model whose representation is shown.
        names: Class names by number; those of a multi-label job with two more, for none of them and for several.
        places: Places in [0, 1], float32 (N, 2).
        label: Class numbers of labels, -1 without one, (N,).
        predicted: Predicted classes, -1 where they are not known or hidden, (N,).
        sure: Probabilities of the predicted classes, 0 where they are hidden, (N,).
        round: Numbers of the last rounds, 0 for none, (N,).
    """

    model: str
    names: tuple[str, ...]
    places: NDArray[np.float32]
    label: NDArray[np.int32]
    predicted: NDArray[np.int32]
    sure: NDArray[np.float32]
    round: NDArray[np.int32]

    def to_bytes(self) -> bytes:
        """The points for a browser: the length of a JSON text (uint32), the text, and arrays, all little-endian.

        The text says the number of points, the model and the classes, and is padded to a multiple of four bytes. The arrays are
        x and y (uint16, 0 to 65,535), label, predicted and round (int16), and sure (uint8, 0 to 255), one after another.
        """
        text = json.dumps({"n": len(self.places), "model": self.model, "names": self.names}).encode()
        text += b" " * (-len(text) % 4)
        xy = np.rint(self.places * _SCALE).astype("<u2")
        whole = [np.clip(each, -1, 32_767).astype("<i2") for each in (self.label, self.predicted, self.round)]
        parts = [xy[:, 0], xy[:, 1], *whole, np.rint(255 * self.sure).astype(np.uint8)]
        return struct.pack("<I", len(text)) + text + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def map_points(job: Job, view: PoolView, *, blind: bool = False, rows: PoolRows | None = None) -> MapPoints | None:
    """The map of a job; None before there is a model.

    Predictions of samples whose labels measure the model are hidden; on a blind page all are.

    Args:
        job: Job of the samples.
        view: The pool as the model sees it.
        blind: Whether to hide all predictions.
        rows: State of the samples; None reads it.

    Example:
        >>> len(map_points(job, bench.pool).to_bytes())  # doctest: +SKIP
    """
    places = view.places()
    if places is None:
        return None
    rows = read_rows(job.store) if rows is None else rows
    predicted, sure = np.full(len(places), -1, dtype=np.int32), np.zeros(len(places), dtype=np.float32)
    if not blind and (found := view.predictions()) is not None:
        pool = job.store.of_role("pool")
        predicted[pool], sure[pool] = found[0][pool], found[1][pool]
    names, label = job.store.classes, rows.label
    if job.store.multilabel:
        label = label.copy()
        for position, numbers in rows.sets.items():
            label[position] = numbers[0] if len(numbers) == 1 else len(names) + (len(numbers) > 1)
        names = summary_names(names)
    return MapPoints(view.model, names, places, label, predicted, sure, rows.round)
