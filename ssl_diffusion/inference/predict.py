"""A model reads images batch by batch: its predictions and representations."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_diffusion.inference.rows import Rows, features_at
from ssl_diffusion.machine import keep_freed_memory
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.packing import packed
from ssl_diffusion.models.pixels import to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = [
    "BatchFunction",
    "Model",
    "ReadingOptions",
    "by_batches",
    "evaluating",
    "map_batches",
    "map_stream",
    "predict_logits",
    "predict_probabilities",
    "probabilities",
    "represent",
    "represented",
]

Model = TypeVar("Model", bound=nn.Module)
S = TypeVar("S")
# Of a model, a batch on its device and the numbers of its rows, int64 (B,): tensors (B, ...) of a type that NumPy has.
BatchFunction = Callable[[Model, Tensor, NDArray[np.int64]], tuple[Tensor, ...]]


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

    Example:
        >>> with evaluating(model, "fp32") as device:
        ...     logits = model.classify(torch.zeros(2, 1, 8, 8, device=device))
    """
    keep_freed_memory()
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


def map_batches(
    model: Model,
    function: BatchFunction[Model],
    data: Rows,
    rows: NDArray[np.int64] | None = None,
    *,
    precision: str = "fp32",
    batch_size: int = 256,
    gradients: bool = False,
    tensor: Callable[[NDArray[Any], torch.device], Tensor] = to_floats,
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[Any], ...]]]:
    """Apply a function of a model to rows of data, batch by batch: the one loop in which a model reads many images.

    Args:
        model: Network; in evaluation mode while a batch is read, and as it was in between.
        function: Function of the model, a batch and the numbers of its rows; without `gradients` it gets a copy of a joint
            model whose weights are ready to be read, see :func:`ssl_diffusion.models.packed`.
        data: Images, uint8 (N, C, H, W), or whatever `tensor` takes.
        rows: Numbers of the rows to read, int64 (n,); None reads all of them.
        precision: "fp32", or "bf16" for autocast.
        batch_size: Rows in a batch.
        gradients: Whether the function may record gradients with respect to its inputs; see :func:`evaluating`.
        tensor: Conversion of a batch to a tensor on a device; images become floats in [-1, 1].

    Yields:
        Numbers of the rows of a batch, int64 (B,), and the results of the function as arrays (B, ...).

    Example:
        >>> for rows, (z,) in map_batches(model, lambda model, x, rows: (model.representation(x),), images):
        ...     print(rows)
        [0 1 2 3 4 5 6 7]
    """
    rows = np.arange(len(data)) if rows is None else rows
    reader = model
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        with evaluating(model, precision, gradients) as device:
            # Packing costs a few milliseconds, which a single batch does not earn: one image would take half as long again.
            if not start and len(rows) > batch_size and not gradients and isinstance(model, JointDiffusion):
                reader = packed(model, precision)
            values = tuple(value.cpu().numpy() for value in function(reader, tensor(data[part], device), part))
        yield part, values  # outside, so that no mode of torch is left on while the caller works


def map_stream(
    model: Model,
    function: BatchFunction[Model],
    batches: Iterable[tuple[S, NDArray[np.uint8]]],
    *,
    precision: str = "fp32",
) -> Iterator[tuple[S, tuple[NDArray[Any], ...]]]:
    """Apply a function of a model to images that come batch by batch, and are not known beforehand; see :func:`map_batches`.

    Args:
        model: Network; as it was in between.
        function: Function of the model, a batch and the numbers of its rows within the batch.
        batches: Batches: whatever the caller knows of one, and its images, uint8 (B, C, H, W), at least one.
        precision: "fp32", or "bf16" for autocast.

    Yields:
        What the caller knows of a batch, and the results of the function as arrays (B, ...).

    Example:
        >>> for name, (z,) in map_stream(model, lambda model, x, rows: (model.representation(x),), [("all", images)]):
        ...     print(name, len(z))
        all 8
    """
    reader: Model | None = None
    for known, images in batches:
        with evaluating(model, precision) as device:
            if reader is None:
                reader = packed(model, precision) if isinstance(model, JointDiffusion) else model
            values = tuple(value.cpu().numpy() for value in function(reader, to_floats(images, device), np.arange(len(images))))
        yield known, values


