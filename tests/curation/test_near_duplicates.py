"""Copies are found however they were changed, and images that are merely alike are not."""

import io
from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn import functional

from ssl_diffusion.curation import find_duplicates
from ssl_diffusion.curation.perceptual_hash import hash_bits, signatures
from ssl_diffusion.curation.registration import agreement
from ssl_diffusion.inference import neighbors

N = 60


def pictures(n: int = N, seed: int = 0) -> NDArray[np.uint8]:
    """Color pictures of a few soft and hard shapes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32]
    found = np.empty((n, 3, 32, 32))
    for image in found:
        image[:] = rng.uniform(30, 225) + rng.uniform(-30, 30, (3, 1, 1)) + rng.normal(0, 2, (3, 1, 1)) * (x - y)
        for _ in range(9):
            cx, cy = rng.uniform(0, 32, 2)
            r, s = rng.uniform(2, 9, 2)
            inside = ((x - cx) / r) ** 2 + ((y - cy) / s) ** 2 < 1
            image[:, inside] = rng.uniform(30, 225) + rng.uniform(-30, 30, (3, 1))
    return np.clip(found, 0, 255).astype(np.uint8)


def changed(image: NDArray[np.uint8], how: str) -> NDArray[np.uint8]:
    picture = Image.fromarray(image.transpose(1, 2, 0))
    if how == "jpeg":
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=30)
        picture = Image.open(buffer)
    elif how == "bright":
        picture = ImageEnhance.Brightness(picture).enhance(0.7)
    elif how == "flip":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif how == "crop":
        picture = picture.crop((2, 3, 30, 31)).resize((32, 32), Image.Resampling.BICUBIC)
    elif how == "resize":
        picture = picture.resize((20, 20), Image.Resampling.BICUBIC).resize((32, 32), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)


def digests(images: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    return np.array([image.tobytes()[:16] + bytes([hash(image.tobytes()) % 251 + 1]) for image in images], dtype="S17")


HOW = ("same", "jpeg", "bright", "flip", "crop", "resize")


@pytest.fixture(scope="module")
def planted() -> NDArray[np.uint8]:
    originals = pictures()
    return np.concatenate([originals, [changed(originals[i], how) for i, how in enumerate(HOW)]])


def test_each_copy_is_found_and_nothing_else(planted: NDArray[np.uint8]) -> None:
    z = np.zeros((len(planted), 4), dtype=np.float32)  # a network to which the crop is as its original
    z[:N] = np.random.default_rng(0).standard_normal((N, 4))
    z[N:] = z[: len(HOW)]
    found = find_duplicates(planted, digests(planted), z)
    assert [group.tolist() for group in found.groups] == [[i, N + i] for i in range(len(HOW))]
    assert found.exact.tolist() == [True] + [False] * 5
    assert np.flatnonzero(found.surplus).tolist() == list(range(N, N + len(HOW)))


def test_a_crop_is_found_while_many_other_images_are_nearer_to_each_other() -> None:
    originals = pictures()
    images = np.concatenate([originals, [changed(originals[50], "crop")]])
    rng = np.random.default_rng(0)
    z = rng.standard_normal((N + 1, 8)).astype(np.float32)
    z[:40] = z[0] + 0.01 * rng.standard_normal((40, 8))  # to the network they are all one
    z[N] = z[50] + 0.4 * rng.standard_normal(8)
    assert [group.tolist() for group in find_duplicates(images, digests(images), z).groups] == [[50, N]]


def test_without_a_representation_all_but_crops_are_found(planted: NDArray[np.uint8]) -> None:
    found = find_duplicates(planted, digests(planted))
    assert {int(group[0]) for group in found.groups} >= {0, 1, 2, 3, 5}


@pytest.mark.skipif(not neighbors.has_index(), reason="the extra neighbors is not installed")
def test_through_an_index_the_same_copies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_PROBES", 6)
    originals = pictures(2000)
    images = np.concatenate([originals, [changed(originals[i], HOW[i % len(HOW)]) for i in range(120)]])
    z = np.random.default_rng(0).standard_normal((len(images), 8)).astype(np.float32)
    z[len(originals) :] = z[:120] + 0.02  # a network to which a crop is nearly as its original
    exact, index = (find_duplicates(images, digests(images), z, approximate=way) for way in (False, True))
    pairs, found = (set(zip(d.first.tolist(), d.second.tolist(), strict=True)) for d in (exact, index))
    assert found <= pairs
    planted = {(i, len(originals) + i) for i in range(120)}
    assert len(planted & pairs) >= 118
    assert len(planted & found) >= len(planted & pairs) - 2


def test_whoever_waits_for_many_images_is_told_of_the_index(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = pictures(20)
    module = import_module("ssl_diffusion.curation.near_duplicates")
    for name in ("LARGE", "has_index"):
        monkeypatch.setattr(neighbors, name, value := 20 if name == "LARGE" else lambda: False)
        monkeypatch.setattr(module, name, value)
    with caplog.at_level("INFO"):
        find_duplicates(images, digests(images))
        find_duplicates(images[1:], digests(images[1:]))
        find_duplicates(images, digests(images), approximate=False)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "looking for copies among 20 images by comparing all with each other"
    ]


def test_many_pictures_are_taken_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(70)
    whole, pairs = signatures(images, flipped=True), (np.arange(35), np.arange(35, 70))
    agreed = agreement(images, *pairs)
    monkeypatch.setattr(import_module("ssl_diffusion.curation.perceptual_hash"), "_BLOCK", 32)
    monkeypatch.setattr(import_module("ssl_diffusion.curation.registration"), "_PAIRS", 16)
    assert signatures(images, flipped=True) == pytest.approx(whole, abs=1e-6)
    assert agreement(images, *pairs) == pytest.approx(agreed, abs=1e-5)


def test_copies_of_copies_are_one_group() -> None:
    originals = pictures(20)
    images = np.concatenate([originals, originals[:1], [changed(originals[0], "jpeg"), changed(originals[0], "flip")]])
    assert [group.tolist() for group in find_duplicates(images, digests(images)).groups] == [[0, 20, 21, 22]]


def test_a_shirt_of_another_color_is_no_copy() -> None:
    images = pictures(2)
    images[0] = 255
    images[0, 1:, 8:24, 8:24] = 20  # red
    images[1] = 255
    images[1, :2, 8:24, 8:24] = 20  # blue
    pair = agreement(images, np.array([0]), np.array([1]))
    assert pair < 0.86 < agreement(images, np.array([0]), np.array([0]))


def test_where_all_images_are_alike_more_is_asked() -> None:
    rng = np.random.default_rng(0)
    base = pictures(1)[0].astype(float)
    images = np.clip(base + rng.normal(0, 20, (40, 3, 32, 32)), 0, 255).astype(np.uint8)  # e.g. parts from a conveyor belt
    images = np.concatenate([images, images[:1], [np.clip(images[1] + 2.0, 0, 255).astype(np.uint8)]])
    assert [group.tolist() for group in find_duplicates(images, digests(images)).groups] == [[0, 40], [1, 41]]


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images(n: int) -> None:
    assert find_duplicates(pictures(n), digests(pictures(n)), np.eye(n, 3, dtype=np.float32)).groups == []


def test_images_of_one_color_are_no_copies_unless_they_are_the_same() -> None:
    flat = np.full((3, 3, 32, 32), 90, dtype=np.uint8)
    flat[1] = 140
    found = find_duplicates(flat, digests(flat))
    assert [group.tolist() for group in found.groups] == [[0, 2]]


def test_the_mirror_image_has_the_signature_of_the_flip() -> None:
    images = pictures(5)
    assert signatures(images, flipped=True) == pytest.approx(signatures(images[..., ::-1]), abs=1e-5)
    assert (hash_bits(signatures(images)) == hash_bits(signatures(images // 2 + 60))).mean() > 0.5


def test_a_crop_agrees_as_sums_over_every_place_say() -> None:
    images = pictures(2)
    images[1] = changed(images[0], "crop")
    large, inner = (torch.from_numpy(image).double() / 255 for image in images)
    best = -1.0
    for side in (28, 27, 29, 26, 30, 25):  # those of a crop to 14 of 16 pixels
        smaller = [resized(x, side) for x in (inner, details(inner))]
        for y, x in product(range(33 - side), repeat=2):
            windows = [z[:, y : y + side, x : x + side] for z in (large, details(large))]
            found = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(windows, smaller, strict=True)]
            best = max(best, float(np.mean(found)))
    assert float(agreement(images, np.array([0]), np.array([1]))[0]) == pytest.approx(best, abs=1e-4)


def details(x: Tensor) -> Tensor:
    return x - torch.from_numpy(uniform_filter(x.numpy(), (0, 9, 9), mode="mirror"))


def resized(x: Tensor, side: int) -> Tensor:
    return functional.interpolate(x[None], (side, side), mode="bilinear", antialias=True)[0]
