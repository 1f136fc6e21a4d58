"""Judges of counterfactuals: three classifiers that share nothing with the explained model, and one that has learned nothing.

The three differ in kind, so that what all of them see is no quirk of one: a convolutional network that was fitted to the labels
of the run alone, logistic regression on the pixels, and the five nearest neighbors in pixels. The latter two know the labels of
up to 5,000 training images. The control is a network of random weights: what it "sees" in a change is what any change brings
about (DBVCE-Eval, arXiv 2308.06100).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.extractors import Extractor
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["Judge", "agreement", "make_judges"]

Judge = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Function from images, uint8 (n, C, H, W), to classes, int64 (n,)."""

_NEIGHBORS = 5


def make_judges(
    run: Run, extractor: Extractor | None, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> dict[str, Judge]:
    """Judges by the name of their column.

    Args:
        run: Run whose counterfactuals are judged.
        extractor: Labels-only fit; None leaves that judge out.
        images: Training images, uint8 (n, C, H, W).
        labels: Classes of these images, int64 (n,).
    """
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(_pixels(images), labels)
    neighbors = KNeighborsClassifier(_NEIGHBORS).fit(_pixels(images), labels)
    judges: dict[str, Judge] = {}
    if extractor is not None:
        classify = extractor.classify
        assert classify is not None
        judges["judge"] = lambda some: classify(some).argmax(axis=1)
    return judges | {
        "logistic": lambda some: logistic.predict(_pixels(some)),
        "neighbors": lambda some: neighbors.predict(_pixels(some)),
        "random": _random_judge(run, images),
    }


def agreement(
    judges: dict[str, Judge], result: CounterfactualResult, pool: Pool, positions: NDArray[np.int64]
) -> dict[str, float]:
    """How often each judge sees in a counterfactual its target and, with `_clean`, in an image what it is.

    Args:
        judges: Judges by name.
        result: Counterfactuals of the images at `positions`.
        pool: Images and labels.
        positions: Positions in the pool.
    """
    valid = result.take(result.success)
    seen = {name: float((judge(valid.images()) == valid.target).mean()) for name, judge in judges.items()}
    clean = {name: float((judge(pool.images[positions]) == pool.labels[positions]).mean()) for name, judge in judges.items()}
    return {name: round(p, 4) for name, p in (seen | {f"{name}_clean": p for name, p in clean.items()}).items()}


def _random_judge(run: Run, images: NDArray[np.uint8]) -> Judge:
    """A network of random weights, with a random linear head on its standardized representation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = JointDiffusion(run.model.config).eval()
    scaler = StandardScaler().fit(represent(model, images))
    head = np.random.default_rng(0).standard_normal((model.n_features, len(run.classes)))
    return lambda some: (scaler.transform(represent(model, some)) @ head).argmax(axis=1)


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32) / 255
