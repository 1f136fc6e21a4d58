"""What a model learns from verdicts on counterfactuals: images with a label, beside the samples.

A picture that is judged *true* has the class that it was changed to, one that is judged *false* keeps the label of the sample
that it was made of, and one that shows none of the classes is an example of the class "none of these", where the job has it.
The pictures are those of the store, so that a model that has been replaced since takes nothing of them away.
"""

import hashlib
import io
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.acquisition.open_pool import NONE_OF_THESE, none_of
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.verdicts import Verdict, verdicts
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["Lessons", "Use", "lessons_of", "with_lessons"]

Use = Literal["on", "off"]
"""Whether verdicts are used."""


@dataclass(frozen=True)
class Lessons:
    """Judged pictures that the head of a model learns.

    Attributes:
        images: Pictures as models see them, uint8 (n, C, H, W).
        classes: Class numbers of the job, int64 (n,).
        ids: Names of the pictures, which contain their digests, n of them, increasing.
        left_out: Number of pictures that are not learned, by the reason.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.int64]
    ids: tuple[str, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """Digest of the pictures and classes, to tell whether there are new ones; empty if there are none."""
        if not self.ids:
            return ""
        return hashlib.sha256(repr((self.ids, self.classes.tolist())).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        reasons = "".join(f"; {n} left out, as {reason}" for reason, n in self.left_out.items())
        return f"{len(self)} pictures with a verdict are learned{reasons}"


def lessons_of(job: Job, use: Use = "on") -> Lessons:
    """What the verdicts of a job teach.

    Args:
        job: Job with the verdicts.
        use: Whether verdicts are used; "off" gives no lessons.

    Example:
        >>> print(lessons_of(open_job(Path("job"))))  # doctest: +SKIP
        12 pictures with a verdict are learned; 1 left out, as people contradict each other
    """
    shape = job.images.shape[1:]
    given: dict[str, list[Verdict]] = {}
    for verdict in verdicts(job.store) if use == "on" else []:
        given.setdefault(verdict.digest, []).append(verdict)
    images, classes, ids, reasons = [], [], [], Counter[str]()
    teacher = _Teacher(job) if given else None
    for digest in sorted(given):
        assert teacher is not None
        found = teacher.class_of(given[digest])
        picture = _decoded(given[digest][0].picture, shape)
        if isinstance(found, str) or picture is None:
            reasons[found if isinstance(found, str) else "they cannot be read"] += 1
            continue
        images.append(picture)
        classes.append(found)
        ids.append(f"verdict {digest}")
    stacked = np.stack(images) if images else np.zeros((0, *shape), dtype=np.uint8)
    return Lessons(stacked, np.array(classes, dtype=np.int64), tuple(ids), dict(reasons))


class _Teacher:
    """Says which class a judged picture has."""

    def __init__(self, job: Job) -> None:
        self._job, names = job, job.store.classes
        self._in_use = {name: names.index(name) for name in job.store.classes_in_use}
        none = none_of(tuple(self._in_use))
        self._none = None if none is None else [*self._in_use.values()][none]
        known, classes = queries.labels(job.store, "pool")
        self._labels: dict[int, int] = dict(zip(known.tolist(), classes.tolist(), strict=True))

    def class_of(self, said: list[Verdict]) -> int | str:
        """Class number of a picture, or why it is not learned."""
        if len({verdict.verdict for verdict in said}) > 1:
            return "people contradict each other"
        match said[0].verdict:
            case "true":
                return self._in_use.get(said[0].target, "the job has their class no more")
            case "false":
                (position,) = self._job.store.positions([said[0].id]).tolist()
                return self._labels.get(position, "the image that they were made of has no label yet")
            case _ if self._none is not None:
                return self._none
        return f"they show none of the classes, and the job has no class {NONE_OF_THESE!r}"


def with_lessons(pool: Pool, lessons: Lessons, number: NDArray[np.int64]) -> Pool:
    """A pool whose head also learns judged pictures.

    Args:
        pool: Samples of a job.
        lessons: Pictures and their classes.
        number: Number in the pool of each class of the job, int64 (K,).
    """
    n, more = len(pool), len(lessons)
    if not more:
        return pool
    images = allocate((n + more, *pool.image_shape), max_memory=IN_MEMORY)
    images[:n], images[n:] = pool.images, lessons.images
    return replace(
        pool,
        images=images,
        ids=np.concatenate([pool.ids, np.array(lessons.ids)]),
        labels=np.concatenate([pool.labels, number[lessons.classes]]),
        is_test=np.concatenate([pool.is_test, np.zeros(more, dtype=np.bool_)]),
        files=None if pool.files is None else [*pool.files, *map(Path, lessons.ids)],  # which are not read, see picture_fault
        extra=np.arange(n + more) >= n,
    )


def _decoded(picture: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Pixels of a picture, uint8 (C, H, W); None if it is not an image of this shape."""
    try:
        with Image.open(io.BytesIO(picture)) as image:
            pixels = np.array(image.convert("L" if shape[0] == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError):
        return None
    pixels = pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return pixels if pixels.shape == shape else None
