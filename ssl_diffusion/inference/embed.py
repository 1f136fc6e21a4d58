"""One pass of the encoder over a pool: what every strategy needs of each sample, in memory that does not grow with the network.

Representations may have tens of thousands of features. Strategies measure distances and inner products, which a random
projection to a few hundred dimensions keeps (Johnson and Lindenstrauss 1984): the relative error of a distance is about
1 / sqrt(2 * 512), 3 %. The projection depends on the number of features only, so that all samples of all queries share it.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.inference.embedding_store import Embeddings, EmbeddingStore, digests
from ssl_diffusion.inference.predict import evaluating
from ssl_diffusion.inference.projection import DIMENSIONS, _projection
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.joint import JointDiffusion
from ssl_diffusion.models.pixels import to_floats
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.storage import create_array

__all__ = ["scan_images", "store_of", "write_representation"]

_BATCH = 256
_PART = 256 * _BATCH  # images; what a query that is killed may lose


def scan_images(
    model: JointDiffusion,
    images: NDArray[np.uint8],
    positions: NDArray[np.int64],
    classify: bool = True,
    precision: str = "fp32",
    progress: ProgressCallback | None = None,
    store: EmbeddingStore | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Representations and class probabilities of images.

    Args:
        model: the joint model.
        images: uint8, (N, C, H, W).
        positions: of the images to read, (n,).
        classify: whether class probabilities are wanted.
        precision: "fp32" or "bf16".
        progress: called with the number of samples read.
        store: has what was read before, and keeps what is read now.

    Returns:
        Representations, float32 (n, F), or (n, 512) where F is larger, in a temporary file if they take over 256 MiB; and
        class probabilities, float32 (n, K), or None.
    """
    projection = _projection(model.n_features)
    n_features = projection.shape[1] if projection is not None else model.n_features
    scores = Embeddings(len(positions), n_features, model.config.n_classes if classify else 0)
    keys = digests(images[i] for i in positions) if store is not None else np.zeros(0, dtype="S16")
    todo = store.fill(keys, scores) if store is not None else np.arange(len(positions))
    with evaluating(model, precision) as device:
        mixed = torch.from_numpy(projection).to(device) if projection is not None else None
        for part in (todo[i : i + _PART] for i in range(0, len(todo), _PART)):
            for start in range(0, len(part), _BATCH):
                rows = part[start : start + _BATCH]
                z = model.representation(to_floats(images[positions[rows]], device))
                if classify:
                    scores.probabilities[rows] = model.classify_representation(z).softmax(dim=1).cpu().numpy()
                scores.representation[rows] = (z if mixed is None else z @ mixed).float().cpu().numpy()
                if progress is not None:
                    progress(ProgressUpdate("reading the pool", int(np.searchsorted(todo, rows[-1])) + 1, len(todo)))
            if store is not None:
                store.keep(keys[part], scores.representation[part], scores.probabilities[part])
    return scores.representation, scores.probabilities if classify else None


def store_of(run: Run) -> EmbeddingStore:
    """The store in the folder of a run, for the scores of its present model."""
    model = hashlib.sha256(run.model_file.read_bytes()).hexdigest()
    device = next(run.model.parameters()).device.type
    return EmbeddingStore(run.path / "scores", f"1 {model} {run.precision} {device} {DIMENSIONS}")


def write_representation(
    model: JointDiffusion, images: NDArray[np.uint8], path: Path, precision: str, progress: ProgressCallback | None = None
) -> None:
    """Compute the representation of all images into a file for `np.load`."""
    out = create_array(path, (len(images), model.n_features), np.float32)
    with evaluating(model, precision) as device:
        for start in range(0, len(images), _BATCH):
            part = model.representation(to_floats(images[start : start + _BATCH], device))
            out[start : start + len(part)] = part.float().cpu().numpy()
            if progress is not None:
                progress(ProgressUpdate("reading the pool", start + len(part), len(images)))
    out.flush()
