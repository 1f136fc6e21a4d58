"""Where the decision between two classes lies, and counterfactuals that stay there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import CPU, ok

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation.attribution import attributed_regions
from ssl_diffusion.generation.counterfactual.search import explain_run
from ssl_diffusion.generation.pair_search import Explained, searched
from ssl_diffusion.inference import load_run
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings

IDS = ["test/00003", "test/00012", "test/00020"]


class _Corner(JointDiffusion):
    """Two classes: the mean of the upper left quarter decides, and nothing else."""

    def __init__(self) -> None:
        super().__init__(JointConfig(model=ModelSettings(channels=16, multipliers=[1]), n_classes=2, image_shape=(1, 28, 28)))

    def classify(self, x: torch.Tensor, sigma: torch.Tensor | float = 0.0) -> torch.Tensor:
        corner = x[:, :, :14, :14].mean(dim=(1, 2, 3))
        return torch.stack([-corner, corner], dim=1)


def test_the_region_is_where_the_classifier_looks() -> None:
    images = np.random.default_rng(0).integers(0, 100, (3, 1, 28, 28), dtype=np.uint8)
    region = attributed_regions(_Corner(), images, np.array([1, 1, 1]), part=0.9)
    assert region.shape == (3, 28, 28)
    assert set(np.unique(region)) == {0.0, 1.0}
    assert region[:, :12, :12].all()
    assert not region[:, 16:].any()
    assert not region[:, :, 16:].any()


def test_a_region_grows_with_its_part_up_to_the_whole_image(tiny_run: Path, digits_pool: Pool) -> None:
    run, images = load_run(tiny_run, "cpu", "fp32"), digits_pool.images[digits_pool.test[:5]]
    targets = (run.predict_proba(images).argmax(axis=1) + 1) % 10
    small, large, whole = (attributed_regions(run.model, images, targets, part=part) for part in (0.3, 0.7, 1.0))
    assert (small <= large).all()
    assert (small.sum(axis=(1, 2)) < large.sum(axis=(1, 2))).all()
    assert whole.all()
    alone = attributed_regions(run.model, images[2:3], targets[2:3], part=0.7)
    np.testing.assert_array_equal(alone, large[2:3])  # whatever is beside it in the batch


def test_what_the_region_does_not_reach_is_searched_everywhere(tiny_run: Path, digits_pool: Pool) -> None:
    run, rows = load_run(tiny_run, "cpu", "fp32"), digits_pool.test[:12]
    images = digits_pool.images[rows]
    some = Explained(images, None, [None] * len(images), None)
    boundary, sure = searched(run, some, "runner-up", {"confidence": 0.9}, attributed=True)
    everywhere = explain_run(run, images, "runner-up", confidence=0.9)
    np.testing.assert_array_equal(sure.target, everywhere.target)
    assert (sure.success >= everywhere.success).all()
    assert (boundary.success >= sure.success).all()
    region = attributed_regions(run.model, images, sure.target)
    outside = np.array([((x != y).any(axis=0) & (m == 0)).any() for x, y, m in zip(sure.images(), images, region, strict=True)])
    assert not outside.all()
    inside = explain_run(run, images, sure.target, region=region, confidence=0.9)
    assert (outside <= ~inside.success).all()
    np.testing.assert_array_equal(sure.images()[inside.success], inside.images()[inside.success])


def test_the_boundary_alone_can_stay_in_the_region(tiny_run: Path, digits_pool: Pool) -> None:
    run, images = load_run(tiny_run, "cpu", "fp32"), digits_pool.images[digits_pool.test[:4]]
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, :5] = True
    some = Explained(images, None, [None] * 4, [mask] * 4)
    boundary, sure = searched(run, some, "runner-up", {"confidence": 0.0}, attributed=True)
    assert sure.success.any()
    np.testing.assert_array_equal(boundary.images(), sure.images())
    assert not (sure.images() != images)[sure.success][..., 5:].any()


@pytest.mark.parametrize("target", ["nearest", "all"])
def test_auto_is_a_region_of_the_command(tiny_run: Path, tmp_path: Path, target: str) -> None:
    words = [word for id_ in IDS for word in ("--id", id_)] + (["--all-targets"] if target == "all" else ["--target", target])
    ok("explain", tiny_run, *words, "--region", "auto", "--out", tmp_path / "out", "--quiet", *CPU)
    frame = pd.read_csv(tmp_path / "out" / "counterfactuals.csv", keep_default_na=False)
    assert len(frame) == len(IDS) * (9 if target == "all" else 1)
    assert frame["boundary_success"].all()
