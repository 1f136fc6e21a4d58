"""Names of backbones: one home each, plug-ins that are found when they are needed, and broken ones that break nothing."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backbones import Mean
from support.plugins import install

from ssl_diffusion.errors import SSLDError
from ssl_diffusion.machine import load_plugins
from ssl_diffusion.models import (
    PrecomputedBackbone,
    backbone_names,
    load_backbone,
    register_backbone,
)
from ssl_diffusion.models.backbones.registry import BACKBONES


@pytest.fixture
def names() -> Iterator[None]:
    """What a test registers and loads is forgotten after it."""
    before = dict(BACKBONES)
    for name in ("quadrants", "slow"):  # of other tests, where they are imported
        BACKBONES.pop(name, None)
    load_plugins.cache_clear()
    yield
    BACKBONES.clear()
    BACKBONES.update(before)
    load_plugins.cache_clear()


@pytest.mark.usefixtures("names")
def test_backbones_have_names() -> None:
    before = set(BACKBONES)
    assert before == {"efficientnet-lite0", "exported", "precomputed", "timm", "torchvision"}
    assert register_backbone("mean")(Mean) is Mean
    register_backbone("mean")(Mean)
    assert backbone_names() == sorted(["mean", *before])
    assert isinstance(load_backbone("mean"), Mean)
    with pytest.raises(SSLDError, match=r"'torchvision' is taken by ssl_diffusion\.models\.backbones\.torchvision"):
        register_backbone("torchvision")(Mean)
    with pytest.raises(SSLDError, match="no backbone 'torchvison'; did you mean torchvision"):
        load_backbone("torchvison:resnet18")
    with pytest.raises(SSLDError, match=r"'precomputed' cannot be made: missing a required argument: 'path'"):
        load_backbone("precomputed")
    with pytest.raises(SSLDError, match="unexpected keyword argument 'weigths'"):
        load_backbone("torchvision:resnet18", weigths="x")
    for name in ("auto", "none", "a:b", "a@b", "a.pt2", "", "two words"):
        with pytest.raises(SSLDError, match="cannot be called"):
            register_backbone(name)


PLUGIN = """
from ssl_diffusion.models import Backbone, register_backbone

@register_backbone("{name}")
class Sizes(Backbone):
    identity, n_features = "sizes", 1

    def features(self, x):
        return x.mean(dim=(1, 2, 3))[:, None]
"""


@pytest.mark.usefixtures("names")
def test_plugins_offer_backbones_and_broken_ones_break_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    group = "ssld.backbones"
    install(tmp_path, "sizes", group, {"sizes": "sizes_one"}, {"sizes_one": PLUGIN.format(name="sizes")})
    install(tmp_path, "poor-work", group, {"faulty": "faulty_three"}, {"faulty_three": "import no_such_module"})
    install(tmp_path, "greedy", group, {"precomputed": "greedy_one"}, {"greedy_one": PLUGIN.format(name="precomputed")})
    monkeypatch.syspath_prepend(tmp_path)
    assert "sizes_one" not in sys.modules
    before = set(BACKBONES)
    with caplog.at_level(logging.WARNING):
        assert load_backbone("sizes").n_features == 1
    assert sorted(record.message.split(" offers")[0] for record in caplog.records) == ["greedy 1.0", "poor-work 1.0"]
    assert backbone_names() == sorted(["sizes", *before])
    assert BACKBONES["precomputed"] is PrecomputedBackbone
    with pytest.raises(SSLDError, match=r"no backbone 'faulty'; poor-work 1\.0 offers 'faulty' as faulty_three"):
        load_backbone("faulty")
