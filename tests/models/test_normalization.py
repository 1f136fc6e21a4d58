"""Group normalisation against torch's own, and its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.models.normalization import GroupNorm, group_norm
from ssl_diffusion.models.settings import ModelSettings


def expected(x: Tensor, groups: int, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    h = functional.group_norm(x, groups, weight, bias)
    return h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def tensors(b: int, groups: int, per_group: int, height: int, width: int, one: bool) -> tuple[Tensor, ...]:
    c, g = groups * per_group, torch.Generator().manual_seed(0)
    n = 1 if one else b
    shapes = ((b, c, height, width), (c,), (c,), (n, c), (n, c))
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes)


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(1, 4),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 5),
    height=st.integers(1, 5),
    width=st.integers(2, 5),
    one=st.booleans(),
    last=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(
    b: int, groups: int, per_group: int, height: int, width: int, one: bool, last: bool
) -> None:
    x, *rest = inputs = tensors(b, groups, per_group, height, width, one)
    layout = x.contiguous(memory_format=torch.channels_last) if last else x
    mine, theirs = group_norm(layout, groups, *rest), expected(x, groups, *rest)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    g = torch.randn(mine.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for a, e in zip(torch.autograd.grad(mine, inputs, g), torch.autograd.grad(theirs, inputs, g), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-7, atol=1e-8)


def test_without_parameters_and_conditioning_it_is_torchs() -> None:
    x = torch.randn(2, 6, 3, 3, requires_grad=True)
    g = torch.randn(2, 6, 3, 3)
    for options in ({}, {"weight": torch.randn(6)}, {"bias": torch.randn(6)}):
        mine, theirs = group_norm(x, 3, **options), functional.group_norm(x, 3, **options)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.autograd.grad(mine, x, g), torch.autograd.grad(theirs, x, g), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_a_large_mean_costs_no_more_than_the_data_type(dtype: torch.dtype, tolerance: float, mean: float) -> None:
    torch.manual_seed(0)
    x = (mean + torch.randn(4, 32, 8, 8)).to(dtype)  # in bf16 the values themselves are rounded, to a quarter at 50
    g = torch.randn(4, 32, 8, 8).to(dtype)
    found = []
    for inputs, function in ((x, group_norm), (x.double(), functional.group_norm)):
        leaf = inputs.clone().requires_grad_()
        y = function(leaf, 4)
        assert y.dtype == inputs.dtype
        found.append((y, *torch.autograd.grad(y, leaf, g.to(y.dtype))))
    for a, e in zip(*found, strict=True):
        scale = 1 + mean / 4 if dtype == torch.bfloat16 else 1  # the offset is rounded, too
        assert (a.double() - e).norm() < tolerance * scale * e.norm()


def test_the_layer_is_conditioned_and_takes_the_largest_common_divisor() -> None:
    layer = GroupNorm(12, ModelSettings(groups=8))
    assert layer.num_groups == 4
    x, scale, shift = torch.randn(2, 12, 3, 3), torch.randn(2, 12), torch.randn(2, 12)
    theirs = expected(x, 4, layer.weight, layer.bias, scale, shift)
    torch.testing.assert_close(layer(x, scale, shift), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x, scale[:1], shift[:1])[0], layer(x, scale, shift)[0], rtol=1e-4, atol=1e-5)
    last = layer(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, layer(x), rtol=1e-4, atol=1e-5)


def test_equal_values_are_normalised_to_zero() -> None:
    x = torch.full((1, 4, 2, 2), 1000.0)
    assert group_norm(x, 2).abs().max() < 0.1
    assert torch.isfinite(group_norm(torch.zeros(1, 4, 1, 1), 4)).all()


@pytest.mark.parametrize("device", ["cpu", "meta"])  # on "meta" as on accelerators
def test_a_group_may_have_a_single_value(device: str) -> None:
    x, shift = torch.ones(1, 4, 1, 1, device=device), torch.ones(1, 4, device=device)
    y = group_norm(x, 4, shift=shift)
    assert y.shape == x.shape
    if device == "cpu":  # it is its own mean
        assert (y == 1).all()
