"""Studies whose probes read a backbone beside the denoiser."""

from pathlib import Path

import numpy as np
import pytest
from support.backbones import Quadrants
from support.commands import ok, refused

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError
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
