"""What strategies know: the candidates for labeling and the samples that are labeled already.

Candidates are in the order of their ids, whatever the order of the pool, and all chance comes from one seeded generator, so
that a batch depends on the pool as a set.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.inference.embed import scan_images
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.projection import ProjectedRows
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.progress import ProgressCallback

__all__ = ["Candidates", "candidates_of"]


@dataclass(frozen=True)
class Candidates:
    """N unlabeled samples and m labeled ones, as a model sees them.

    Attributes:
        representation: of the candidates, float32 (N, F), or a projection of it (:mod:`ssl_diffusion.inference.embed`); may
            be memory-mapped, or be computed when rows are asked for (:class:`ssl_diffusion.inference.ProjectedRows`).
        probabilities: class probabilities of the candidates, float32 (N, K); None if the model has no classes.
        labeled_representation: of the labeled samples, float32 (m, F).
        labeled_classes: their classes, int64 (m,).
        n_classes: K; 0 if unknown.
        rng: of all chance.
        images: uint8 images (k, C, H, W) of candidates by position; None if there are no images to look at.
        labeled_images: uint8 images (m, C, H, W) of the labeled samples; None likewise.
        model: the joint model; None if there is none to ask.
        precision: "fp32" or "bf16", of what the model is asked.
    """

    representation: NDArray[np.float32] | ProjectedRows
    probabilities: NDArray[np.float32] | None
    labeled_representation: NDArray[np.float32]
    labeled_classes: NDArray[np.int64]
    n_classes: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    images: Callable[[NDArray[np.int64]], NDArray[np.uint8]] | None = None
    labeled_images: NDArray[np.uint8] | None = None
    model: JointDiffusion | None = None
    precision: str = "fp32"

    @classmethod
    def of(
        cls,
        pool: EmbeddedPool,
        open_: NDArray[np.int64],
        known: NDArray[np.int64],
        classes: NDArray[np.int64],
        n_classes: int,
        rng: np.random.Generator,
        probabilities: NDArray[np.float32] | None = None,
        model: JointDiffusion | None = None,
    ) -> "Candidates":
        """What strategies see of a pool whose representation is known.

        Args:
            pool: Pool with its representation.
            open_: Positions of the candidates, (n,).
            known: Positions of the labeled samples, (m,).
            classes: Classes of the labeled samples, (m,).
            n_classes: Number of classes, K.
            rng: Random generator for every draw.
            probabilities: Class probabilities of the candidates, (n, K); None before there is a label.
            model: Model that strategies may ask about images; None if there is none with these probabilities.
        """
        return cls(
            representation=pool.measured(open_),
            probabilities=probabilities,
            labeled_representation=np.asarray(pool.measured(known)),
            labeled_classes=classes,
            n_classes=0 if probabilities is None else n_classes,
            rng=rng,
            images=lambda rows: pool.images[open_[rows]],
            labeled_images=pool.images[known],
            model=model,
            precision=pool.precision,
        )

    def __len__(self) -> int:
        return len(self.representation)

    @property
    def x(self) -> NDArray[np.float32]:
        """The whole representation."""
        return np.asarray(self.representation)

    @property
    def p(self) -> NDArray[np.float32]:
        """Class probabilities; raises :class:`SSLDError` if the model has no classes."""
        if self.probabilities is None:
            raise SSLDError("this strategy needs a classifier, and the model was trained without labels; use typiclust")
        return self.probabilities

    def looked_at(self, picks: NDArray[Any]) -> tuple[JointDiffusion, NDArray[np.uint8]]:
        """The model and the images of some candidates; raises :class:`SSLDError` where there are only representations."""
        if self.model is None or self.images is None:
            raise SSLDError("this strategy looks at images with the model, and here are only representations")
        return self.model, self.images(np.asarray(picks, dtype=np.int64))

    def looked_at_labeled(self) -> tuple[JointDiffusion, NDArray[np.uint8]]:
        """The model and the images of the labeled samples; errors as :meth:`looked_at`."""
        model, none = self.looked_at(np.zeros(0, dtype=np.int64))
        return model, none if self.labeled_images is None else self.labeled_images


def candidates_of(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    open_: NDArray[np.int64],
    known: NDArray[np.int64],
    known_classes: NDArray[np.int64],
    *,
    n_classes: int,
    precision: str = "fp32",
    rng: np.random.Generator,
    progress: ProgressCallback | None = None,
    store: EmbeddingStore | None = None,
) -> Candidates:
    """What strategies see of a pool through a model.

    Args:
        model: the joint model.
        images: uint8, (N, C, H, W).
        open_: positions of the candidates, in the order of their ids, (n,).
        known: positions of the labeled images, (m,).
        known_classes: their classes, (m,).
        n_classes: 0 if there is no classifier with one class an image.
        precision, progress, store: see :func:`scan_images`.
        rng: of all chance.
    """
    classify = n_classes > 0
    representation, probabilities = scan_images(model, images, open_, classify, precision, progress, store)
    return Candidates(
        representation=representation,
        probabilities=probabilities,
        labeled_representation=scan_images(model, images, known, classify, precision, None, store)[0],
        labeled_classes=known_classes,
        n_classes=n_classes,
        rng=rng,
        images=lambda rows: images[open_[rows]],
        labeled_images=images[known],
        model=model,
        precision=precision,
    )
