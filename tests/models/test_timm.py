"""Networks of timm: random weights, weights of files and of timm's cache, and what cannot be had."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssl_diffusion.errors import CheckpointError, SSLDError
from ssl_diffusion.models import Backbone, TimmBackbone, load_backbone
from ssl_diffusion.testing import BackboneContract

timm = pytest.importorskip("timm", reason="pip install 'ssld[timm]'")
NETWORK, PATCHES = "test_resnet", "test_vit"  # timm's own small ones for tests


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network with a last layer of 7 classes, and random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return timm.create_model(NETWORK, num_classes=7).eval()


class TestNetwork(BackboneContract):
    def make_backbone(self) -> Backbone:
        return load_backbone(f"timm:{NETWORK}", weights="random", input_size=64)


class TestVisionTransformer(BackboneContract):
    def make_backbone(self) -> Backbone:
        return load_backbone(f"timm:{PATCHES}", weights="random", input_size=64)


def test_it_says_what_it_is() -> None:
    config = timm.get_pretrained_cfg(NETWORK)
    backbone = load_backbone(f"timm:{NETWORK}", weights="random")
    assert backbone.input_size == config.input_size[1]
    assert "random weights" in backbone.identity
    assert backbone.license is None
    names = {TimmBackbone(n, "random", s).identity for n, s in ((NETWORK, 64), (NETWORK, 96), (PATCHES, 64))}
    assert len(names) == 3


def test_weights_come_from_a_file(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {k: v for k, v in state.items() if not k.startswith("fc.")}}, tmp_path / "headless.pth")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = timm.get_pretrained_cfg(NETWORK)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))
    with torch.inference_mode():
        logits = network(((x + 1) / 2 - mean) / std)
        for name in ("a.safetensors", "headless.pth"):
            z = TimmBackbone(NETWORK, tmp_path / name, 64)(x)
            torch.testing.assert_close(network.get_submodule("fc")(z), logits)


def test_weights_in_timms_cache_are_used_without_a_network(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = timm.get_pretrained_cfg(NETWORK)
    offline(monkeypatch, tmp_path)
    revision = "0" * 40
    folder = tmp_path / f"models--{config.hf_hub_id.replace('/', '--')}"
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    save_file(timm.create_model(NETWORK).state_dict(), folder / "snapshots" / revision / "model.safetensors")
    backbone = load_backbone(f"timm:{NETWORK}")
    assert backbone.license == config.license
    assert "random" not in backbone.identity
    assert backbone.identity == load_backbone(f"timm:{NETWORK}").identity
    (folder / "snapshots" / revision / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged .*: remove it"):
        load_backbone(f"timm:{NETWORK}")


def offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """An empty cache, and a network without a server."""

    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("no network here")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", refused)
    monkeypatch.setattr("socket.create_connection", refused)


def test_weights_that_cannot_be_fetched_are_named_with_the_place_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_backbone("timm:resnet10t")
    message = str(error.value)
    assert message.startswith(f"the weights of timm:resnet10t are not in {tmp_path}, and timm/resnet10t")
    assert "(no network here)" in message
    assert "weights=FILE" in message
    assert len(message.splitlines()) == 1


def test_what_is_fetched_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    def fetched(*_: Any, **__: Any) -> dict[str, torch.Tensor]:
        said.extend(record.getMessage() for record in caplog.records)
        return dict(timm.create_model(NETWORK).state_dict())

    offline(monkeypatch, tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: BytesIO())
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fetched)
    assert load_backbone(f"timm:{NETWORK}").license == timm.get_pretrained_cfg(NETWORK).license
    source = timm.get_pretrained_cfg(NETWORK).hf_hub_id
    assert [line for line in said if line == f"timm fetches the weights {source}, about 1 MB, into {tmp_path}"], said


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt10t", {}, "timm has no network 'resnt10t'; did you mean resnet10t"),
        ("resnet10t.c3", {}, r"timm has no network 'resnet10t\.c3'; did you mean resnet10t\.c3_in1k"),
        ("", {}, "timm has no network ''"),
        ("deit3_large_patch14_reg4_dinov9", {}, "timm has no network"),
        (
            "vit_tiny_patch16_224",
            {"weights": "random", "input_size": 8},
            "images of 8 pixels are smaller than a patch .*, 16 pixels",
        ),
        (
            "vit_tiny_patch16_224",
            {"weights": "random", "input_size": 100},
            "16 pixels wide, of which 100 is no multiple: .* 96 or 112",
        ),
        ("test_resnet@0", {"weights": "random"}, "an input size is 1 pixel or more, not 0"),
        ("test_resnet@1", {"weights": "nowhere.pth"}, r"there are no weights nowhere\.pth"),
        ("test_resnet", {"weights": "random", "crop": 3}, "unexpected keyword argument 'crop'"),
    ],
)
def test_what_timm_has_not_or_cannot_do_is_one_sentence(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SSLDError, match=message) as error:
        load_backbone(f"timm:{name}", **options)
    assert len(str(error.value).splitlines()) == 1


def test_a_network_is_found_without_its_prefix() -> None:
    name = "vit_small_patch14_dinov2.lvd142m"
    with pytest.raises(SSLDError, match=rf"{name} is a network of timm: timm:{name}"):
        load_backbone(name)


def test_files_of_other_networks_are_refused(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "resnet.safetensors")
    for other in (PATCHES, "test_efficientnet"):
        with pytest.raises(CheckpointError, match=f"has no weights of timm:{other}(: [0-9]+ missing, | .size mismatch)"):
            TimmBackbone(other, tmp_path / "resnet.safetensors")


def test_a_network_that_returns_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(
        SSLDError, match=r"timm:test_resnet returns maps of shape \(1, 4, [0-9]+, [0-9]+\), not one vector an image"
    ):
        load_backbone("timm:test_resnet", weights="random")


def test_small_images_are_enlarged() -> None:
    z = load_backbone(f"timm:{PATCHES}", weights="random").embed("ab", np.zeros((2, 1, 5, 5), dtype=np.uint8))
    assert np.isfinite(z).all()
