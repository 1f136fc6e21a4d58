"""A small backbone, and the contract of one that is made in a test."""

from collections.abc import Callable

from torch import Tensor, nn

from ssl_diffusion.models import Backbone, fit_images
from ssl_diffusion.testing import BackboneContract

__all__ = ["Mean", "contract_of"]


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
