"""Jobs and studies say where a backbone is not read, before anything begins."""

import pytest

from ssl_diffusion.annotation.loop.settings import JobSettings
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.studies.settings import StudySettings


def test_a_job_refuses_a_backbone() -> None:
    with pytest.raises(RecipeError, match="the models of a job do not read a backbone yet"):
        JobSettings.from_dict({"backbone": {"name": "efficientnet-lite0"}})


def test_a_study_of_trained_models_refuses_a_backbone() -> None:
    values = {"study": {"refits": ["probe", "scratch"]}, "backbone": {"name": "efficientnet-lite0"}}
    with pytest.raises(RecipeError, match="'scratch' trains its own head, which reads no backbone yet"):
        StudySettings.from_dict(values)
    assert StudySettings.from_dict(values | {"study": {"refits": ["probe"]}}).recipe.backbone.name == "efficientnet-lite0"
