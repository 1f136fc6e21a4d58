"""Random views: what they keep, what they draw, what they never do."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssl_diffusion.training.augment import POLICIES, Augmentation, augment, mirror, policy

VIEWS = [(name, strength) for name, views in POLICIES.items() for strength in views]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def center_of_mass(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, in pixels, of single-channel images on black."""
    h, w = images.shape[-2:]
    mass = images.sum(dim=(1, 2, 3))
    rows = (images.sum(dim=(1, 3)) * torch.arange(h)).sum(1) / mass
    columns = (images.sum(dim=(1, 2)) * torch.arange(w)).sum(1) / mass
    return rows, columns


@settings(max_examples=40, deadline=None)
@given(
    view=st.sampled_from(VIEWS),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(2, 14), st.integers(2, 14)),
    seed=st.integers(0, 2**31),
)
def test_every_view_keeps_shape_and_range_and_its_input(
    view: tuple[str, str], channels: int, size: tuple[int, int], seed: int
) -> None:
    images = noise(3, channels, *size, seed=seed)
    images[0], images[1] = 0.0, 1.0
    kept = images.clone()
    result = augment(images, policy(*view), generator(seed))
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert 0 <= result.min().item() <= result.max().item() <= 1
    assert torch.equal(images, kept)


@pytest.mark.parametrize(("name", "strength"), [v for v in VIEWS if v[0] != "none"])
def test_views_are_functions_of_the_generator(name: str, strength: str) -> None:
    images, view = noise(8, 3, 9, 9), policy(name, strength)
    first = augment(images, view, generator(5))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(first, augment(images, view, generator(5)))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, augment(images, view, generator(6)))
    assert not torch.equal(first, images)


def test_views_of_equal_images_differ_within_a_batch() -> None:
    images = noise(1, 3, 9, 9).expand(16, -1, -1, -1)
    assert len({view.numpy().tobytes() for view in augment(images, policy("photo", "strong"), generator())}) == 16


@pytest.mark.parametrize("strength", ["weak", "strong", "none"])
def test_none_is_the_identity_and_draws_nothing(strength: str) -> None:
    images, g = noise(4, 3, 7, 5), generator()
    before = g.get_state()
    assert torch.equal(augment(images, policy("none", strength), g), images)
    assert torch.equal(augment(images, policy("photo", "none"), g), images)
    assert torch.equal(before, g.get_state())


@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_digits_are_never_mirrored_and_photos_are(strength: str) -> None:
    """A gradient from left to right survives every geometric and photometric operation but a mirror."""
    ramp = torch.linspace(0.2, 0.8, 16).expand(200, 1, 16, 16)

    def rising(name: str, flip: bool | None = None) -> Tensor:
        views = augment(ramp, replace(policy(name, strength, flip), cutout=0.0), generator())
        return views[..., 8:].mean(dim=(1, 2, 3)) > views[..., :8].mean(dim=(1, 2, 3))

    assert rising("digits").all()
    for name in ("photo", "fashion"):
        assert 60 < rising(name).sum() < 140
    assert 60 < rising("digits", flip=True).sum() < 140
    assert rising("photo", flip=False).all()


@pytest.mark.parametrize(("name", "strength"), VIEWS)
@pytest.mark.parametrize("flip", [True, False])
def test_flip_overrides_mirroring_and_nothing_else(name: str, strength: str, flip: bool) -> None:
    assert policy(name, strength, flip) == replace(policy(name, strength), flip=flip)
    assert policy(name, strength, None) == policy(name, strength)


def test_mirror_turns_about_half_of_the_images_and_keeps_any_range() -> None:
    images = noise(400, 2, 3, 5) * 20 - 10
    result = mirror(images, generator())
    turned = torch.tensor([torch.equal(r, i.flip(-1)) for r, i in zip(result, images, strict=True)])
    same = torch.tensor([torch.equal(r, i) for r, i in zip(result, images, strict=True)])
    assert (turned ^ same).all()
    assert 150 < turned.sum() < 250


