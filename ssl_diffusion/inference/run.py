"""A fitted model, opened for inference."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.errors import CheckpointError, DataError, RecipeError, RunError, StateError
from ssl_diffusion.inference.predict import predict_logits, probabilities, represent
from ssl_diffusion.inference.rows import Rows
from ssl_diffusion.inference.run_path import MODEL_FILE, model_file_of
from ssl_diffusion.machine import Device
from ssl_diffusion.models.build import build_model, read_config, weights_fault
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.weights import load_tensors, with_prefix
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.settings import State, parse_state
from ssl_diffusion.storage import default_cache_dir

__all__ = ["Run", "load_run"]


class ModelHeader(State):
    """Metadata of a model file."""

    config: dict[str, Any]
    """Configuration of the model, see :meth:`JointConfig.from_dict`."""
    classes: tuple[str, ...]
    """Class names in the order of the logits; empty without a head."""
    multilabel: bool
    """Whether classes are predicted independently."""
    objective: str
    """Objective of the fit."""
    aspect: Aspect = "squeeze"
    """Treatment of images with another aspect ratio."""

    @field_validator("classes")
    @classmethod
    def _check_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a class is named twice")
        return names


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
        cache_dir: cache directory in which features of the model's backbone are kept; None keeps none.
        aspect: treatment of image files with another aspect ratio.
    """

    path: Path
    model: JointDiffusion
    classes: tuple[str, ...]
    multilabel: bool
    precision: str
    metadata: dict[str, Any]
    cache_dir: Path | None = None
    aspect: Aspect = "squeeze"

    @property
    def model_file(self) -> Path:
        """File of the weights."""
        return self.path / MODEL_FILE

    def digest(self) -> str:
        """SHA-256 of the file of the weights, hex."""
        return hashlib.sha256(self.model_file.read_bytes()).hexdigest()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) that the model was made for."""
        return self.model.config.image_shape

    def logits(self, images: Rows, progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """Class logits of uint8 images (n, C, H, W), float32 (n, K).

        A model whose backbone reads files wants rows with features (:func:`ssl_diffusion.inference.pool_rows`).
        """
        if not self.classes:
            raise RunError(f"{self.path} was trained without labels and cannot predict; fit with --labeled")
        if isinstance(images, np.ndarray) and images.shape[1:] != self.image_shape:
            raise DataError(f"images have shape {images.shape[1:]}, but {self.path} was made for {self.image_shape}")
        return predict_logits(self.model, images, precision=self.precision, progress=progress)

    def predict_proba(self, images: Rows, progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """Class probabilities of uint8 images (n, C, H, W), float32 (n, K)."""
        return probabilities(self.logits(images, progress), self.multilabel)

    def represent(self, images: Rows, progress: ProgressCallback | None = None) -> NDArray[np.float32]:
        """Representations of uint8 images (n, C, H, W), float32 (n, F)."""
        return represent(self.model, images, precision=self.precision, progress=progress)

    def check_single_label(self, purpose: str) -> None:
        """Raise :class:`RunError` unless the model has classes, of which an image has one."""
        if not self.classes:
            raise RunError(f"{self.path} was trained without labels and has no classes {purpose}; fit with --labeled")
        if self.multilabel:
            raise RunError(f"{self.path} has several classes an image, and so none {purpose}: this is for single labels")


def load_run(path: str | Path, accelerator: str = "auto", precision: str = "auto") -> Run:
    """Open a run folder for inference with the EMA weights.

    Raises:
        RunError: if the folder is no run or is not finished, or its backbone is not installed or is another one than in the
            fit.
        CheckpointError: if its model file is damaged or foreign, its header and its weights do not agree, or a weight is not
            finite.

    Example:
        >>> run = load_run("runs/digits-40-s0")
        >>> run.classes[:3]
        ('0', '1', '2')
    """
    path = Path(path)
    file = model_file_of(path)
    remedy = f"copy it again from where it is whole, or fit again with --overwrite --out {path}"
    tensors, metadata = load_tensors(file, remedy)
    try:
        header = parse_state(json.dumps(metadata), ModelHeader, file, remedy=remedy)
        config = read_config(header.config)
    except (StateError, RecipeError) as error:
        raise CheckpointError(
            f"{file} was not made by this version of the program ({error})" if isinstance(error, RecipeError) else str(error)
        ) from error
    if len(header.classes) != config.n_classes:
        raise CheckpointError(
            f"{file} is damaged: it names {len(header.classes)} classes for {config.n_classes} outputs of its head; {remedy}"
        )
    weights = with_prefix("ema", tensors)
    if fault := weights_fault(config, weights):
        raise CheckpointError(f"{file} was not made by this version of the program, or is damaged: {fault}; {remedy}")
    model = build_model(config, seed=0)
    model.load_state_dict(weights)
    device = Device.resolve(accelerator, precision)
    return Run(
        path=path,
        model=model.to(device.accelerator).eval(),
        classes=header.classes,
        multilabel=header.multilabel,
        precision=device.precision,
        metadata=metadata,
        cache_dir=default_cache_dir(),
        aspect=header.aspect,
    )
