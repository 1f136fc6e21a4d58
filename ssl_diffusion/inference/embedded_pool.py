"""A pool as a model that does not change sees it: its representation is computed once, and everything else is cheap.

Strategies measure distances on a projection of it (:func:`ssl_diffusion.inference.project`). Classes come from the model's own
head, or from a probe, which is refitted to new labels in a fraction of a second.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.predict import by_batches
from ssl_diffusion.inference.projection import BLOCK, ProjectedRows, projection_matrix
from ssl_diffusion.inference.rows import Rows, SelectedRows
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.fusion import fit_fused_probe
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.probe import LinearProbe, fit_probe, reference_sample
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import IN_MEMORY

__all__ = ["EmbeddedPool"]


@dataclass(frozen=True)
class EmbeddedPool:
    """Images by position, and what a model makes of them.

    Attributes:
        images: Images by position, uint8 (N, C, H, W).
        representation: Representations, float32 (N, F), or a projection of them; may be memory-mapped.
        train: Positions that training may see; on some of them the features of a probe are standardised.
        model: Model whose representation it is; None if it is no model's.
        precision: Precision of the model, "fp32" or "bf16".
        probabilities: Class probabilities by the model's own head, float32 (N, K); None if they are not known.
    """

    images: Rows
    representation: NDArray[np.float32]
    train: NDArray[np.int64]
    model: JointDiffusion | None
    precision: str = "fp32"
    probabilities: NDArray[np.float32] | None = None

    @classmethod
    def read(
        cls,
        model: JointDiffusion,
        images: Rows,
        positions: NDArray[np.int64],
        *,
        classify: bool,
        represented: bool = True,
        precision: str = "fp32",
        store: EmbeddingStore | None = None,
        progress: ProgressCallback | None = None,
    ) -> "EmbeddedPool":
        """Some images of a larger pool, read by a model in one pass.

        Args:
            model: Joint diffusion model.
            images: Images of the larger pool, uint8 (M, C, H, W).
            positions: Row numbers of the images to read, int64 (N,); the pool that is made has them in this order.
            classify: Whether class probabilities are wanted; for models with one class an image.
            represented: Whether representations are wanted; else they have no columns.
            precision: "fp32" or "bf16".
            store: Store to read from and add to; None computes everything.
            progress: Callback for the number of images read.
        """
        rows = SelectedRows(images, positions)
        found = embed(model, rows, store, classify=classify, represented=represented, precision=precision, progress=progress)
        everything = np.arange(len(rows))
        return cls(rows, found.representation, everything, model, precision, found.probabilities if classify else None)

    @cached_property
    def projected(self) -> NDArray[np.float32]:
        """Representations as strategies measure them, float32 (N, 512)."""
        return np.asarray(ProjectedRows(self.representation, np.arange(len(self.representation))))

    def measured(self, rows: NDArray[np.int64]) -> "NDArray[np.float32] | ProjectedRows":
        """Some representations as strategies measure them, float32 (n, 512).

        Those of large pools are projected when they are asked for; consecutive rows that need no projection are not copied.
        """
        if len(rows) and projection_matrix(self.representation.shape[1]) is None and (np.diff(rows) == 1).all():
            return self.representation[rows[0] : rows[-1] + 1]
        lazy = ProjectedRows(self.representation, rows)
        return self.projected[rows] if 4 * len(self.representation) * lazy.shape[1] <= IN_MEMORY else lazy

    def reference(self, seed: int) -> NDArray[np.float32]:
        """Representations that standardise the features of a probe (:func:`ssl_diffusion.models.reference_sample`)."""
        found = self._references.get(seed)
        if found is None:
            found = np.asarray(self.representation[reference_sample(self.train, seed)])
            self._references.clear()
            self._references[seed] = found
        return found

    @cached_property
    def _references(self) -> dict[int, NDArray[np.float32]]:
        """The reference of the last seed: a study fits many probes with it, one after the other."""
        return {}

    def probe(
        self,
        known: NDArray[np.int64],
        classes: NDArray[np.int64],
        n_classes: int,
        *,
        seed: int = 0,
        inverse_penalty: float | None = None,
        extra: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    ) -> LinearProbe:
        """Fit a probe.

        Args:
            known: Positions of the labeled samples, int64 (n,).
            classes: Classes of the labeled samples, int64 (n,).
            n_classes: Number of classes, K.
            seed: Random seed of the images that standardise the features, and of the folds.
            inverse_penalty: See :func:`ssl_diffusion.models.fit_probe`.
            extra: Representations, float32 (m, F), and classes, int64 (m,), of labeled images outside the pool; None without.
        """
        z = np.asarray(self.representation[known])
        if extra is not None:
            z, classes = np.concatenate([z, extra[0]]), np.concatenate([classes, extra[1]])
        if isinstance(self.model, FusedDiffusion) and z.shape[1] == self.model.n_features:
            return self._fused_probe(self.model, z, classes, n_classes, seed, inverse_penalty)
        return fit_probe(z, classes, self.reference(seed), n_classes, seed=seed, inverse_penalty=inverse_penalty)

    def _fused_probe(
        self,
        model: FusedDiffusion,
        z: NDArray[np.float32],
        classes: NDArray[np.int64],
        n_classes: int,
        seed: int,
        inverse_penalty: float | None,
    ) -> LinearProbe:
        """The probe of weights that these labels favor, as one of the representation with the model's own weights."""
        split, weight = [model.denoiser_features], None if inverse_penalty is None else model.config.backbone.weight
        blocks, references = np.split(z, split, axis=1), np.split(self.reference(seed), split, axis=1)
        fused = fit_fused_probe(
            blocks, classes, references, n_classes, weight=weight, inverse_penalty=inverse_penalty, seed=seed
        )
        matrix: NDArray[np.float32] = fused.probe.weight * fused.fusion.factor
        return LinearProbe(matrix, fused.probe.bias - matrix @ fused.fusion.mean, fused.probe.inverse_penalty)

    def logits(self, probe: LinearProbe | None, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class logits of images by position, float32 (n, K).

        Args:
            probe: Classifier of the representations; None is the model's own head.
            rows: Positions of the images, int64 (n,).
        """
        selected = SelectedRows(self.representation, rows)
        if probe is None:
            assert self.model is not None
            empty = (0, self.model.config.n_classes)
            return by_batches(self.model, _by_head, selected, batch_size=BLOCK, tensor=_tensor, empty=empty)
        starts = range(0, max(1, len(rows)), BLOCK)
        return np.concatenate([probe.logits(selected[np.arange(i, min(i + BLOCK, len(rows)))]) for i in starts])


def _by_head(model: JointDiffusion, z: torch.Tensor, _: NDArray[np.int64]) -> torch.Tensor:
    return model.classify_representation(z)


def _tensor(z: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.asarray(z)).to(device)
