"""Files of weights, read without running what a pickle may contain."""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_diffusion.errors import CheckpointError

__all__ = ["file_digest", "load_weights", "read_weights", "weights_digest"]

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # of checkpoints that hold more than weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a file of torch, without the prefix that parallel training leaves in its names.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds something else.
    """
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


def load_weights(network: nn.Module, state: Mapping[str, Tensor], name: str, path: Path, optional: Sequence[str] = ()) -> None:
    """Copy weights into a network.

    Args:
        network: Network, without its last layer.
        state: Weights by name.
        name: Name of the network in messages.
        path: File that the weights come from.
        optional: Beginnings of the names of weights that may be missing, or of any shape where the network has none of them,
            such as those of the last layer.

    Raises:
        CheckpointError: If the weights are those of another network.
    """
    begins = tuple(optional)
    own = set(network.state_dict())
    kept = {key: value for key, value in state.items() if key in own or not key.startswith(begins)}
    try:
        missing, unexpected = network.load_state_dict(kept, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} has no weights of {name} ({reason})") from None
    missing = [key for key in missing if not key.startswith(begins) and not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        example = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unknown"
        raise CheckpointError(f"{path} has no weights of {name}: {len(missing)} missing, {len(unexpected)} unknown ({example})")


def file_digest(path: Path) -> str:
    """Digest of a file, 16 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def weights_digest(network: nn.Module) -> str:
    """Digest of the weights that a network has, wherever they came from, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
