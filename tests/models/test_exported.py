"""Programs of torch.export as backbones: batches of any and of one size, and programs that are none of images to vectors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from ssl_diffusion.errors import CheckpointError, SSLDError
from ssl_diffusion.models import Backbone, ExportedBackbone, load_backbone
from ssl_diffusion.testing import BackboneContract

ANY = Dim("batch", min=1, max=4096)


class Network(nn.Module):
    """Pooled features of two convolutions; `head` is what becomes of them."""

    def __init__(self, head: Callable[[Tensor], Any] = lambda z: z.mean((2, 3)), channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 6, 3)
            )
        self.head = head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layers(x))


class Normalised(Network):
    """Statistics of the batch, if it is exported in training mode."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.layers[:3](x))


def write(
    path: Path,
    network: nn.Module | None = None,
    shape: tuple[int, ...] = (2, 3, 16, 16),
    dynamic: Any = None,
    train: bool = False,
) -> Path:
    program = torch.export.export((network or Network()).train(train), (torch.zeros(shape),), dynamic_shapes=dynamic)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("programs") / "any.pt2", dynamic=({0: ANY},))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("programs") / "two.pt2")


class TestAnyBatch(BackboneContract):
    @pytest.fixture(autouse=True)
    def _program(self, dynamic: Path) -> None:
        self.program = dynamic

    def make_backbone(self) -> Backbone:
        return load_backbone(f"exported:{self.program}")


class TestBatchesOfTwo(BackboneContract):
    @pytest.fixture(autouse=True)
    def _program(self, fixed: Path) -> None:
        self.program = fixed

    def make_backbone(self) -> Backbone:
        return load_backbone(str(self.program))


def test_features_are_those_of_the_network_whatever_the_batch(dynamic: Path, fixed: Path) -> None:
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = Network().eval()((x + 1) / 2)
    for path in (dynamic, fixed):
        backbone = ExportedBackbone(path)
        assert (backbone.n_features, backbone.input_size, backbone.differentiable) == (6, 16, True)
        torch.testing.assert_close(backbone(x), z)
    scaled = ExportedBackbone(dynamic, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.2, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(scaled(x), Network().eval()(((x + 1) / 2 - mean) / std))
    assert len({ExportedBackbone(dynamic).identity, ExportedBackbone(fixed).identity, scaled.identity}) == 3


def test_a_program_for_any_size_reads_images_at_that_of_its_example_or_at_another(tmp_path: Path) -> None:
    side = Dim("side", min=10, max=64)
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = write(tmp_path / "sizes.pt2", network, (2, 3, 24, 24), [{0: ANY, 2: side, 3: side}])
    assert ExportedBackbone(path).input_size == 24
    assert ExportedBackbone(path, input_size=40).embed(["a"], np.zeros((1, 3, 9, 9), np.uint8)).shape == (1, 6)
    with pytest.raises(SSLDError, match=r"cannot read images of shape \(2, 3, 100, 100\)"):
        ExportedBackbone(path, input_size=100)


def test_gradients_are_not_promised_where_there_are_none(tmp_path: Path) -> None:
    assert not ExportedBackbone(write(tmp_path / "cut.pt2", Network(lambda z: z.detach().mean((2, 3))))).differentiable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"network": Network(lambda z: z)},
            r"returns torch.float32 of shape \(2, 6, 5, 5\) for 2 images, and so maps: pool them",
        ),
        (
            {"network": Network(lambda z: (z.mean((2, 3)), z))},
            "returns a tuple of 2, not one tensor: export one that takes images",
        ),
        ({"network": Network(lambda z: {"z": z.mean((2, 3))})}, "returns a dict of 1, not one tensor"),
        ({"network": Network(lambda z: z.mean((0, 2, 3)))}, r"of shape \(6,\) for 2 images"),
        ({"network": Network(lambda z: z.mean((2, 3)).argmax(1, keepdim=True))}, r"returns torch.int64 of shape \(2, 1\)"),
        ({"network": Network(channels=4), "shape": (2, 4, 16, 16)}, "takes images of 4 channels, not of 1 or 3"),
        ({"shape": (2, 3, 16, 12)}, "takes images of 16 x 12 pixels"),
        ({"network": nn.Linear(5, 6), "shape": (2, 5)}, r"takes \(torch.float32 \(2, 5\)\), not images"),
        ({"train": True, "network": Normalised()}, r"beside other images: export the network after model.eval\(\)"),
        ({"train": True, "network": Normalised(), "shape": (1, 3, 16, 16)}, "returns other features of an image the next time"),
        (
            {"train": True, "network": nn.Sequential(nn.Flatten(), nn.Dropout(0.5))},
            "returns other features of an image the next",
        ),
    ],
    ids=["maps", "tuple", "dict", "one vector", "classes", "channels", "oblong", "vectors", "training", "alone", "dropout"],
)
def test_programs_that_are_none_of_images_to_vectors_are_refused(arguments: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.pt2", **arguments)
    with pytest.raises(SSLDError, match=message) as error:
        load_backbone(str(path))
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_other_files_and_options_are_refused(dynamic: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no program nowhere\.pt2"):
        load_backbone("nowhere.pt2")
    (tmp_path / "text.pt2").write_text("no program")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt2")
    for name in ("text.pt2", "weights.pt2"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read by torch .*: write it with torch.export.save"):
            load_backbone(str(tmp_path / name))
    for options, message in (
        ({"input_size": 32}, "takes images of 16 pixels, not of 32: leave out input_size"),
        ({"mean": (0.5, 0.5)}, "mean has 2 values, and .* reads images of 3 channels"),
        ({"std": (1, 0, 1)}, "std holds 0: standard deviations are above 0"),
        ({"size": 3}, "unexpected keyword argument 'size'"),
    ):
        with pytest.raises(SSLDError, match=message):
            load_backbone(f"exported:{dynamic}", **options)
