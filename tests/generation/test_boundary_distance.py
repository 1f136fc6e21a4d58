"""Boundary distances against the closed form of a linear classifier, and their contract."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.boundary_distance import deepfool_distance, linear_distance
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.testing.toys import GaussianDenoiser, LinearModel

SHAPE = (1, 3, 4)
METHODS = [linear_distance, deepfool_distance]


def linear_model(seed: int = 0, margin: float = 1.0) -> LinearModel:
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(4, 12, generator=generator), 0.3 * torch.randn(4, generator=generator)
    return LinearModel(weight, bias * margin, SHAPE, GaussianDenoiser(torch.zeros(12), torch.eye(12), torch.ones(12)))


def some_images(n: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), dtype=np.uint8)


def exact(model: LinearModel, images: np.ndarray) -> np.ndarray:
    """Euclidean distance in [-1, 1] units to the nearest boundary: min over classes of margin / |w_a - w_b|."""
    x = images.reshape(len(images), -1) / 127.5 - 1
    w, b = model.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    f = x @ w.T + b
    a = f.argmax(axis=1)
    distance = (f[np.arange(len(x)), a][:, None] - f) / np.linalg.norm(w[a][:, None] - w[None], axis=2).clip(1e-12)
    distance[np.arange(len(x)), a] = np.inf
    return np.asarray(distance.min(axis=1))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
@example(575)  # a sample that is on the boundary but for a few units of single precision
@example(2630)  # one so near that 128 times the distance is less than a level of 8 bits
def test_distances_to_a_linear_boundary_are_exact(seed: int) -> None:
    model, images = linear_model(seed), some_images(seed=seed)
    wanted = exact(model, images)
    linear = linear_distance(model, images)  # type: ignore[arg-type]
    assert linear.success.all()
    assert linear.distance_representation == pytest.approx(wanted, abs=1e-5)
    deepfool = deepfool_distance(model, images)  # type: ignore[arg-type]
    assert deepfool.distance_pixel == pytest.approx(wanted / 2 / np.sqrt(12), abs=1e-5)
    assert deepfool.target.tolist() == linear.target.tolist()
    assert deepfool.success.all()


def test_an_image_on_the_boundary_is_moved_behind_it() -> None:
    """Equal scores, of which the first counts: the distance is 0, and still there is a way to the other class."""
    model, images = linear_model(), np.full((1, *SHAPE), 128, dtype=np.uint8)
    with torch.no_grad():
        model.weight[1] = -model.weight[0]
        model.bias[:] = torch.tensor([2.0, 2.0, -9.0, -9.0])
        model.weight[:2] -= model.weight[:2].mean(dim=1, keepdim=True)  # the image is gray: both scores are 2
        first, second = model.classify(torch.from_numpy(images).float() / 127.5 - 1)[0, :2].tolist()
    assert first == pytest.approx(second, abs=1e-6)
    result = deepfool_distance(model, images)  # type: ignore[arg-type]
    assert result.success.all()
    assert result.distance_pixel[0] < 1e-5
    assert result.counterfactual is not None
    assert np.abs(result.counterfactual.astype(int) - images).max() <= 3


@pytest.mark.parametrize("method", METHODS)
def test_a_smaller_margin_is_never_a_longer_distance(method: object) -> None:
    image = some_images(1)
    base = linear_model(2)
    source = int(base.classify(torch.from_numpy(image).float() / 127.5 - 1).argmax())
    other = (source + 1) % 4
    last = np.inf
    for shift in np.linspace(0, 1, 6):  # raise the other class's score, step by step
        model = linear_model(2)
        with torch.no_grad():
            model.bias[other] += float(shift)
        if int(model.classify(torch.from_numpy(image).float() / 127.5 - 1).argmax()) != source:
            break
        result = method(model, image, other)  # type: ignore[operator]
        distance = float(np.nan_to_num(result.distance_pixel, nan=result.distance_representation)[0])
        assert distance <= last
        last = distance
    assert last < np.inf


@pytest.mark.parametrize("method", METHODS)
def test_batch_and_order_do_not_matter(method: object) -> None:
    model, images = linear_model(), some_images()
    order = np.random.default_rng(1).permutation(len(images))
    one: CounterfactualResult = method(model, images, "all")  # type: ignore[operator]
    two: CounterfactualResult = method(model, images, "all", batch_size=7)  # type: ignore[operator]
    turned: CounterfactualResult = method(model, images[order], "nearest")  # type: ignore[operator]
    np.testing.assert_allclose(one.distance_representation, two.distance_representation, rtol=1e-4)
    nearest = one.nearest()
    np.testing.assert_allclose(turned.distance_representation, nearest.distance_representation[order], rtol=1e-4)
    assert turned.image.tolist() == list(range(len(images)))


def test_what_deepfool_calls_a_success_is_one_after_rounding() -> None:
    model, images = linear_model(3), some_images(40, 3)
    result = deepfool_distance(model, images, "runner-up")  # type: ignore[arg-type]
    assert result.counterfactual is not None
    x = torch.from_numpy(result.counterfactual).float() / 127.5 - 1
    flipped = model.classify(x).argmax(dim=1).numpy() == result.target
    assert flipped[result.success].all()
    assert result.success.mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_bad_targets_and_images_are_refused(method: object) -> None:
    model, images = linear_model(), some_images(3)
    source = int(method(model, images[:1]).source[0])  # type: ignore[operator]
    with pytest.raises(DataError, match=f"image 0 is classified as {source} already"):
        method(model, images[:1], source)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"targets are classes 0 to 3; \[7\] are not"):
        method(model, images, np.array([7, 7, 7]))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"images have shape \(1, 4, 4\)"):
        method(model, np.zeros((2, 1, 4, 4), dtype=np.uint8))  # type: ignore[operator]
    assert len(method(model, images[:0])) == 0  # type: ignore[operator]
