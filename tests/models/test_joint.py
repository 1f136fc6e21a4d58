"""The joint model: official sizes, any image, and a classifier that runs the encoder only."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.published.catalog import DATASETS
from ssl_diffusion.errors import RecipeError
from ssl_diffusion.models.build import count_parameters
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.training.phases import joint_config
from ssl_diffusion.training.recipe import load_recipe, recipe_names

SMALL = JointConfig(model=ModelSettings(channels=8, multipliers=(1, 2), blocks=1, groups=4), n_classes=3, image_shape=(1, 8, 8))

# The official configurations and what they count: millions of parameters in all and in the head, features.
# Its BatchNorms and its input for the raw time step, which are not here, disappear in the rounding.
OFFICIAL = {
    "28 px": (1, ModelSettings(channels=64, multipliers=(1, 2, 2), blocks=3, attention=(0,)), 9.7, 0.9, 1344),
    "32 px": (3, ModelSettings(channels=128, multipliers=(1, 2, 2, 2), blocks=3, attention=(1, 2)), 59.5, 6.9, 3712),
    "64 px": (3, ModelSettings(channels=128, multipliers=(1, 2, 3, 4), blocks=3, attention=(2, 3)), 134.9, 13.8, 5248),
}
PAPER = [name for name in recipe_names() if name.startswith("paper-")]


def varied(config: JointConfig = SMALL, **changes: object) -> JointConfig:
    """A configuration with other settings of the model."""
    return config.replace(model=config.model.replace(**changes))


def build(config: JointConfig, seed: int = 0) -> JointDiffusion:
    """A small model in which no weight is zero."""
    torch.manual_seed(seed)
    model = JointDiffusion(config)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return model.eval()


def millions(module: nn.Module) -> float:
    return round(count_parameters(module) / 1e6, 1)


@pytest.mark.parametrize("which", OFFICIAL)
def test_official_configurations_count_as_published(which: str) -> None:
    channels, settings_, total, head, features = OFFICIAL[which]
    config = JointConfig(model=settings_.replace(pool_maps="blocks"), n_classes=10, image_shape=(channels, 32, 32))
    with torch.device("meta"):
        model = JointDiffusion(config)
    assert model.head is not None
    assert model.n_features == features
    assert (millions(model), millions(model.head)) == (total, head)


def test_there_are_four_paper_recipes() -> None:
    assert len(PAPER) == 4


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipes_describe_the_official_configurations(name: str) -> None:
    recipe = load_recipe(name)
    info = DATASETS[recipe.data.dataset]
    shape = (info.channels, info.size, info.size)
    pool = Pool(name, np.zeros((1, *shape), np.uint8), np.array(["a"]), np.zeros(1, np.int64), info.classes, np.zeros(1, bool))
    config = joint_config(recipe, pool)
    _, official, _, _, features = OFFICIAL[f"{info.size} px"]
    for name in ("channels", "multipliers", "blocks", "attention", "heads", "groups", "stem"):
        assert getattr(config.model, name) == getattr(official, name)
    assert config.model.decoder_blocks in (0, official.blocks + 1)
    assert (config.model.dropout, config.model.head_dropout) == (0.3, 0.7)
    assert config.model.parameterisation == "ddpm"
    assert config.model.ddpm_steps == (500 if info.size == 28 else 1000)
    with torch.device("meta"):
        assert JointDiffusion(varied(config, parameterisation="edm")).n_features == features
    assert (recipe.training.classification_weight, recipe.training.learning_rate) == (0.001, 1e-4)
    assert recipe.training.objective == "joint"


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    channels=st.integers(1, 4),
    stem=st.sampled_from([1, 2]),
    parameterisation=st.sampled_from(["edm", "ddpm"]),
)
def test_any_image_size_and_one_to_four_channels(
    size: tuple[int, int], channels: int, stem: int, parameterisation: str
) -> None:
    config = varied(stem=stem, parameterisation=parameterisation, pool_grids=(1, 2))
    model = build(config.replace(image_shape=(channels, *size)))
    x = torch.rand(2, channels, *size) * 2 - 1
    with torch.inference_mode():
        assert model.denoise(x, 0.5).shape == x.shape
        assert model.classify(x).shape == (2, 3)
        assert model.representation(x).shape == (2, model.n_features)
        assert torch.isfinite(model.denoise(x, 0.5)).all()
        assert torch.isfinite(model.representation(x)).all()


def test_five_channels_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"image_shape must be in \[1, 4\], not 5"):
        SMALL.replace(image_shape=(5, 8, 8))


def test_padding_repeats_the_border_and_is_cropped_away() -> None:
    """An odd image denoises like the even one with its last row and column repeated."""
    model = build(SMALL)
    x = torch.randn(1, 1, 7, 5)
    even = torch.cat([x, x[:, :, -1:]], dim=2)
    even = torch.cat([even, even[..., -1:]], dim=3)
    with torch.inference_mode():
        torch.testing.assert_close(model.denoise(x, 0.4), model.denoise(even, 0.4)[..., :7, :5])
        torch.testing.assert_close(model.classify(x), model.classify(even))


def test_classify_and_representation_never_run_the_decoder() -> None:
    model = build(SMALL)

    def forbidden(*_: object) -> None:
        raise AssertionError("the decoder ran")

    for part in model.unet.decoder_modules():
        for module in part.modules():
            if not list(module.children()):
                module.register_forward_pre_hook(forbidden)
    x = torch.randn(2, 1, 8, 8)
    assert model.classify(x).shape == (2, 3)
    assert model.representation(x, 0.2).shape == (2, model.n_features)
    with pytest.raises(AssertionError, match="the decoder ran"):
        model.denoise(x, 0.2)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_fresh_edm_denoiser_returns_skip_times_input(sigma: float) -> None:
    torch.manual_seed(0)
    model = JointDiffusion(SMALL.replace(sigma_data=0.6))
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model.denoise(x, sigma), 0.36 / (sigma**2 + 0.36) * x)
    assert torch.equal(model(x, sigma), model.denoise(x, sigma))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), sigma=st.floats(0.01, 10))
def test_denoise_is_the_preconditioned_raw_output(seed: int, sigma: float) -> None:
    model = build(SMALL, seed)
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        raw = model.raw_output(model.encode(x, sigma), x.shape)
        norm = sigma**2 + 0.25
        torch.testing.assert_close(
            model.denoise(x, sigma), 0.25 / norm * x + sigma * 0.5 / math.sqrt(norm) * raw, rtol=1e-4, atol=1e-5
        )


def test_levels_may_differ_within_a_batch() -> None:
    model = build(SMALL)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 5.0])
    with torch.inference_mode():
        together = model.denoise(x, sigma)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], model.denoise(x[i : i + 1], sigma[i].item()), rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), train=st.booleans())
def test_representation_is_independent_of_the_other_images(seed: int, train: bool) -> None:
    model = build(SMALL, seed).train(train)
    x = torch.randn(4, 1, 8, 8)
    others = x.clone()
    others[1:] = 100 * torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(model.representation(x)[:1], model.representation(others)[:1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.classify(x)[:1], model.classify(x[:1]), rtol=1e-4, atol=1e-5)


def test_no_batch_normalisation_and_no_running_state() -> None:
    model = build(SMALL)
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not list(model.buffers())


@pytest.mark.parametrize(("grids", "cells"), [((1,), 1), ((1, 2), 5), ((3,), 9), ((2, 1, 3), 14)])
@pytest.mark.parametrize(("maps", "channels"), [("levels", 8 + 16 + 16), ("blocks", 8 + 8 + 8 + 16 + 16)])
def test_representation_pools_every_map_to_every_grid(grids: tuple[int, ...], cells: int, maps: str, channels: int) -> None:
    model = build(varied(pool_grids=grids, pool_maps=maps))
    assert model.n_features == cells * channels
    assert model.representation(torch.randn(2, 1, 8, 8)).shape == (2, model.n_features)


@pytest.mark.parametrize("maps", ["levels", "blocks"])
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5)])
@pytest.mark.parametrize("grids", [(1, 2), (3, 1), (2, 3)])
def test_representation_against_its_formula(maps: str, size: tuple[int, int], grids: tuple[int, ...]) -> None:
    """Each map normalised group by group, through SiLU, and averaged over the cells of each grid."""
    model = build(varied(pool_grids=grids, pool_maps=maps).replace(image_shape=(1, *size)))
    x = torch.randn(2, 1, *size)
    with torch.inference_mode():
        features = model.encode(x, 0.3)
        chosen = features.maps if maps == "blocks" else [level[-1] for level in features.levels] + [features.middle]
        parts = []
        for m in chosen:
            grouped = m.unflatten(1, (4, -1))
            mean = grouped.mean(dim=(2, 3, 4), keepdim=True)
            variance = grouped.var(dim=(2, 3, 4), keepdim=True, correction=0)
            h = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
            h, cells = h * h.sigmoid(), []
            for g in grids:
                rows, columns = ([(n * i // g, -(-n * (i + 1) // g)) for i in range(g)] for n in h.shape[-2:])
                cells += [h[..., top:bottom, left:right].mean(dim=(2, 3)) for top, bottom in rows for left, right in columns]
            parts.append(torch.stack(cells, dim=2).flatten(1))
        torch.testing.assert_close(model.representation(x, 0.3), torch.cat(parts, dim=1), rtol=1e-4, atol=1e-5)


def test_large_images_are_pooled_without_a_matrix_of_pixels_by_pixels() -> None:
    """256 x 320 pixels squared would be 25 GiB."""
    model = build(varied(channels=4, groups=2, pool_grids=(1, 2)))
    with torch.inference_mode():
        assert torch.isfinite(model.representation(torch.rand(1, 1, 256, 320))).all()


def test_images_are_read_at_a_nominal_level_unless_they_are_noisier() -> None:
    nominal, plain = build(varied(read_sigma=0.6)), build(SMALL)
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        for sigma, read in ((0.0, 0.6), (0.3, 0.6), (0.6, 0.6), (2.0, 2.0)):
            torch.testing.assert_close(nominal.representation(x, sigma), plain.representation(x, read))
            torch.testing.assert_close(nominal.classify(x, sigma), plain.classify(x, read))
        each = torch.tensor([0.1, 2.0])
        torch.testing.assert_close(nominal.representation(x, each), plain.representation(x, torch.tensor([0.6, 2.0])))
        torch.testing.assert_close(nominal.denoise(x, 0.1), plain.denoise(x, 0.1))  # denoising knows the true level
        assert not torch.allclose(plain.representation(x, 0.0), plain.representation(x, 0.6))


def test_head_forms() -> None:
    linear, narrow, half = (build(varied(head_width=w)) for w in (0, 5, -1))
    assert [m.out_features for m in linear.head.modules() if isinstance(m, nn.Linear)] == [3]
    assert [m.out_features for m in narrow.head.modules() if isinstance(m, nn.Linear)] == [5, 3]
    assert [m.out_features for m in half.head.modules() if isinstance(m, nn.Linear)] == [half.n_features // 2, 3]


def test_denoiser_without_head_says_so() -> None:
    model = build(SMALL.replace(n_classes=0))
    assert model.parameter_groups()["head"] == []
    with pytest.raises(ValueError, match="trained without labels"):
        model.classify(torch.zeros(1, 1, 8, 8))


def test_parameter_groups_are_a_partition() -> None:
    model = build(SMALL)
    groups = [id(p) for group in model.parameter_groups().values() for p in group]
    assert sorted(groups) == sorted(id(p) for p in model.parameters())


@settings(max_examples=25, deadline=None)
@given(
    multipliers=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    grids=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    decoder_blocks=st.sampled_from([0, 1, 2]),
    head_width=st.sampled_from([-1, 0, 7]),
    sigma_data=st.floats(0.01, 2),
)
def test_configuration_survives_json(
    multipliers: tuple[int, ...], grids: tuple[int, ...], decoder_blocks: int, head_width: int, sigma_data: float
) -> None:
    model = ModelSettings(
        multipliers=multipliers,
        decoder_blocks=decoder_blocks,
        attention=(len(multipliers) - 1,),
        parameterisation="ddpm",
        pool_grids=grids,
        head_width=head_width,
    )
    config = JointConfig(model=model, n_classes=7, image_shape=(3, 5, 9), sigma_data=sigma_data)
    again = JointConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_headers_of_older_model_files_are_read() -> None:
    unet = {"in_channels": 3, "channels": 8, "multipliers": [1, 2], "blocks": 1, "decoder_blocks": None, "attention": []}
    older = {
        "unet": unet | {"heads": 4, "groups": 4, "dropout": 0.25, "stem": 2},
        "n_classes": 7,
        "image_shape": [3, 5, 9],
        "parameterisation": "ddpm",
        "sigma_data": 0.4,
        "p_mean": -1.0,
        "p_std": 1.1,
        "ddpm_steps": 500,
        "pool_maps": "blocks",
        "pool_grids": [1, 2],
        "read_sigma": 0.2,
        "head_noise": 0.3,
        "head_width": None,
        "head_dropout": 0.5,
    }
    model = ModelSettings(
        channels=8,
        blocks=1,
        groups=4,
        dropout=0.25,
        stem=2,
        parameterisation="ddpm",
        p_mean=-1.0,
        p_std=1.1,
        ddpm_steps=500,
        pool_maps="blocks",
        pool_grids=(1, 2),
        read_sigma=0.2,
        head_dropout=0.5,
    )
    expected = JointConfig(model=model, n_classes=7, image_shape=(3, 5, 9), sigma_data=0.4, head_noise=0.3)
    assert JointConfig.from_dict(older) == expected
    lighter = JointConfig.from_dict(older | {"unet": unet | {"decoder_blocks": 1}, "head_width": 0}).model
    assert (lighter.decoder_blocks, lighter.head_width) == (1, 0)


@pytest.mark.parametrize("values", [None, 3, {"unet": 3}, {"unet": {"channels": "many"}}, {"model": {"blocks": 0}}])
def test_headers_that_describe_no_model_are_refused(values: object) -> None:
    with pytest.raises(RecipeError):
        JointConfig.from_dict(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [-1, 0])
def test_another_head_leaves_the_model_alone_and_shares_all_other_parameters(width: int) -> None:
    model = build(varied(head_width=width))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, rng = torch.randn(5, 1, 8, 8), np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, model.n_features)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    state = torch.random.get_rng_state()
    other = model.with_linear_head(weight, bias)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.inference_mode():
        np.testing.assert_allclose(other.classify(x), model.representation(x).numpy() @ weight.T + bias, atol=1e-5)
        assert model.classify(x).shape == (5, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {id(p) for p in other.unet.parameters()} == {id(p) for p in model.unet.parameters()}
    assert other.config == varied(model.config, head_width=0).replace(n_classes=4)
    again = JointDiffusion(other.config)
    again.load_state_dict(other.state_dict())


def test_a_denoiser_without_a_head_can_be_given_one() -> None:
    model = build(SMALL.replace(n_classes=0))
    other = model.with_linear_head(np.zeros((2, model.n_features), np.float32), np.array([1.0, 2.0], np.float32))
    assert model.head is None
    assert other.classify(torch.zeros(1, 1, 8, 8)).tolist() == [[1.0, 2.0]]
