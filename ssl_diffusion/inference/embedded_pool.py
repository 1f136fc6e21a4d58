"""A pool through a model that does not change: its representation is computed once, and everything else is cheap.

Strategies measure distances on a projection of it (:func:`ssl_diffusion.inference.project`); classes come from a probe,
which is refitted to new labels in a fraction of a second.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.inference.projection import _BLOCK, ProjectedRows
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.probe import LinearProbe, fit_probe
from ssl_diffusion.storage import IN_MEMORY

__all__ = ["EmbeddedPool"]

_BATCH = 256
_REFERENCE = 2000


@dataclass(frozen=True)
class EmbeddedPool:
    """Images, and what a model makes of them.

    Attributes:
        images: uint8, (N, C, H, W).
        representation: float32 (N, F), may be memory-mapped.
        train: positions that training may see, on some of which features are standardised.
        model: whose representation it is; None if it is no model's.
        precision: "fp32" or "bf16", of what the model is asked.
    """

    images: NDArray[np.uint8]
    representation: NDArray[np.float32]
    train: NDArray[np.int64]
    model: JointDiffusion | None
    precision: str = "fp32"

    @cached_property
    def projected(self) -> NDArray[np.float32]:
        """The representation as strategies measure it, (N, 512)."""
        return np.asarray(ProjectedRows(self.representation, np.arange(len(self.representation))))

    def measured(self, rows: NDArray[np.int64]) -> "NDArray[np.float32] | ProjectedRows":
        """The projected representation of some, (n, 512); of large pools it is computed when it is looked at."""
        lazy = ProjectedRows(self.representation, rows)
        return self.projected[rows] if 4 * len(self.representation) * lazy.shape[1] <= IN_MEMORY else lazy

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """Representations of 2,000 images at most, which standardise the features of a probe."""
        rows = np.random.default_rng(0).permutation(self.train)[:_REFERENCE]
        return np.asarray(self.representation[np.sort(rows)])

    def probe(
        self,
        known: NDArray[np.int64],
        classes: NDArray[np.int64],
        n_classes: int,
        *,
        seed: int = 0,
        inverse_penalty: float | None = None,
    ) -> LinearProbe:
        """Fit a probe to the labels at these positions (:func:`ssl_diffusion.models.fit_probe`)."""
        z = np.asarray(self.representation[known])
        return fit_probe(z, classes, self.reference, n_classes, seed=seed, inverse_penalty=inverse_penalty)

    def logits(self, probe: LinearProbe, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class logits of images by position, (n, K)."""
        z = self.representation
        parts = [probe.logits(np.asarray(z[rows[i : i + _BLOCK]])) for i in range(0, len(rows), _BLOCK)]
        return np.concatenate(parts) if parts else np.zeros((0, len(probe.bias)), dtype=np.float32)
