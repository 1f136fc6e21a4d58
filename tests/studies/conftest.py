"""A study whose accuracies are made up, written once and copied for every test."""

import shutil
from pathlib import Path

import pytest
from support.made_up_studies import made_up_study

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.studies import StudyFolder
from ssl_diffusion.training.recipe import Recipe


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe, digits_pool: Pool) -> StudyFolder:
    """The study; not to be changed."""
    return made_up_study(tiny_recipe, tmp_path_factory.mktemp("made-up") / "study", digits_pool)


@pytest.fixture
def study(made_up: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy of this test's own."""
    return StudyFolder(Path(shutil.copytree(made_up.path, tmp_path / "study")))
