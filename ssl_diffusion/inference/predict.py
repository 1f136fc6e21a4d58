r"""Predictions and how good they are: accuracy, negative log-likelihood, calibration, confusion.

* `nll`: mean of :math:`-\ln p(y \mid x)`; for multi-label data the binary cross-entropy, averaged over the classes.
* `ece`: expected calibration error with 15 equally wide bins of confidence (Guo et al. 2017, arXiv 1706.04599, eq. 3).
* multi-label accuracy is the share of right single decisions at probability 1/2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["by_batches", "evaluating", "predict_logits", "predict_probabilities", "probabilities", "represent"]


@contextmanager
def evaluating(model: nn.Module, precision: str, gradients: bool = False) -> Iterator[torch.device]:
    """Evaluation mode, in which nothing is recorded for gradients; afterwards the model is as it was.

    Args:
        model: Network with parameters.
        precision: "fp32", or "bf16" for autocast.
        gradients: Whether `torch.enable_grad` inside may record gradients with respect to inputs, as guidance needs; those
            with respect to parameters are never recorded. Without it the faster inference mode is used.

    Yields:
        Device of the model.
    """
    device = next(model.parameters()).device
    training = model.training
    frozen = [p for p in model.parameters() if gradients and p.requires_grad]
    model.eval()
    for p in frozen:
        p.requires_grad_(False)
    try:
        with (
            torch.no_grad() if gradients else torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            yield device
    finally:
        model.train(training)
        for p in frozen:
            p.requires_grad_(True)


def predict_logits(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    *,
    precision: str = "fp32",
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
    task: str = "predict",
) -> NDArray[np.float32]:
    """Class logits of uint8 images (n, C, H, W): float32, (n, K); runs the encoder only, at the smallest noise level."""
    return by_batches(model, model.classify, images, precision=precision, batch_size=batch_size, progress=progress, task=task)


def represent(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    *,
    precision: str = "fp32",
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
) -> NDArray[np.float32]:
    """Representations of uint8 images (n, C, H, W): float32, (n, F)."""
    return by_batches(
        model, model.representation, images, precision=precision, batch_size=batch_size, progress=progress, task="represent"
    )


def probabilities(logits: NDArray[np.float32], multilabel: bool) -> NDArray[np.float32]:
    """Class probabilities, (n, K): softmax, or a sigmoid of each logit for multi-label data."""
    tensor = torch.from_numpy(logits)
    return (tensor.sigmoid() if multilabel else tensor.softmax(dim=1)).numpy()


def predict_probabilities(model: JointDiffusion, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class probabilities of uint8 images (n, C, H, W), one class each, (n, K), in fp32, as searches for counterfactuals have
    them: at the boundary rounding decides which class comes first.
    """
    if not len(images):
        return np.zeros((0, model.config.n_classes), dtype=np.float32)
    return probabilities(predict_logits(model, images), multilabel=False)


def by_batches(
    model: JointDiffusion,
    function: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    *,
    precision: str = "fp32",
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
    task: str = "images",
) -> NDArray[np.float32]:
    """A function of image tensors in [-1, 1], applied to uint8 images (n, C, H, W) batch by batch."""
    parts = []
    with evaluating(model, precision) as device:
        for start in range(0, len(images), batch_size):
            parts.append(function(to_floats(images[start : start + batch_size], device)).float().cpu())
            if progress is not None:
                progress(ProgressUpdate(task, min(start + batch_size, len(images)), len(images)))
    return torch.cat(parts).numpy()
