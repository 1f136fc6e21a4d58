"""Keys of pretrained denoisers: what they depend on, and that they stay as they were."""

import pytest

from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.denoiser_cache import denoiser_key
from ssl_diffusion.training.settings import PhaseSettings

MODEL = ModelSettings(channels=8, attention=(1,))
CONFIG = JointConfig(model=MODEL, n_classes=3, image_shape=(3, 8, 8), sigma_data=0.5)
SETTINGS = PhaseSettings(steps=7)


def test_a_key_of_an_older_version_is_still_found() -> None:
    assert denoiser_key("pool", CONFIG, SETTINGS, True) == "66b6ed4e17ff49605a140770"


HEAD = {"pool_maps": "blocks", "pool_grids": (1, 2), "read_sigma": 0.5, "head_width": 0, "head_dropout": 0.5}
DENOISER = {
    "channels": 16,
    "multipliers": (1, 2, 2),
    "blocks": 3,
    "decoder_blocks": 1,
    "attention": (0,),
    "heads": 2,
    "groups": 4,
    "dropout": 0.1,
    "stem": 2,
    "parameterisation": "ddpm",
    "p_mean": 0.0,
    "p_std": 1.0,
    "ddpm_steps": 100,
}


def test_every_setting_of_a_model_is_here() -> None:
    assert set(HEAD) | set(DENOISER) == set(ModelSettings.model_fields)


@pytest.mark.parametrize("name", [*HEAD, *DENOISER])
def test_a_key_depends_on_the_denoiser_and_not_on_the_head(name: str) -> None:
    changed = CONFIG.replace(model=MODEL.replace(**{name: (HEAD | DENOISER)[name]}))
    same = denoiser_key("pool", changed, SETTINGS, True) == denoiser_key("pool", CONFIG, SETTINGS, True)
    assert same == (name in HEAD)


def test_a_key_depends_on_the_images_and_the_phase() -> None:
    keys = {
        denoiser_key("pool", CONFIG, SETTINGS, True),
        denoiser_key("other", CONFIG, SETTINGS, True),
        denoiser_key("pool", CONFIG.replace(sigma_data=0.6), SETTINGS, True),
        denoiser_key("pool", CONFIG.replace(image_shape=(3, 8, 9)), SETTINGS, True),
        denoiser_key("pool", CONFIG, SETTINGS.replace(seed=1), True),
        denoiser_key("pool", CONFIG, SETTINGS, False),
    }
    assert len(keys) == 6
    without_head = CONFIG.replace(n_classes=0, head_noise=1.0)
    assert denoiser_key("pool", without_head, SETTINGS, True) in keys
