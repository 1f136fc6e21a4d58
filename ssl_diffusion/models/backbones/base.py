"""What a backbone is: a frozen network that turns images into features, or features of its own by sample id."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.machine import keep_freed_memory
from ssl_diffusion.models.pixels import to_floats

__all__ = ["Backbone", "fit_images"]

# Images that a processor reads at once, so that their maps stay in its cache: EfficientNet-Lite0 takes 6.1 ms an image (128 px)
# with 16 and 8.3 ms with 64 (one core of an AMD EPYC).
_CACHED = 16


class Backbone(nn.Module, ABC):
    """A frozen network that turns images into features; a subclass sets the attributes and implements :meth:`features`.

    It stays in evaluation mode (:meth:`train`), also as part of a model that is trained.

    One of your own inherits the tests of :class:`ssl_diffusion.testing.BackboneContract` and is registered with
    :func:`~ssl_diffusion.models.register_backbone`.

    Attributes:
        identity: One line that differs wherever features would: name, digest of the weights, input size. Features are cached
            under it.
        n_features: Number of features, F.
        input_size: Side in pixels that images are best read at. None: any.
        differentiable: Whether gradients run through :meth:`features`, as the search for counterfactuals needs them.
        by_id: Whether features are looked up by sample id, and no image is read.
        license: License of the weights as their publisher names it. None: not known, as of a file of one's own.
    """

    identity: str
    n_features: int
    input_size: int | None = None
    differentiable: bool = True
    by_id: bool = False
    license: str | None = None

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features of images, (B, F).

        Args:
            x: Images in [-1, 1], float (B, C, H, W), of 1 or 3 channels and of any size (:func:`fit_images`).
        """

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`features`."""
        return self.features(x)

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, whatever `mode` says: batch normalisation must not follow the images that are read."""
        return super().train(False)

    def embed(self, ids: Sequence[str] | NDArray[np.str_], images: NDArray[np.uint8] | None) -> NDArray[np.float32]:
        """Features of samples, float32 (n, F), in evaluation mode and without gradients.

        Args:
            ids: Sample ids, (n,).
            images: Images with these ids, uint8 (n, C, H, W); may be None where features are looked up by id.
        """
        if images is None:
            raise SSLDError(f"the backbone {self.identity} reads images, and none were given")
        device = next(self.parameters(), next(self.buffers(), torch.zeros(0))).device
        at_once = _CACHED if device.type == "cpu" else len(images)
        self.eval()
        keep_freed_memory()
        with torch.inference_mode():
            parts = [images[i : i + at_once] for i in range(0, len(images), at_once)] or [images]
            return np.concatenate([self.features(to_floats(part, device)).float().cpu().numpy() for part in parts])


def fit_images(x: Tensor, *, channels: int | None = None, size: int | None = None) -> Tensor:
    """Images as a network wants them, with gradients; gray images are repeated in every channel.

    Args:
        x: Images, float (B, C, H, W).
        channels: Number of channels. None: as they are.
        size: Side in pixels that other sizes are resized to (bilinear, antialiased, without keeping the aspect ratio).
            None: as they are.

    Raises:
        SSLDError: If images have neither 1 nor `channels` channels.

    Example:
        >>> fit_images(torch.zeros(2, 1, 28, 28), channels=3, size=224).shape
        torch.Size([2, 3, 224, 224])
    """
    if channels is not None and x.shape[1] != channels:
        if x.shape[1] != 1:
            raise SSLDError(f"the backbone reads images of 1 or {channels} channels, not {x.shape[1]}")
        x = x.expand(-1, channels, -1, -1)
    if size is not None and tuple(x.shape[2:]) != (size, size):
        x = nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return x
