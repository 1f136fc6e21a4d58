"""One pass of the encoder over a pool: what every strategy needs of each sample, in memory that does not grow with the network.

Representations may have tens of thousands of features. Strategies measure distances and inner products, which a random
projection to a few hundred dimensions keeps (Johnson and Lindenstrauss 1984): the relative error of a distance is about
1 / sqrt(2 * 512), 3 %. The projection depends on the number of features only, so that all samples of all queries share it.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.evaluation import inference
from ssl_diffusion.pixels import to_floats
from ssl_diffusion.pool import Pool
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.run import Run

__all__ = ["DIMENSIONS", "scan"]

DIMENSIONS = 512
_BATCH = 256


def scan(
    run: Run, pool: Pool, positions: NDArray[np.int64], progress: ProgressCallback | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Representations and class probabilities of samples.

    Args:
        run: a finished run.
        pool: its images.
        positions: of the samples, (n,).
        progress: called with the number of samples read.

    Returns:
        Representations, float32 (n, F), or (n, 512) where F is larger; and class probabilities, float32 (n, K), or None for a
        model without classes or with several an image.
    """
    model = run.model
    n, projection = len(positions), _projection(model.n_features)
    representation = np.empty((n, projection.shape[1] if projection is not None else model.n_features), dtype=np.float32)
    single = bool(run.classes) and not run.multilabel
    probabilities = np.empty((n, len(run.classes)), dtype=np.float32) if single else None
    with inference(model, run.precision) as device:
        mixed = torch.from_numpy(projection).to(device) if projection is not None else None
        for start in range(0, n, _BATCH):
            rows = slice(start, start + _BATCH)
            z = model.representation(to_floats(pool.images[positions[rows]], device))
            if probabilities is not None:
                probabilities[rows] = model.classify_representation(z).softmax(dim=1).cpu().numpy()
            representation[rows] = (z if mixed is None else z @ mixed).float().cpu().numpy()
            if progress is not None:
                progress(ProgressUpdate("reading the pool", min(start + _BATCH, n), n))
    return representation, probabilities


@lru_cache(maxsize=2)
def _projection(n_features: int) -> NDArray[np.float32] | None:
    if n_features <= DIMENSIONS:
        return None
    rng = np.random.default_rng(n_features)
    return (rng.standard_normal((n_features, DIMENSIONS), dtype=np.float32) / np.float32(np.sqrt(DIMENSIONS))).astype(
        np.float32
    )
