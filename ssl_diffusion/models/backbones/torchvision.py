"""Classification networks of torchvision, cut before their last linear layer, with weights from a file of the user's.

Nothing is downloaded.
"""

import hashlib
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_diffusion.errors import CheckpointError, SSLDError, nearest_names, shown
from ssl_diffusion.models.backbones.base import Backbone, fit_images
from ssl_diffusion.models.backbones.registry import register_backbone

__all__ = ["TorchvisionBackbone"]

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # of checkpoints that hold more than weights
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
        _load(network, Path(weights), name, last)
        self.network = network.eval().requires_grad_(False)
        self.n_features = last[1].in_features
        self.register_buffer("_mean", torch.tensor(preset.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(preset.std).view(1, -1, 1, 1), persistent=False)
        self.identity = f"torchvision:{name} {_digest(Path(weights))} {self.input_size}px"
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


def _load(network: nn.Module, path: Path, name: str, last: tuple[str, nn.Linear]) -> None:
    """Copy the weights of a file into a network."""
    state = _read(path)
    missing, unexpected = [], []
    try:
        kept = {key: value for key, value in state.items() if not key.startswith(f"{last[0]}.")}
        missing, unexpected = network.load_state_dict(kept, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} has no weights of torchvision:{name} ({reason})") from None
    missing = [key for key in missing if not key.startswith(_AUXILIARY) and not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        example = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unknown"
        raise CheckpointError(
            f"{path} has no weights of torchvision:{name}: {len(missing)} missing, {len(unexpected)} unknown ({example})"
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, without the prefix that parallel training leaves in its names."""
    if not path.is_file():
        raise CheckpointError(f"there are no weights {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} holds more than tensors, and is not opened: save it again with torch.save(model.state_dict(), FILE)"
            ) from None
        raise CheckpointError(f"{path} is damaged, or no file of weights ({' '.join(str(error).split())[:200]})") from None
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is no state dict: save the network with torch.save(model.state_dict(), FILE)")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
