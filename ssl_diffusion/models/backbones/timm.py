"""Networks of timm without their last layer: its own weights from its cache or the network, or a file of the user's."""

import logging
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_diffusion.errors import CheckpointError, SSLDError, first_line, nearest_names, shown
from ssl_diffusion.models.backbones.base import Backbone, fit_images
from ssl_diffusion.models.backbones.registry import register_backbone
from ssl_diffusion.models.backbones.weight_files import load_weights, read_weights, weights_digest

__all__ = ["TimmBackbone"]

_log = logging.getLogger(__name__)
_PATIENCE = 10  # seconds until a server that does not answer is given up


@register_backbone("timm", needs=("timm",), install="ssld[timm]")
class TimmBackbone(Backbone):
    """A network of timm; its features are what timm pools before the last layer (`num_classes=0`).

    Mean, standard deviation and input size are those of timm's configuration for the weights. The whole image is resized:
    nothing is cropped away.

    Args:
        name: Name of the network in timm, such as "vit_small_patch14_dinov2.lvd142m".
        weights: Weights, a .safetensors file, or a state dict saved by torch (read without running what a pickle may contain);
            "random" for trying out a network without any. None: timm's own, from its cache, else from where timm fetches them.
        input_size: Side in pixels that images are resized to. None: that of timm's configuration.

    Raises:
        SSLDError: If timm has no such network, has no weights of it, they cannot be fetched, or the network does not work at
            the input size.
        CheckpointError: If the file is missing, damaged, no state dict, or of another network.

    Example:
        >>> TimmBackbone("vit_small_patch14_dinov2.lvd142m", input_size=224).n_features  # doctest: +SKIP
        384
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, name: str, weights: str | Path | None = None, input_size: int | None = None) -> None:
        super().__init__()
        config = _configuration(name)
        channels, size, _ = config.input_size
        if input_size is not None:
            _check_patch(name, input_size)
            size = input_size
        options: dict[str, Any] = {"img_size": size} if config.fixed_input_size else {}
        if weights is None:
            network = _pretrained(name, config, options)
            self.license = config.license
        else:
            network = _create(name, options)
            if weights != "random":
                _load_file(network, Path(weights), name)
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.input_size, self._channels = size, channels
        self.register_buffer("_mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(config.std).view(1, -1, 1, 1), persistent=False)
        kind = " random weights" if weights == "random" else ""
        self.identity = f"timm:{name}{kind} {weights_digest(network)} {size}px"
        self.n_features = self._probe(name)
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        """See :meth:`Backbone.features`; images are resized to the input size, gray ones repeated in every channel."""
        x = fit_images(x, channels=self._channels, size=self.input_size)
        z: Tensor = self.network((((x + 1) / 2 - self._mean) / self._std).contiguous(memory_format=torch.channels_last))
        return z

    def _probe(self, name: str) -> int:
        """Number of features, found by reading an image."""
        size = self.input_size or 0
        try:
            with torch.inference_mode():
                z = self.features(torch.zeros(1, self._channels, size, size))
        except Exception as error:  # networks of timm raise many kinds where a size does not suit them
            raise SSLDError(
                f"timm:{name} cannot read images of {size} pixels ({first_line(error)}): choose input_size"
            ) from None
        if not isinstance(z, Tensor) or z.ndim != 2:
            what = f"maps of shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
            raise SSLDError(f"timm:{name} returns {what}, not one vector an image: choose a classification network")
        return z.shape[1]


def _configuration(name: str) -> Any:
    """What timm knows about a network and its weights."""
    import timm

    if timm.is_model(name):
        with suppress(Exception):  # an unknown tag of weights
            if (config := timm.get_pretrained_cfg(name, allow_unregistered=False)) is not None:
                return config
    architecture = name.partition(".")[0]
    known = timm.list_pretrained(f"{architecture}.*") if timm.is_model(architecture) else timm.list_models()
    raise SSLDError(f"timm has no network {shown(name)}; {nearest_names(name, known)}")


def _create(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    """A network; its random weights are always the same."""
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network: nn.Module = timm.create_model(name, num_classes=0, **options, **more)
            return network
    except (AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        size = options.get("img_size", "its")
        raise SSLDError(f"timm:{name} cannot be made for images of {size} pixels ({first_line(error)})") from None


def _check_patch(name: str, size: int) -> None:
    """Refuse images that are smaller than a patch of the network, or from whose edge a part of a patch would be left out."""
    with torch.device("meta"):
        patch = getattr(getattr(_create(name, {}), "patch_embed", None), "patch_size", None)
    side = max(patch) if isinstance(patch, tuple | list) else patch
    if not isinstance(side, int):
        side = 1
    if size < side:
        raise SSLDError(
            f"images of {size} pixels are smaller than a patch of timm:{name}, {side} pixels: choose input_size={side} or more"
        )
    if size % side:
        below, above = size // side * side, (size // side + 1) * side
        raise SSLDError(
            f"the patches of timm:{name} are {side} pixels wide, of which {size} is no multiple: choose {below} or {above}"
        )


def _pretrained(name: str, config: Any, options: dict[str, Any]) -> nn.Module:
    """A network with timm's own weights."""
    import timm

    if not (config.hf_hub_id or config.url):
        tagged = timm.list_pretrained(f"{config.architecture}.*")
        advice = f"; {nearest_names(name, tagged)}" if tagged else ""
        raise SSLDError(f"timm has no weights of {name}: give weights=FILE, or weights='random' to try it out without{advice}")
    if (file := _cached(config)) is not None:  # without asking the network whether there are newer ones
        try:
            return _create(name, options, pretrained=True, pretrained_cfg_overlay={"file": file})
        except SSLDError:
            raise
        except Exception as error:  # safetensors, torch and load_state_dict raise many kinds
            raise CheckpointError(
                f"{file} is damaged ({first_line(error)}): remove it, so that timm fetches it again"
            ) from None
    fault, source = _unreachable(config), config.hf_hub_id or config.url.rpartition("/")[2]
    if fault is None:
        with torch.device("meta"):
            megabytes = sum(4 * p.numel() for p in _create(name, options).parameters()) / 1e6
        _log.warning("timm fetches the weights %s, about %.0f MB, into %s", source, megabytes, _cache(config))
        try:
            return _create(name, options, pretrained=True)
        except SSLDError:
            raise
        except Exception as error:  # of the hub's client, of urllib, of a damaged file
            fault = first_line(error)
    raise CheckpointError(
        f"the weights of timm:{name} are not in {_cache(config)}, and {source} cannot be fetched ({fault}): have timm fetch "
        "them on a machine with a network and copy that folder, or give weights=FILE"
    )