@pytest.mark.parametrize("size", [(31, 31), (21, 41), (41, 21)])
def test_shift_moves_a_spot_by_up_to_its_share_of_each_side_with_mean_zero(size: tuple[int, int]) -> None:
    h, w = size
    spot = torch.zeros(600, 1, h, w)
    spot[:, :, h // 2, w // 2] = 1.0
    rows, columns = center_of_mass(augment(spot, Augmentation(shift=0.2), generator()))
    for moved, side in ((rows - h // 2, h), (columns - w // 2, w)):
        assert moved.abs().max().item() <= 0.2 * side + 1e-3
        assert moved.abs().max().item() > 0.18 * side
        assert abs(moved.mean().item()) < 4 * 0.2 * side / np.sqrt(3 * 600)
        assert moved.std().item() == pytest.approx(0.2 * side / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("size", [(33, 33), (25, 49), (49, 25)])
def test_rotation_keeps_distances_from_the_center_on_non_square_images(size: tuple[int, int]) -> None:
    h, w = size
    images = torch.zeros(100, 1, h, w)
    images[:, :, h // 2, w // 2 + 8] = 1.0
    views = augment(images, Augmentation(rotate=60), generator())
    rows, columns = center_of_mass(views)
    dy, dx = rows - h // 2, columns - w // 2
    torch.testing.assert_close((dx**2 + dy**2).sqrt(), torch.full((100,), 8.0), rtol=0, atol=0.25)
    angles = torch.atan2(dy, dx).rad2deg()
    assert angles.abs().max().item() <= 61
    assert angles.max().item() > 45
    assert angles.min().item() < -45


def test_scale_zooms_in_and_out_within_its_range() -> None:
    images = torch.zeros(100, 1, 65, 65)
    images[..., 16:49, 16:49] = 1.0  # a square of side 33 in the middle
    sides = augment(images, Augmentation(scale=0.25), generator()).sum(dim=(1, 2, 3)).sqrt()
    assert 33 / 1.25 - 0.5 <= sides.min().item() < 29
    assert 38 < sides.max().item() <= 33 * 1.25 + 0.5


def test_brightness_and_contrast_stay_within_their_ranges() -> None:
    gray = torch.full((200, 1, 4, 4), 0.5)
    change = augment(gray, Augmentation(brightness=0.2), generator()).mean(dim=(1, 2, 3)) - 0.5
    assert 0.18 < change.max().item() <= 0.2 + 1e-6
    assert -0.2 - 1e-6 <= change.min().item() < -0.18
    pattern = torch.tensor([0.4, 0.6]).repeat(8).view(1, 1, 4, 4).expand(200, -1, -1, -1)
    views = augment(pattern, Augmentation(contrast=0.5), generator())
    torch.testing.assert_close(views.mean(dim=(1, 2, 3)), torch.full((200,), 0.5))
    spread = views.amax(dim=(1, 2, 3)) - views.amin(dim=(1, 2, 3))
    assert 0.1 - 1e-6 <= spread.min().item() < 0.12
    assert 0.28 < spread.max().item() <= 0.3 + 1e-6


def test_saturation_changes_color_but_not_gray_value_and_gray_images_not_at_all() -> None:
    color = noise(20, 3, 5, 5) * 0.2 + 0.4
    views = augment(color, Augmentation(saturation=0.5), generator())
    torch.testing.assert_close(views.mean(dim=1), color.mean(dim=1))
    assert not torch.allclose(views, color)
    gray = noise(20, 1, 5, 5).expand(-1, 3, -1, -1)
    torch.testing.assert_close(augment(gray, Augmentation(saturation=0.5), generator()), gray)
    single = noise(20, 1, 5, 5)
    torch.testing.assert_close(augment(single, Augmentation(saturation=0.5), generator()), single)


@pytest.mark.parametrize("size", [(20, 20), (10, 30)])
def test_cutout_erases_one_rectangle_of_its_share_with_the_mean(size: tuple[int, int]) -> None:
    h, w = size
    images = noise(100, 3, h, w)
    views = augment(images, Augmentation(cutout=0.4), generator())
    erased = (views != images).all(dim=1)
    assert erased.any()
    for image, view, hole in zip(images, views, erased, strict=True):
        if not hole.any():
            continue
        rows, columns = hole.any(dim=1).nonzero().flatten(), hole.any(dim=0).nonzero().flatten()
        assert hole.sum() == len(rows) * len(columns)
        assert rows[-1] - rows[0] + 1 == len(rows) <= round(0.4 * h) + 1
        assert columns[-1] - columns[0] + 1 == len(columns) <= round(0.4 * w) + 1
        torch.testing.assert_close(view[:, hole], image.mean(dim=(1, 2))[:, None].expand(-1, int(hole.sum())))
    assert erased.float().sum(dim=(1, 2)).max().item() >= round(0.4 * h) * round(0.4 * w)


def test_every_policy_has_a_weak_and_a_strong_view_and_the_strong_one_reaches_further() -> None:
    ranges = [f.name for f in fields(Augmentation) if f.name != "flip"]
    for name, views in POLICIES.items():
        assert set(views) == {"weak", "strong"}
        assert views["weak"].flip == views["strong"].flip
        assert all(getattr(views["strong"], r) >= getattr(views["weak"], r) for r in ranges), name
