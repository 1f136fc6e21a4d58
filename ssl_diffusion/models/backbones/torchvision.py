"""Classification networks of torchvision, cut before their last linear layer, with weights from a file of the user's.

Nothing is downloaded.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.models.backbones.base import Backbone, fit_images
from ssl_diffusion.models.backbones.registry import register_backbone
from ssl_diffusion.models.backbones.weight_files import file_digest, load_weights, read_weights

__all__ = ["TorchvisionBackbone"]

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads that only training uses


@register_backbone("torchvision")
class TorchvisionBackbone(Backbone):
    """A classification network of torchvision; its features are what its last linear layer reads.

    Args:
        name: Name of the network in torchvision, such as "resnet18", "efficientnet_b0" or "vit_b_16".
        weights: Weights, a .safetensors file, or a state dict saved by torch (read without running what a pickle may contain);
            those of the last layer may be missing or of any number of classes.
        input_size: Side in pixels that images are resized to. None: that of torchvision's own weights for the network.

    Raises:
        SSLDError: If torchvision has no such network, it has no linear layer at its end, or no weights were given.
        CheckpointError: If the file is missing, damaged, no state dict, or of another network.

    Example:
        >>> TorchvisionBackbone("resnet18", "resnet18.safetensors").n_features
        512
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, name: str, weights: str | Path | None = None, input_size: int | None = None) -> None:
        super().__init__()
        from torchvision import models  # slow to import

        known = models.list_models(module=models)
        if name not in known:
            raise SSLDError(f"torchvision has no classification network {shown(name)}; {nearest_names(name, known)}")
        if weights is None:
            raise SSLDError(f"torchvision:{name} needs a file of weights, as nothing is downloaded: give weights=FILE")
        preset = models.get_model_weights(name).DEFAULT.transforms()
        self.input_size = preset.crop_size[0] if input_size is None else input_size
        options = {"image_size": self.input_size} if name.startswith("vit_") else {}
        if name in ("googlenet", "inception_v3"):
            options |= {"init_weights": False}  # slow, and overwritten
        network, last = _without_last_layer(name, models.get_model(name, weights=None, **options))
        optional = (f"{last[0]}.", *_AUXILIARY)
        load_weights(network, read_weights(Path(weights)), f"torchvision:{name}", Path(weights), optional=optional)
        self.network = network.eval().requires_grad_(False)
        self.n_features = last[1].in_features
        self.register_buffer("_mean", torch.tensor(preset.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(preset.std).view(1, -1, 1, 1), persistent=False)
        self.identity = f"torchvision:{name} {file_digest(Path(weights))} {self.input_size}px"
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        """See :meth:`Backbone.features`; images are resized to the input size, gray ones repeated in three channels."""
        x = fit_images(x, channels=3, size=self.input_size)
        z: Tensor = self.network(((x + 1) / 2 - self._mean) / self._std)
        return z


def _without_last_layer(name: str, network: nn.Module) -> tuple[nn.Module, tuple[str, nn.Linear]]:
    """The network with an identity in the place of its last linear layer; that layer and its name."""
    leaves = [(path, module) for path, module in network.named_modules() if list(module.parameters(recurse=False))]
    path, layer = leaves[-1]
    if not isinstance(layer, nn.Linear):
        raise SSLDError(
            f"torchvision:{name} has no linear layer at its end, before which it could be cut: choose another network"
        )
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network, (path, layer)
