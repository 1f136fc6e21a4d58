"""Runs with either parameterisation of the noise, from the fit to what they are opened for."""

from pathlib import Path

import numpy as np
import pytest

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.generation import sample_run
from ssl_diffusion.inference import load_run
from ssl_diffusion.models.build import build_model, weights_fault
from ssl_diffusion.training import fit_run
from ssl_diffusion.training.phases import joint_config
from ssl_diffusion.training.recipe import Recipe, load_recipe


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_ddpm_is_opened_predicts_and_draws(tiny_recipe: Recipe, digits_pool: Pool, tmp_path: Path) -> None:
    changes = ["model.parameterisation=ddpm", "model.ddpm_steps=50", "labels.budget=20"]
    run = load_run(fit_run(tiny_recipe.with_overrides(changes), tmp_path / "run", pool=digits_pool), "cpu", "fp32")
    assert run.model.config.model.parameterisation == "ddpm"
    assert np.isfinite(run.logits(digits_pool.images[:3])).all()
    assert sample_run(run, 2, steps=3).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["digits", "images", "fashion-mnist", "cifar10-thorough", "paper-fashion-mnist"])
def test_weights_of_a_shipped_recipe_fit_its_own_network(name: str, digits_pool: Pool) -> None:
    narrow = load_recipe(name).with_overrides(["model.channels=8", "model.groups=4"])
    config = joint_config(narrow, digits_pool)
    assert weights_fault(config, build_model(config, seed=0).state_dict()) == ""
