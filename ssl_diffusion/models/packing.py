"""A copy of a network for reading only: weights in the precision of the computation, and in the processor's own layout.

Autocast converts every weight at every batch, and the processor's library then reorders it: in batches of images that costs as
much as some of the convolutions. A network that is read only needs both once.
"""

import copy
import logging
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_diffusion.models.blocks import Pointwise
from ssl_diffusion.models.convolution import Conv3x3

__all__ = ["packed"]

_log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


def packed(network: Network, precision: str) -> Network:
    """A copy of a network whose convolutions and linear layers are ready to be applied, on a processor.

    The copy is of the same class, and keeps the weights and the mode that the network has now, also when that is trained on. On
    other devices it is the network itself.

    Args:
        network: Network in evaluation mode.
        precision: "fp32", or "bf16" for computations under autocast.

    Returns:
        Network for computations without gradients with respect to parameters or images; its results differ by rounding only.

    Example:
        >>> with torch.inference_mode():
        ...     logits = packed(model.eval(), "fp32").classify(torch.zeros(2, 1, 8, 8))
    """
    if next(network.parameters()).device.type != "cpu":
        return network
    return _packed(network, torch.bfloat16 if precision == "bf16" else torch.float32)


def _packed(network: Network, dtype: torch.dtype) -> Network:
    if type(network) in (nn.Conv2d, Conv3x3):  # a class of somebody else's may do more than a convolution
        return _Convolution(network, dtype)  # type: ignore[arg-type, return-value]  # it does what the layer does
    made = copy.copy(network)
    cast = dtype if type(network) in (nn.Linear, Pointwise) else None
    made._parameters = {name: None if p is None else _copy(p, cast or p.dtype) for name, p in network._parameters.items()}
    made._modules = {name: None if m is None else _packed(m, dtype) for name, m in network._modules.items()}
    return made


def _copy(parameter: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=False)


class _Convolution(nn.Module):
    """A convolution with packed weights; the maps that come decide their layout.

    Args:
        layer: Convolution to take over.
        dtype: Precision of the weights.
    """

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(layer.padding, tuple)
        self.weight = _copy(layer.weight, dtype)
        self.bias = None if layer.bias is None else _copy(layer.bias, dtype)
        self.geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        self._layouts: dict[torch.Size, Tensor | None] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of a map, (B, C, H, W)."""
        x = x.to(self.weight.dtype)
        if x.shape not in self._layouts:
            self._layouts[x.shape] = self._pack(x)
        weight = self._layouts[x.shape]
        if weight is not None:
            return self._pointwise(x, weight)
        padding, stride, dilation, groups = self.geometry
        return functional.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)

    def _pack(self, x: Tensor) -> Tensor | None:
        """The weights in the layout that is fast for maps like `x`; None where torch does not offer it."""
        try:
            weight: Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(self.weight.to_mkldnn(), *self.geometry, x.shape)  # type: ignore[call-arg]
            self._pointwise(x[:1], weight)
        except (AttributeError, RuntimeError, TypeError) as error:  # neither operator is public
            _log.debug("weights stay as they are: %s", error)
            return None
        return weight

    def _pointwise(self, x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, "none", [], "")
        return result