def by_batches(
    model: Model,
    function: Callable[[Model, Tensor, NDArray[np.int64]], Tensor],
    data: Rows,
    *,
    precision: str = "fp32",
    batch_size: int = 256,
    gradients: bool = False,
    tensor: Callable[[NDArray[Any], torch.device], Tensor] = to_floats,
    empty: tuple[int, ...] = (0,),
    progress: ProgressCallback | None = None,
    task: str = "images",
) -> NDArray[Any]:
    """One result of a function of a model for all rows of data, (N, ...).

    Args:
        model: See :func:`map_batches`, as for all arguments that are not listed here.
        function: Function with one tensor as result.
        empty: Shape of the result where there are no rows.
        progress: Callback for the number of rows read.
        task: Name of the task in progress updates.

    Example:
        >>> by_batches(model, lambda model, x, rows: model.representation(x), images).shape == (8, model.n_features)
        True
    """
    found, done = np.zeros(empty, dtype=np.float32), 0
    for rows, (values,) in map_batches(
        model,
        lambda model, x, rows: (function(model, x, rows),),
        data,
        precision=precision,
        batch_size=batch_size,
        gradients=gradients,
        tensor=tensor,
    ):
        if not done:  # one array from the start: parts and what they are joined to would be twice as much
            found = np.empty((len(data), *values.shape[1:]), dtype=values.dtype)
        found[rows] = values
        done += len(rows)
        if progress is not None:
            progress(ProgressUpdate(task, done, len(data)))
    return found


class ReadingOptions(TypedDict, total=False):
    """How images are read by :func:`predict_logits` and :func:`represent`; defaults and meaning as in :func:`by_batches`."""

    precision: str
    batch_size: int
    progress: ProgressCallback | None


def predict_logits(
    model: JointDiffusion, images: Rows, *, task: str = "predict", **options: Unpack[ReadingOptions]
) -> NDArray[np.float32]:
    """Class logits of uint8 images (n, C, H, W): float32, (n, K); runs the encoder only, at the smallest noise level.

    Args:
        model: Joint model with its EMA weights.
        images: Images, uint8 (n, C, H, W).
        task: Name of the task in progress updates.
        options: Precision, batch size and progress, see :func:`by_batches`.

    Example:
        >>> predict_logits(model, images).shape
        (8, 10)
    """
    return by_batches(
        model,
        lambda model, x, rows: model.classify_representation(represented(model, x, images, rows)),
        images,
        empty=(0, model.config.n_classes),
        task=task,
        **options,
    )


def represent(model: JointDiffusion, images: Rows, **options: Unpack[ReadingOptions]) -> NDArray[np.float32]:
    """Representations of uint8 images (n, C, H, W): float32, (n, F).

    Args:
        model: Joint model with its EMA weights.
        images: Images, uint8 (n, C, H, W).
        options: Precision, batch size and progress, see :func:`by_batches`.

    Example:
        >>> represent(model, images).shape == (8, model.n_features)
        True
    """
    return by_batches(
        model,
        lambda model, x, rows: represented(model, x, images, rows),
        images,
        empty=(0, model.n_features),
        task="represent",
        **options,
    )


def represented(model: JointDiffusion, x: Tensor, images: Rows, rows: NDArray[np.int64]) -> Tensor:
    """Representations of a batch of images, (B, F), by the denoiser and, where the rows have features, the backbone.

    Args:
        model: Joint model.
        x: Images as floats, (B, C, H, W).
        images: Rows that the images are from.
        rows: Row numbers, int64 (B,).
    """
    features = features_at(images, rows) if isinstance(model, FusedDiffusion) else None
    if features is None:
        return model.representation(x)
    assert isinstance(model, FusedDiffusion)
    return model.representation(x, features=torch.from_numpy(features).to(x.device))


def probabilities(logits: NDArray[np.float32], multilabel: bool) -> NDArray[np.float32]:
    """Class probabilities, (n, K): softmax, or a sigmoid of each logit for multi-label data.

    Example:
        >>> probabilities(np.zeros((1, 2), np.float32), multilabel=False).tolist()
        [[0.5, 0.5]]
    """
    tensor = torch.from_numpy(logits)
    return (tensor.sigmoid() if multilabel else tensor.softmax(dim=1)).numpy()


def predict_probabilities(model: JointDiffusion, images: Rows) -> NDArray[np.float32]:
    """Class probabilities of uint8 images (n, C, H, W) that have one class each, float32 (n, K).

    They are computed in fp32, as searches for counterfactuals compute them: at the boundary rounding decides which class
    comes first.

    Example:
        >>> predict_probabilities(model, images).shape
        (8, 10)
    """
    return probabilities(predict_logits(model, images), multilabel=False)
