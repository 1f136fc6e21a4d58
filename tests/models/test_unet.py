"""The network: shapes, what runs when, and what a fresh one computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssl_diffusion.errors import RecipeError
from ssl_diffusion.models.blocks import Attention
from ssl_diffusion.models.settings import ModelSettings
from ssl_diffusion.models.unet import UNet, sinusoidal_embedding


def small(**changes: object) -> ModelSettings:
    return ModelSettings(**{"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, **changes})  # type: ignore[arg-type]


def randomized(config: ModelSettings, seed: int = 0, channels: int = 1) -> UNet:
    """A network whose zero-initialised convolutions are random too, so that everything takes part."""
    torch.manual_seed(seed)
    net = UNet(config, channels)
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return net.eval()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("stem", "size"), [(1, (8, 12)), (2, (12, 8)), (4, (16, 8))])
def test_output_has_the_shape_of_the_input(channels: int, stem: int, size: tuple[int, int]) -> None:
    net = randomized(small(stem=stem, attention=(1,)), channels=channels)
    x = torch.randn(2, channels, *size)
    assert net(x, torch.zeros(2)).shape == x.shape
    assert net.divisor == 2 * stem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_blocks": 3}, r"^decoder_blocks must be in \[0, 2\], not 3"),
        ({"decoder_blocks": -1}, "^decoder_blocks must be in"),
        ({"attention": (2,)}, "^attention names a level"),
        ({"attention": (-1,)}, "^attention must be in"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        small(**changes)


def test_maps_match_feature_channels_and_halve_level_by_level() -> None:
    net = randomized(small(multipliers=(1, 2, 3), blocks=2))
    features = net.encode(torch.randn(1, 1, 16, 24), torch.zeros(1))
    assert [m.shape[1] for m in features.maps] == net.feature_channels
    assert [tuple(m.shape[2:]) for m in features.maps] == 3 * [(16, 24)] + 3 * [(8, 12)] + 4 * [(4, 6)]


def test_stem_trades_pixels_for_channels() -> None:
    net = randomized(small(stem=2))
    seen: list[Tensor] = []
    net.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features = net.encode(torch.randn(1, 1, 16, 16), torch.zeros(1))
    assert seen[0].shape == (1, 4, 8, 8)
    assert features.levels[0][0].shape[2:] == (8, 8)


def test_lighter_decoder_has_fewer_parameters_and_the_same_encoder() -> None:
    full, light = UNet(small(blocks=3)), UNet(small(blocks=3, decoder_blocks=1))
    heavy, cheap = (sum(p.numel() for m in net.decoder_modules() for p in m.parameters()) for net in (full, light))
    assert 3 * cheap < heavy
    assert light.feature_channels == full.feature_channels
    encoder = [name for name in light.state_dict() if not name.startswith(("decoder", "up", "out"))]
    assert all(light.state_dict()[name].shape == full.state_dict()[name].shape for name in encoder)
    light.load_state_dict({name: t for name, t in full.state_dict().items() if name in encoder}, strict=False)
    light.eval(), full.eval()
    x, scalar = torch.randn(2, 1, 8, 8), torch.tensor([0.0, 1.0])
    for ours, theirs in zip(light.encode(x, scalar).maps, full.encode(x, scalar).maps, strict=True):
        assert torch.equal(ours, theirs)


def test_encode_and_decoder_modules_share_nothing() -> None:
    net = randomized(small(attention=(0, 1)))

    def forbidden(*_: object) -> None:
        raise AssertionError("the decoder ran")

    for part in net.decoder_modules():
        for module in part.modules():
            if not list(module.children()):
                module.register_forward_pre_hook(forbidden)
    x = torch.randn(1, 1, 8, 8)
    features = net.encode(x, torch.zeros(1))
    with pytest.raises(AssertionError, match="the decoder ran"):
        net.decode(features)


@settings(max_examples=15, deadline=None)
@given(first=st.integers(1, 4), seed=st.integers(0, 100))
def test_features_of_a_part_are_a_part_of_the_features(first: int, seed: int) -> None:
    net = randomized(small(attention=(1,)), seed)
    x, scalar = torch.randn(5, 1, 8, 8), torch.rand(5)
    with torch.inference_mode():
        parts = net.encode(x, scalar).split(first)
        for part, rows in zip(parts, (slice(None, first), slice(first, None)), strict=True):
            alone = net.encode(x[rows], scalar[rows])
            for ours, theirs in zip([*part.maps, part.embedding], [*alone.maps, alone.embedding], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(net.decode(part), net.decode(alone), rtol=1e-4, atol=1e-5)


def test_fresh_network_returns_zero_whatever_it_sees() -> None:
    torch.manual_seed(0)
    net = UNet(small(attention=(0, 1)))
    assert not net(torch.randn(3, 1, 8, 8), torch.randn(3)).any()


def test_fresh_residual_blocks_are_the_identity() -> None:
    torch.manual_seed(0)
    net = UNet(small(multipliers=(1, 1), blocks=2, attention=(0, 1)))
    levels = net.encode(torch.randn(2, 1, 8, 8), torch.zeros(2)).levels
    for maps in levels:
        for m in maps[1:]:
            assert torch.equal(m, maps[0])


def test_output_depends_on_the_scalar() -> None:
    net = randomized(small())
    x = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(net(x, torch.tensor([0.0])), net(x, torch.tensor([3.0])))


@pytest.mark.parametrize("levels", [(), (0,), (1,), (0, 1)])
def test_attention_stands_at_the_named_levels_and_in_the_middle(levels: tuple[int, ...]) -> None:
    net = UNet(small(attention=levels))

    def attends(module: nn.Module) -> bool:
        return any(isinstance(m, Attention) for m in module.modules())

    assert [attends(blocks) for blocks in net.encoder] == [level in levels for level in (0, 1)]
    assert [attends(blocks) for blocks in net.decoder] == [level in levels for level in (1, 0)]
    assert attends(net.middle)


@pytest.mark.parametrize("size", [(3, 5), (18, 16)], ids=["coarse map", "fine map"])
def test_attention_against_its_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = Attention(8, small(heads=2))
    nn.init.normal_(module.project.weight)
    x = torch.randn(2, 8, *size)
    projected = module.qkv(module.norm(x).flatten(2).transpose(1, 2)).transpose(1, 2)
    q, k, v = (t.reshape(2, 2, 4, -1) for t in projected.chunk(3, dim=1))  # (batch, head, 4, positions)
    shares = torch.einsum("bhcq,bhck->bhqk", q, k).div(2.0).softmax(dim=-1)
    mixed = module.project(torch.einsum("bhqk,bhck->bqhc", shares, v).flatten(2)).transpose(1, 2)
    torch.testing.assert_close(module(x), x + mixed.reshape(2, 8, *size), rtol=1e-4, atol=1e-5)


def test_no_batch_normalisation_anywhere() -> None:
    net = UNet(small(attention=(0,)))
    assert not [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not list(net.buffers())


@pytest.mark.parametrize("dim", [8, 9])
def test_sinusoidal_embedding(dim: int) -> None:
    e = sinusoidal_embedding(torch.tensor([0.0, 0.5]), dim)
    assert e.shape == (2, dim)
    half = dim // 2
    assert e[0].tolist() == half * [1.0] + (dim - half) * [0.0]
    assert e[1, 0].item() == pytest.approx(torch.tensor(0.5).cos().item())
    assert e[1, half].item() == pytest.approx(torch.tensor(0.5).sin().item())
