"""Small backbones, and the contract of one that is made in a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from ssl_diffusion.models import Backbone, fit_images, register_backbone
from ssl_diffusion.testing import BackboneContract

__all__ = ["Mean", "Quadrants", "contract_of", "write_photos"]


class Mean(Backbone):
    """The mean of every quadrant."""

    identity, n_features = "mean", 12

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(fit_images(x, channels=3), 2).flatten(1)


def contract_of(make: Callable[[], Backbone]) -> BackboneContract:
    class Contract(BackboneContract):
        def make_backbone(self) -> Backbone:
            return make()

    return Contract()


class Quadrants(Mean):
    """The mean of every quadrant of an image that is read at 24 pixels; made by name as "quadrants"."""

    identity, input_size = "quadrants 24px", 24
    read = 0  # images, by all objects of the class

    def features(self, x: Tensor) -> Tensor:
        type(self).read += len(x)
        return super().features(fit_images(x, size=24))


register_backbone("quadrants")(Quadrants)


def write_photos(root: Path, n_train: int, n_test: int) -> Path:
    """Color photos of 30 pixels, so many to train and to test for each of three classes."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("ant", "bee", "cat")):
        for split, n in (("train", n_train), ("test", n_test)):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 120, (30, 30, 3), dtype=np.uint8)
                pixels[:, :, k] += 100
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root
