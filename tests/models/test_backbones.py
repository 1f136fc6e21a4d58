"""Networks of torchvision keep the contract, weights come from files only, bad files are named; and the contract notices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.backbones import Mean, contract_of
from torch import Tensor, nn
from torchvision import models

from ssl_diffusion.errors import CheckpointError, SSLDError
from ssl_diffusion.models import (
    Backbone,
    TorchvisionBackbone,
    load_backbone,
)
from ssl_diffusion.models.backbones.torchvision import _without_last_layer
from ssl_diffusion.testing import BackboneContract, check

NETWORK = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network of torchvision with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.get_model(NETWORK, weights=None, num_classes=7).eval()


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(network.state_dict(), path)
    return path


class TestTorchvision(BackboneContract):
    @pytest.fixture(autouse=True)
    def _weights(self, weights: Path) -> None:
        self.weights = weights

    def make_backbone(self) -> Backbone:
        return load_backbone(f"torchvision:{NETWORK}", weights=self.weights, input_size=32)


# ---- torchvision


def test_the_last_layer_on_features_gives_the_logits_of_the_network(network: nn.Module, weights: Path) -> None:
    x = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    backbone = TorchvisionBackbone(NETWORK, weights)
    assert backbone.input_size == 224
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        logits = network(((x + 1) / 2 - mean) / std)
        torch.testing.assert_close(network.classifier[3](backbone(x)), logits)  # type: ignore[index,operator]


def test_weights_come_in_several_files(network: nn.Module, weights: Path, tmp_path: Path) -> None:
    state = network.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "parallel.pt")
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier.3.")}, tmp_path / "headless.pth")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    z = TorchvisionBackbone(NETWORK, weights, 32)(x)
    identities = set()
    for name in ("plain.pth", "parallel.pt", "headless.pth"):
        backbone = TorchvisionBackbone(NETWORK, str(tmp_path / name), 32)
        torch.testing.assert_close(backbone(x), z)
        identities.add(backbone.identity)
    assert len(identities | {TorchvisionBackbone(NETWORK, weights, s).identity for s in (32, 48)}) == 5


def test_every_network_of_torchvision_is_cut_before_its_last_layer_or_refused() -> None:
    for name in ("resnet18", "efficientnet_b0", "densenet121", "vit_b_16", "swin_t", "convnext_tiny", "maxvit_t", "alexnet"):
        with torch.device("meta"):
            network, (path, layer) = _without_last_layer(name, models.get_model(name, weights=None))
            assert layer.out_features == 1000
            assert isinstance(network.get_submodule(path), nn.Identity)
            assert network.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, layer.in_features)
    with torch.device("meta"), pytest.raises(SSLDError, match="squeezenet1_0 has no linear layer at its end"):
        _without_last_layer("squeezenet1_0", models.get_model("squeezenet1_0", weights=None))


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("this was run",))


def write_bad(path: Path, how: str, network: nn.Module) -> Path:
    if how == "damaged":
        path.write_bytes(b"PK damaged")
    elif how == "object":
        torch.save(network, path)
    elif how == "code":
        torch.save({"weight": Evil()}, path)
    elif how == "numbers":
        torch.save({"accuracy": 0.9}, path)
    elif how == "other network":
        torch.save(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), path)
    elif how == "other shapes":
        torch.save({k: v[:1] if v.ndim == 4 else v for k, v in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "there are no weights"),
        ("damaged", "is damaged, or no file of weights"),
        ("object", "holds more than tensors, and is not opened"),
        ("code", "holds more than tensors, and is not opened"),
        ("numbers", "is no state dict"),
        ("other network", "has no weights of torchvision:mobilenet_v3_small: [0-9]+ missing, [0-9]+ unknown"),
        ("other shapes", "has no weights of torchvision:mobilenet_v3_small .*size mismatch"),
    ],
)
def test_files_that_are_no_weights_are_refused(
    how: str, message: str, network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        TorchvisionBackbone(NETWORK, write_bad(tmp_path / "bad.pth", how, network))
    assert len(str(error.value).splitlines()) == 1
    assert "this was run" not in capsys.readouterr().out


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("urllib.request.urlopen", forbidden)
    monkeypatch.setattr("torch.hub.download_url_to_file", forbidden)
    with pytest.raises(SSLDError, match="needs a file of weights, as nothing is downloaded"):
        load_backbone("torchvision:resnet18")
    with pytest.raises(SSLDError, match="no classification network 'resnet19'; did you mean resnet18"):
        load_backbone("torchvision:resnet19", weights="x.pth")


# ---- a contract that cannot fail is no contract


class Normalised(Mean):
    """Statistics of the batch."""

    def features(self, x: Tensor) -> Tensor:
        z = super().features(x)
        return z - z.mean(dim=0)


class Modal(Mean):
    """Follows the mode of the model that it is part of."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(12, affine=False)

    def features(self, x: Tensor) -> Tensor:
        z: Tensor = self.norm(super().features(x))
        return z

    def train(self, mode: bool = True) -> "Modal":
        return nn.Module.train(self, mode)


class Dropped(Mean):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.5, training=True)


class Trained(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(12))

    def features(self, x: Tensor) -> Tensor:
        return self.scale * super().features(x)


class Severed(Mean):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x.detach())


class Few(Mean):
    n_features = 13


class Constant(Mean):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) * 0


class Renamed(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.identity = f"mean {id(self)}"


class OfOneSize(Mean):
    def features(self, x: Tensor) -> Tensor:
        return x[:, :, :20, :17].reshape(len(x), 3, 20, 17).flatten(1)[:, :12]


def test_the_contract_is_kept_by_a_backbone_of_ones_own() -> None:
    assert check(contract_of(Mean)) == 11


@pytest.mark.parametrize(
    "faulty", [Normalised, Modal, Dropped, Trained, Severed, Few, Constant, Renamed, OfOneSize], ids=lambda kind: kind.__name__
)
def test_the_contract_notices(faulty: type[Backbone]) -> None:
    with pytest.raises((AssertionError, SSLDError, RuntimeError)):
        check(contract_of(faulty))
