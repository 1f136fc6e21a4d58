"""Pictures of what a model has learned to tell two classes apart by, for those that are taken for each other.

A table says that two classes are confused; the picture says over what: prototypes of each, changed until the model is sure of
the other class (:mod:`ssl_diffusion.generation.class_pairs`). A denoiser that has not learned to draw images would show noise;
then there are words instead of a picture.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_diffusion.curation.check import CheckResult
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.generation.class_pairs import PAGE, write_class_pair
from ssl_diffusion.generation.readiness import caution_of, doubt_of
from ssl_diffusion.inference.run import Run
from ssl_diffusion.progress import ProgressCallback

__all__ = ["PairPicture", "draw_pairs"]

_PROTOTYPES = 5


@dataclass(frozen=True)
class PairPicture:
    """What tells two classes apart.

    Attributes:
        first: Name of a class.
        second: Name of the other one.
        png: Content of a PNG file; empty where there is none.
        words: Reason why there is none; empty where there is one.
    """

    first: str
    second: str
    png: bytes
    words: str


def draw_pairs(result: CheckResult, n: int, *, seed: int = 0, progress: ProgressCallback | None = None) -> list[PairPicture]:
    """Draw what tells classes apart that are taken for each other.

    Args:
        result: Findings; without a fitted model that draws, or without pairs, nothing is drawn.
        n: Number of pairs, the worst ones.
        seed: Random seed of the search.
        progress: Callback for the steps of the search.

    Returns:
        A picture of each pair, or the reason why there is none; if that is the same for all, once.

    Example:
        >>> pictures = draw_pairs(result, 2)  # doctest: +SKIP
    """
    run, pairs = result.collection.run, result.pairs[result.pairs["confused"] > 0].head(n)
    if run is None or not run.classes or run.metadata.get("objective") == "labels-only" or not len(pairs):
        return []
    found = []
    for first, second in zip(pairs["first"].astype(str), pairs["second"].astype(str), strict=True):
        if words := doubt_of(run) or caution_of(run):
            return [PairPicture(first, second, b"", words)]
        try:
            png = _drawn(run, _as_the_run_counts(result.collection.pool, run), (first, second), seed, progress)
            found.append(PairPicture(first, second, png, ""))
        except SSLDError as error:
            found.append(PairPicture(first, second, b"", str(error)))
    return found


def _drawn(run: Run, pool: Pool, classes: tuple[str, str], seed: int, progress: ProgressCallback | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pair"
        write_class_pair(run, pool, classes, out, n=_PROTOTYPES, seed=seed, progress=progress)
        return (out / PAGE).read_bytes()


def _as_the_run_counts(pool: Pool, run: Run) -> Pool:
    """The pool with the class numbers of the run, which may not know all of its classes."""
    number = {name: k for k, name in enumerate(run.classes)}
    table = np.array([*(number.get(name, -1) for name in pool.classes), -1])
    return replace(pool, labels=table[pool.labels], classes=run.classes)
