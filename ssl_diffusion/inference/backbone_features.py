"""A backbone reads all images of a source."""

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.source import ImageSource
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.storage import IN_MEMORY, allocate

__all__ = ["pool_features"]


def pool_features(
    backbone: Backbone, source: ImageSource, *, batch_size: int = 64, progress: ProgressCallback | None = None
) -> NDArray[np.float32]:
    """Features of all images of a source, such as a pool, float32 (N, F), in the order of its ids.

    Args:
        backbone: Network, or features by sample id, in which case no image is read.
        source: Images.
        batch_size: Number of images read at once.
        progress: Callback for the number of images read.

    Returns:
        Features; beyond 256 MiB in a temporary file.

    Raises:
        SSLDError: If an image cannot be read, a sample has no features, or features are not finite or of another shape than the
            backbone says.

    Example:
        >>> backbone = load_backbone("torchvision:resnet18", weights="resnet18.safetensors")  # doctest: +SKIP
        >>> pool_features(backbone, load_dataset("digits")).shape  # doctest: +SKIP
        (1797, 512)
    """
    z: NDArray[np.float32] = allocate((len(source), backbone.n_features), np.float32, IN_MEMORY)
    batches = [(source.ids, None)] if backbone.by_id else source.batches(batch_size)
    done = 0
    for ids, images in batches:
        part = backbone.embed(ids, images)
        if part.shape != (len(ids), backbone.n_features):
            wanted = (len(ids), backbone.n_features)
            raise SSLDError(f"the backbone {backbone.identity} gave features of shape {part.shape}, not {wanted}")
        if not np.isfinite(part).all():
            sample = ids[int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])]
            raise SSLDError(f"the backbone {backbone.identity} gave features of sample {str(sample)!r} that are not finite")
        z[done : done + len(ids)] = part
        done += len(ids)
        if progress is not None:
            progress(ProgressUpdate("backbone", done, len(source)))
    return z
