"""A fitted model, opened for inference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.errors import CheckpointError, DataError, RunError
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.sampling import sample
from ssl_diffusion.inference.predict import predict_logits, probabilities, represent
from ssl_diffusion.machine import resolve_accelerator, resolve_precision
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.pixels import to_bytes
from ssl_diffusion.models.weights import load_tensors, with_prefix
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.run_folder import RunFolder

__all__ = ["Run", "load_run"]


@dataclass
class Run:
    """A fitted model with what is needed to use it.

    Attributes:
        path: the run folder.
        model: the joint model with its EMA weights, in evaluation mode.
        classes: class names, in the order of the logits; empty for a denoise-only run.
        multilabel: whether classes are predicted independently.
        precision: "bf16" or "fp32", used for inference.
        metadata: the header of the model file.
    """

    path: Path
    model: JointDiffusion
    classes: tuple[str, ...]
    multilabel: bool
    precision: str
    metadata: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) that the model was made for."""
        return self.model.config.image_shape

    def logits(self, images: NDArray[np.uint8], progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """Class logits of uint8 images (n, C, H, W), float32 (n, K)."""
        if not self.classes:
            raise RunError(f"{self.path} was trained without labels and cannot predict; fit with --labeled")
        if images.shape[1:] != self.image_shape:
            raise DataError(f"images have shape {images.shape[1:]}, but {self.path} was made for {self.image_shape}")
        return predict_logits(self.model, images, precision=self.precision, progress=progress)

    def predict_proba(self, images: NDArray[np.uint8], progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """Class probabilities of uint8 images (n, C, H, W), float32 (n, K)."""
        return probabilities(self.logits(images, progress), self.multilabel)

    def represent(self, images: NDArray[np.uint8], progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """Representations of uint8 images (n, C, H, W), float32 (n, F)."""
        return represent(self.model, images, precision=self.precision, progress=progress)

    def check_single_label(self, purpose: str) -> None:
        """Raise :class:`RunError` unless the model has classes, of which an image has one."""
        if not self.classes:
            raise RunError(f"{self.path} was trained without labels and has no classes {purpose}; fit with --labeled")
        if self.multilabel:
            raise RunError(f"{self.path} has several classes an image, and so none {purpose}: this is for single labels")

    def sample(
        self,
        n: int,
        y: NDArray[np.int64] | int | None = None,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: Guidance | None = None,
        seed: int = 0,
        batch_size: int = 256,
        progress: ProgressCallback | None = None,
    ) -> NDArray[np.uint8]:
        """Draw images, uint8 (n, C, H, W); see :func:`ssl_diffusion.generation.sampling.sample`."""
        if y is not None:
            self.check_single_label("to sample from")
        x = sample(
            self.model,
            n,
            torch.as_tensor(y) if isinstance(y, np.ndarray) else y,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            generator=torch.Generator().manual_seed(seed),
            batch_size=batch_size,
            precision=self.precision,
            progress=progress,
        )
        return to_bytes(x)

    def explain(
        self,
        images: NDArray[np.uint8],
        target: str | int | NDArray[np.integer[Any]] = "runner-up",
        *,
        confidence: float = 0.0,
        revert: bool = True,
        seed: int = 0,
        batch_size: int = 128,
        progress: ProgressCallback | None = None,
    ) -> CounterfactualResult:
        """Search counterfactuals of uint8 images (n, C, H, W); see :func:`ssl_diffusion.generation.counterfactual.search.explain`."""
        self.check_single_label("to explain")
        return explain(
            self.model,
            images,
            target,
            confidence=confidence,
            revert=revert,
            seed=seed,
            batch_size=batch_size,
            precision=self.precision,
            progress=progress,
        )


def load_run(path: str | Path, accelerator: str = "auto", precision: str = "auto") -> Run:
    """Open a run folder for inference with the EMA weights.

    Raises:
        RunError: if the folder is no run or is not finished.
        CheckpointError: if its model file is damaged or foreign.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise RunError(f"no run folder {folder.path}")
    if not folder.model.exists():
        recipe = folder.recipe()  # says so if this is no run folder at all
        raise RunError(f"{folder.path} ({recipe.name}) has no model yet; continue it with: ssld fit --resume {folder.path}")
    tensors, metadata = load_tensors(folder.model)
    try:
        model = JointDiffusion(JointConfig.from_dict(metadata["config"]))
        model.load_state_dict(with_prefix("ema", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{folder.model} was not made by this version of the program ({error})") from error
    device = resolve_accelerator(accelerator)
    return Run(
        path=folder.path,
        model=model.to(device).eval(),
        classes=tuple(metadata["classes"]),
        multilabel=metadata["multilabel"],
        precision=resolve_precision(precision, device),
        metadata=metadata,
    )
