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
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = [
    "by_batches",
    "classification_metrics",
    "expected_calibration_error",
    "inference",
    "predict_logits",
    "predict_probabilities",
    "probabilities",
    "represent",
]


@contextmanager
def inference(model: JointDiffusion, precision: str) -> Iterator[torch.device]:
    """Evaluation mode without gradients, under autocast if `precision` is "bf16"; gives the model's device."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield device
    finally:
        model.train(training)


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


def classification_metrics(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """`accuracy`, `nll` and `ece` of logits (n, K) against labels (n,), or (n, K) with 0/1 for multi-label data."""
    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    if y.ndim == 2:
        p = z.sigmoid().numpy()
        right = (p > 0.5) == (labels > 0.5)
        confidence = np.maximum(p, 1 - p)
        nll = functional.binary_cross_entropy_with_logits(z, y.float())
    else:
        p = z.softmax(dim=1).numpy()
        right = p.argmax(axis=1) == labels
        confidence = p.max(axis=1)
        nll = functional.cross_entropy(z, y)
    return {
        "accuracy": float(right.mean()),
        "nll": float(nll),
        "ece": expected_calibration_error(confidence.ravel(), right.ravel()),
    }


def expected_calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean over samples of |accuracy - confidence| of their bin; 0 is perfectly calibrated, lower is better.

    Args:
        confidence: probability of the predicted class, (n,), in [0, 1].
        right: whether the prediction was right, (n,).
        bins: number of equally wide bins over [0, 1].
    """
    index = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


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
    with inference(model, precision) as device:
        for start in range(0, len(images), batch_size):
            parts.append(function(to_floats(images[start : start + batch_size], device)).float().cpu())
            if progress is not None:
                progress(ProgressUpdate(task, min(start + batch_size, len(images)), len(images)))
    return torch.cat(parts).numpy()