def _cache(config: Any) -> str:
    """Folder that timm looks for weights in."""
    if not config.hf_hub_id:
        return str(Path(torch.hub.get_dir()) / "checkpoints")
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _cached(config: Any) -> str | None:
    """File of weights in the cache; None if there is none, or it is of a form that only timm reads."""
    if config.custom_load:
        return None
    if not config.hf_hub_id:
        path = Path(_cache(config)) / config.url.rpartition("/")[2]
        return str(path) if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for name in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        if name and isinstance(found := try_to_load_from_cache(config.hf_hub_id, name, cache_dir=_cache(config)), str):
            return found
    return None


def _unreachable(config: Any) -> str | None:
    """Why no weights can be fetched now; None if a server answers. Without this, the hub's client tries for minutes."""
    import urllib.error
    import urllib.request

    address = config.url
    if config.hf_hub_id:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set"
        address = constants.ENDPOINT
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        return str(error.reason) if isinstance(error.reason, OSError) and not isinstance(error.reason, ssl.SSLError) else None
    except OSError as error:
        return first_line(error)
    return None


def _load_file(network: nn.Module, path: Path, name: str) -> None:
    """Copy the weights of a file into a network; those of the last layer may be missing or of any number of classes."""
    state = read_weights(path)
    # Many files of weights have names that timm translates; what translates them stands beside the network's class.
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is not None and set(network.state_dict()) - set(state):
        with suppress(Exception):  # those of another network; the sentence below says so
            state = translate(state, network)
    last = network.pretrained_cfg.get("classifier") or ()  # type: ignore[operator,union-attr]
    layers = (last,) if isinstance(last, str) else last
    load_weights(network, state, f"timm:{name}", path, optional=[f"{layer}." for layer in layers])
