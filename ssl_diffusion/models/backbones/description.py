"""What a backbone is and costs: features, parameters, license, milliseconds an image on this machine."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ssl_diffusion.models.backbones.base import Backbone

__all__ = ["BackboneDescription", "describe_backbone"]

_IMAGES, _ROUNDS = 16, 3
_SIDE = 64  # pixels of an image for backbones that take any size


@dataclass(frozen=True)
class BackboneDescription:
    """Facts about a backbone.

    Attributes:
        identity: Name, digest of the weights, input size.
        n_features: Number of features.
        input_size: Side in pixels that images are read at. None: any.
        parameters: Number of parameters.
        megabytes: Memory of parameters and buffers, 10^6 bytes.
        license: License of the weights. None: not known.
        differentiable: Whether gradients run through it.
        by_id: Whether features are looked up by sample id.
        ms: Milliseconds an image, measured here. None: not measured.
        threads: Threads that it was measured with.
    """

    identity: str
    n_features: int
    input_size: int | None
    parameters: int
    megabytes: float
    license: str | None
    differentiable: bool
    by_id: bool
    ms: float | None
    threads: int


def describe_backbone(backbone: Backbone, *, measure: bool = False) -> BackboneDescription:
    """Describe a backbone.

    Args:
        backbone: Network, or features by sample id, for which nothing is measured.
        measure: Whether the time an image is measured, on images of noise; the best of three rounds, so that other programs
            change little.

    Example:
        >>> describe_backbone(load_backbone("efficientnet-lite0"), measure=True).ms  # doctest: +SKIP
        11.5
    """
    tensors = [*backbone.parameters(), *backbone.buffers()]
    return BackboneDescription(
        identity=backbone.identity,
        n_features=backbone.n_features,
        input_size=backbone.input_size,
        parameters=sum(p.numel() for p in backbone.parameters()),
        megabytes=round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 1),
        license=backbone.license,
        differentiable=backbone.differentiable,
        by_id=backbone.by_id,
        ms=_milliseconds(backbone) if measure and not backbone.by_id else None,
        threads=torch.get_num_threads(),
    )


def _milliseconds(backbone: Backbone) -> float:
    """Shortest time an image."""
    side = backbone.input_size or _SIDE
    # Gray images can be read by every network.
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, 1, side, side), dtype=np.uint8)
    ids = [str(i) for i in range(_IMAGES)]
    backbone.embed(ids, images)
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        backbone.embed(ids, images)
        seconds.append(time.perf_counter() - start)
    return round(1000 * min(seconds) / _IMAGES, 2)
