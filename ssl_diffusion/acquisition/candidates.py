"""What strategies know: the candidates for labeling and the samples that are labeled already.

Candidates are in the order of their ids, whatever the order of the pool, and everything random comes from one seeded generator,
so that a batch depends on the pool as a set.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.inference.projection import ProjectedRows
from ssl_diffusion.inference.rows import Rows, SelectedRows

if TYPE_CHECKING:
    from ssl_diffusion.inference.embedded_pool import EmbeddedPool
    from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["Candidates"]


@dataclass(frozen=True)
class Candidates:
    """N unlabeled samples and m labeled ones, as a model sees them.

    Attributes:
        representation: Representations of the candidates, float32 (N, F), or a projection of them
            (:mod:`ssl_diffusion.inference.embedding`); may be memory-mapped, or be computed when rows are asked for
            (:class:`ssl_diffusion.inference.ProjectedRows`).
        probabilities: Class probabilities of the candidates, float32 (N, K); None if there is no classifier.
        labeled_representation: Representations of the labeled samples, float32 (m, F).
        labeled_classes: Classes of the labeled samples, int64 (m,).
        n_classes: Number of classes, K; 0 if unknown.
        rng: Random generator for every draw.
        images: Images of the candidates, uint8 (N, C, H, W), read when they are asked for; None if there are none to look at.
        labeled_images: Images of the labeled samples, uint8 (m, C, H, W); None likewise.
        model: Joint diffusion model; None if there is none to ask.
        precision: Precision of the model, "fp32" or "bf16".
        none: Number of the class that means none of the others (:mod:`ssl_diffusion.acquisition.open_pool`); None without one.
        asked_again: Whether each labeled sample was asked for twice already, bool (m,); None where one cannot ask again.
    """

    representation: NDArray[np.float32] | ProjectedRows
    probabilities: NDArray[np.float32] | None
    labeled_representation: NDArray[np.float32]
    labeled_classes: NDArray[np.int64]
    n_classes: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    images: Rows | None = None
    labeled_images: NDArray[np.uint8] | None = None
    model: "JointDiffusion | None" = None
    precision: str = "fp32"
    none: int | None = None
    asked_again: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        pool: "EmbeddedPool",
        open_: NDArray[np.int64],
        known: NDArray[np.int64],
        classes: NDArray[np.int64],
        n_classes: int,
        rng: np.random.Generator,
        probabilities: NDArray[np.float32] | None = None,
        model: "JointDiffusion | None" = None,
        none: int | None = None,
    ) -> "Candidates":
        """What strategies see of a pool whose representation is known.

        Args:
            pool: Pool with its representation.
            open_: Positions of the candidates, int64 (n,).
            known: Positions of the labeled samples, int64 (m,).
            classes: Classes of the labeled samples, int64 (m,).
            n_classes: Number of classes, K.
            rng: Random generator for every draw.
            probabilities: Class probabilities of the candidates, float32 (n, K). None: those of the pool, if it has any; before
                there is a label it has none.
            model: Model that strategies may ask about images; None if there is none with these probabilities. A model whose
                backbone does not read these images is left out.
            none: Number of the class that means none of the others; None without one.
        """
        from ssl_diffusion.models.fused import gradient_fault

        if probabilities is None and pool.probabilities is not None:
            probabilities = pool.probabilities[open_]
        return cls(
            representation=pool.measured(open_),
            probabilities=probabilities,
            labeled_representation=np.asarray(pool.measured(known)),
            labeled_classes=classes,
            n_classes=0 if probabilities is None else n_classes,
            rng=rng,
            images=SelectedRows(pool.images, open_),
            labeled_images=pool.images[known],
            model=None if model is None or gradient_fault(model) else model,
            precision=pool.precision,
            none=none,
        )

    def __len__(self) -> int:
        return len(self.representation)

    @property
    def x(self) -> NDArray[np.float32]:
        """All representations as one array, float32 (N, F)."""
        return np.asarray(self.representation)

    @property
    def p(self) -> NDArray[np.float32]:
        """Class probabilities, float32 (N, K); raises :class:`SSLDError` if the model has no classes."""
        if self.probabilities is None:
            raise SSLDError("this strategy needs a classifier, and the model was trained without labels; use typiclust")
        return self.probabilities

    def all_images(self) -> "tuple[JointDiffusion, Rows]":
        """The model and the images of all candidates, to be read batch by batch.

        Raises:
            SSLDError: If there are only representations.
        """
        if self.model is None or self.images is None:
            raise SSLDError("this strategy looks at images with the model, and here are only representations")
        return self.model, self.images

    def images_of(self, picks: NDArray[Any]) -> "tuple[JointDiffusion, NDArray[np.uint8]]":
        """The model and the images of some candidates, uint8 (k, C, H, W); errors as :meth:`all_images`."""
        model, images = self.all_images()
        return model, images[np.asarray(picks, dtype=np.int64)]
