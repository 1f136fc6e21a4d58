"""The network in channels_last: no map leaves the layout, and what is done for it does not change what is computed."""

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ssl_diffusion.models import JointConfig, JointDiffusion, ModelSettings, build_model, convolution, packed
from ssl_diffusion.models import packing as packing_module
from ssl_diffusion.models.blocks import Block, Dropout
from ssl_diffusion.models.build import weights_fault
from ssl_diffusion.models.convolution import Conv3x3, TiledGradient, tiled, tiles

SHAPES = [(1, 28, 28), (3, 32, 32)]


def model_of(shape: tuple[int, int, int] = (1, 28, 28), **changes: object) -> JointDiffusion:
    """A small model in which no weight is zero."""
    values = {"channels": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "head_dropout": 0.5, **changes}
    config = JointConfig(model=ModelSettings(**values), n_classes=3, image_shape=shape)  # type: ignore[arg-type]
    model = build_model(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1, generator=generator)
    return model.eval()


def images(model: JointDiffusion, n: int = 3) -> Tensor:
    return torch.randn(n, *model.config.image_shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps() -> Iterator[list[tuple[str, Tensor]]]:
    """Every map that a layer returns while the test runs, by the class of the layer."""
    seen: list[tuple[str, Tensor]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            seen.append((type(module).__name__, output))

    handle = nn.modules.module.register_module_forward_hook(note)
    yield seen
    handle.remove()


def in_layout(map_: Tensor) -> bool:
    return map_.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("attention", [(), (0, 1)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_map_leaves_the_layout(
    maps: list[tuple[str, Tensor]], shape: tuple[int, int, int], stem: int, attention: tuple[int, ...], precision: str
) -> None:
    model = model_of(shape, stem=stem, attention=attention)
    for mode in (model.train(), packed(model.eval(), precision)):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            features = mode.encode(images(model, 2), torch.tensor([0.1, 0.2]))
            mode.raw_output(features, images(model).shape)
        assert all(in_layout(m) for m in features.maps)
    # Linear layers see positions as rows, (B, H, W, C). For images of one channel the stem's own output is still in the other,
    # but for packed weights.
    outside = [tuple(m.shape) for name, m in maps if not in_layout(m) and name != "Linear"]
    assert len(maps) > 40
    assert set(outside) == ({(2, 32, 28, 28)} if shape[0] * stem == 1 else set())
    assert len(outside) <= 2


def test_gradients_of_maps_stay_in_the_layout() -> None:
    model = model_of().train()
    features = model.encode(images(model), torch.full((3,), 0.3))
    strides: list[int] = []
    for m in features.maps:
        m.register_hook(lambda g: strides.append(g.stride(1)))
    model.raw_output(features, images(model).shape).square().sum().backward()
    assert strides == [1] * len(features.maps)  # channels lie side by side, be it in a part of a wider map


# ---- one noise level for a batch


def test_one_noise_level_is_as_good_as_the_same_for_each() -> None:
    model = model_of()
    x = images(model)
    with torch.inference_mode():
        one, each = (model.encode(x, sigma) for sigma in (0.3, torch.full((3,), 0.3)))
        assert len(one.embedding) == 1
        for a, b in zip(one.maps, each.maps, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.denoise(x, 0.3), model.denoise(x, torch.full((3,), 0.3)), rtol=1e-4, atol=1e-5)
        first, rest = one.split(1)
        torch.testing.assert_close(
            torch.cat([model.raw_output(part, x.shape) for part in (first, rest)]), model.raw_output(one, x.shape)
        )


def test_conditioning_of_a_block_is_a_scale_and_a_shift_of_the_normalised_map() -> None:
    torch.manual_seed(0)
    block = Block(32, 32, 16, ModelSettings(channels=32, groups=2), attention=False)
    nn.init.normal_(block.conv_out.weight, std=0.1)
    x, embedding = torch.randn(2, 32, 4, 4), torch.randn(1, 16)
    scale, shift = block.film(nn.functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
    h = block.norm_out(block.conv_in(nn.functional.silu(block.norm_in(x)))) * (1 + scale) + shift
    expected = x + block.conv_out(nn.functional.silu(h))
    torch.testing.assert_close(block(x, embedding), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x, embedding.expand(2, -1)), expected, rtol=1e-4, atol=1e-5)


# ---- weight gradients of small maps


@settings(max_examples=40, deadline=None)
@given(b=st.integers(1, 9), c_in=st.integers(1, 3), c_out=st.integers(1, 3), height=st.integers(1, 8), width=st.integers(1, 8))
def test_tiled_gradients_are_those_of_the_convolution(b: int, c_in: int, c_out: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(c_in, c_out, 3, padding=1).double()
    assert layer.bias is not None
    x = torch.randn(b, c_in, height, width, dtype=torch.float64, requires_grad=True)
    g = torch.randn(b, c_out, height, width, dtype=torch.float64)
    inputs = (x, layer.weight, layer.bias)
    mine, theirs = TiledGradient.apply(*inputs), layer(x)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    for found, expected in zip(torch.autograd.grad(mine, inputs, g), torch.autograd.grad(theirs, inputs, g), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize("unit", [True, False])
def test_gradients_in_bf16_are_near_those_in_fp32(size: int, unit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "has_tile_unit", lambda: unit)
    monkeypatch.setattr(convolution, "tiled", spy := Mock(wraps=tiled))
    torch.manual_seed(0)
    layer = Conv3x3(16, 16)
    x = torch.randn(5, 16, size, size, requires_grad=True)
    found = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = layer(x).float()
        assert layer.bias is not None
        found.append(torch.autograd.grad(y.square().sum(), (x, layer.weight, layer.bias)))
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.02 * theirs.norm()
    assert spy.called == (unit and size == 4)


def test_tiled_maps_lie_apart() -> None:
    rows, columns = tiles(4, 3)
    maps = torch.ones(rows * columns + 1, 2, 4, 3)
    mosaic = tiled(maps, rows, columns)
    assert mosaic.shape == (2, 2, rows * 5, columns * 4)
    assert mosaic.sum() == maps.sum()
    assert not mosaic[:, :, 4::5].any()
    assert not mosaic[..., 3::4].any()


def test_a_frozen_convolution_has_no_gradient_of_its_own() -> None:
    layer = Conv3x3(2, 2).requires_grad_(False)
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


# ---- dropout


@pytest.mark.parametrize("shape", [(7,), (999, 1001), (3, 5, 2, 2)])
def test_dropout_keeps_half_scaled_by_two(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 1
    torch.manual_seed(0)
    y = Dropout(0.5)(x)
    kept = y != 0
    assert torch.equal(y[kept], 2 * x[kept])
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.5)(x), y)


def test_dropped_elements_are_as_likely_as_kept_ones_and_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(1_000_000)) > 0).double()
    assert abs(kept.mean() - 0.5) < 5 * 0.0005
    for distance in (*range(1, 9), 64):
        together = (kept[:-distance] - 0.5) * (kept[distance:] - 0.5)
        assert abs(together.mean()) < 5 * 0.25 / len(together) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_other_probabilities_are_those_of_torch(p: float) -> None:
    x = torch.ones(50, 50)
    torch.manual_seed(3)
    ours = Dropout(p)(x)
    torch.manual_seed(3)
    assert torch.equal(ours, nn.Dropout(p)(x))
    assert torch.equal(Dropout(0.5).eval()(x), x)


# ---- packed weights


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_a_packed_network_computes_the_same(shape: tuple[int, int, int], precision: str, tolerance: float) -> None:
    model = model_of(shape)
    with torch.inference_mode():
        ready = packed(model, precision)
        for n in (4, 1, 3):  # the size of a batch may change
            x = images(model, n)
            expected = model.classify(x), model.denoise(x, 0.3)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                found = ready.classify(x), ready.denoise(x, 0.3)
            for mine, theirs in zip(found, expected, strict=True):
                assert mine.dtype == torch.float32
                assert (mine - theirs).norm() < tolerance * theirs.norm()


def test_a_packed_network_keeps_its_weights_while_the_other_is_trained_on() -> None:
    model, x = model_of(), images(model_of())
    with torch.inference_mode():
        ready = packed(model, "fp32")
        before = ready.classify(x)
    with torch.no_grad():
        for p in model.unet.encoder.parameters():
            p.mul_(2)
    with torch.inference_mode():
        assert torch.equal(ready.classify(x), before)
        assert not torch.equal(model.classify(x), before)
    assert isinstance(ready, JointDiffusion)
    assert all(p.requires_grad for p in model.parameters())


def test_where_torch_can_every_convolution_gets_the_processors_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(8, 8, 3, 3)
    try:
        torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), [1, 1], [1, 1], [1, 1], 1, [2, 8, 8, 8])  # type: ignore[call-arg]
    except (AttributeError, RuntimeError):
        pytest.skip("this build of torch does not offer it")
    plain: list[torch.Size] = []
    monkeypatch.setattr(packing_module.functional, "conv2d", lambda x, *_: plain.append(x.shape))
    model = model_of()
    with torch.inference_mode():
        packed(model, "fp32").classify(images(model))
    assert not plain


def test_without_torchs_private_operator_weights_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> Tensor:
        raise AttributeError("no such operator")

    model, x = model_of(), images(model_of())
    monkeypatch.setattr(packing_module._Convolution, "_pointwise", gone)
    with torch.inference_mode():
        torch.testing.assert_close(packed(model, "fp32").classify(x), model.classify(x), rtol=1e-4, atol=1e-5)


def test_a_layer_of_another_class_is_left_alone() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network = nn.Sequential(Doubled(1, 1, 1), nn.Conv2d(1, 1, 3, stride=2, padding=1)).eval()
    x = torch.randn(1, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(packed(network, "fp32")(x), network(x), rtol=1e-4, atol=1e-5)


# ---- weights of the former network


def test_weights_of_earlier_versions_are_taken() -> None:
    model = model_of()
    former = {
        name: t[:, :, None, None] if name.endswith(("qkv.weight", "project.weight", "shortcut.weight")) else t
        for name, t in model.state_dict().items()
    }
    assert sum(a.ndim != b.ndim for a, b in zip(former.values(), model.state_dict().values(), strict=True)) > 3
    assert weights_fault(model.config, former) == ""
    again = build_model(model.config, seed=1, initial=former)
    again.unet.load_state_dict({n.removeprefix("unet."): t for n, t in former.items() if n.startswith("unet.")})
    for name, weights in again.state_dict().items():
        assert torch.equal(weights, model.state_dict()[name])
