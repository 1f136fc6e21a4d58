"""Studies whose probes read a backbone beside the denoiser."""

from pathlib import Path

import numpy as np
import pytest
from support.backbones import Quadrants
from support.commands import ok, refused

from ssl_diffusion.acquisition import query
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.studies import StudyFolder, StudySettings
from ssl_diffusion.training.recipe import load_recipe

DESIGN = ("study", "--dataset", "digits", "--strategies", "random,margin", "--budgets", "20,60", "--seeds", 1)


def test_probes_and_strategies_read_both(tmp_path: Path, tiny: list[str], digits_pool: Pool) -> None:
    before = Quadrants.read
    ok(*DESIGN, "--backbone", "quadrants", "--out", tmp_path / "study", *tiny)
    assert Quadrants.read == before + len(digits_pool)
    study = StudyFolder(tmp_path / "study")
    assert study.settings().recipe.backbone.name == "quadrants"
    rounds, _, missing = study.results()
    assert not missing
    assert rounds["accuracy"].max() > 0.5


def test_features_of_ones_own_are_enough_where_they_say_it_all(tmp_path: Path, tiny: list[str], digits_pool: Pool) -> None:
    features = np.eye(10, dtype=np.float32)[digits_pool.labels]
    np.savez(tmp_path / "f.npz", ids=digits_pool.ids, features=features)
    ok(*DESIGN, "--features", tmp_path / "f.npz", "--out", tmp_path / "study", *tiny)
    rounds, _, _ = StudyFolder(tmp_path / "study").results()
    assert rounds.query("n_labeled == 60")["accuracy"].min() > 0.95
    np.savez(tmp_path / "f.npz", ids=digits_pool.ids[1:], features=features[1:])
    message = refused(*DESIGN, "--features", tmp_path / "f.npz", "--out", tmp_path / "other", *tiny)
    assert "has no features of 1 of" in message


def test_auto_leaves_its_start_sooner_beside_a_backbone(tmp_path: Path, tiny: list[str], digits_pool: Pool) -> None:
    probe = ("--objective", "probe", "--backbone", "quadrants")
    ok("fit", "--dataset", "digits", "--labeled", 10, *probe, "--out", tmp_path / "run", *tiny)
    run = load_run(tmp_path / "run", "cpu", "fp32")
    chosen = query(run, digits_pool, 5)
    assert chosen.strategy == "bait"
    assert "beside a backbone" in chosen.reason
    assert strategy_for("auto", 9, 10, run.model)[0].name == "typiclust"
    assert strategy_for("auto:balanced", 10, 10, run.model)[0].name == "bait:balanced"
    several = [strategy_for("auto", n, 10, run.model, independent=True)[0].name for n in (19, 20)]
    assert several == ["typiclust", "uherding"]  # bait reasons about the one class of an image


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backbone", "quadrants", "--features", "f.npz"), "give either --backbone or --features, not both"),
        (("--backbone", "quadrant"), "did you mean quadrants"),
    ],
    ids=["two", "unknown"],
)
def test_a_wrong_backbone_is_one_sentence(options: tuple[str, ...], message: str, tmp_path: Path, tiny: list[str]) -> None:
    assert message in refused(*DESIGN, *options, "--out", tmp_path / "study", *tiny)


def test_refits_that_train_refuse_a_backbone() -> None:
    recipe = load_recipe("digits").with_setting("backbone.name", "efficientnet-lite0")
    with pytest.raises(RecipeError, match="'scratch' trains its own head, which reads no backbone yet"):
        StudySettings(recipe=recipe, refits=("probe", "scratch"))
    assert StudySettings(recipe=recipe, refits=("probe",)).recipe.backbone.name == "efficientnet-lite0"
