"""Measures of counterfactuals, on images whose values are worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.boundary_distance import linear_distance
from ssl_diffusion.generation.counterfactual.metrics import (
    counterfactual_metrics,
    insertion_areas,
    nearest_agreement,
    redundancy,
    split_frechet,
)
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.testing.toys import GaussianDenoiser, LinearModel

SHAPE = (1, 2, 2)


@pytest.fixture
def model() -> LinearModel:
    """Class 1 if the first pixel is brighter than the second, else class 0."""
    weight = torch.tensor([[0.0, 0, 0, 0], [40.0, -40, 0, 0]])
    return LinearModel(weight, torch.zeros(2), SHAPE, GaussianDenoiser(torch.zeros(4), torch.eye(4), torch.ones(4)))


@pytest.fixture
def pairs() -> CounterfactualResult:
    """Three dark images, to become class 1: two changed with success, one not at all."""
    original = np.zeros((3, *SHAPE), dtype=np.uint8)
    found = original.copy()
    original[:, 0, 0, 1] = found[:, 0, 0, 1] = 51
    found[0, 0, 0, 0] = 102  # needed
    found[1, 0, 0, 0], found[1, 0, 1, 1] = 102, 255  # needed, and not needed
    change = (found.astype(float) - original) / 255
    nothing = np.zeros(3)
    return CounterfactualResult(
        image=np.arange(3),
        original=original,
        counterfactual=found,
        source=np.zeros(3, dtype=np.int64),
        target=np.ones(3, dtype=np.int64),
        success=np.array([True, True, False]),
        p_source=np.zeros(3, dtype=np.float32),
        p_target=np.ones(3, dtype=np.float32),
        distance_pixel=np.where([True, True, False], np.sqrt(np.square(change).mean(axis=(1, 2, 3))), 0.5),
        distance_representation=np.array([1.0, 3.0, 9.0]),
        noise_level=nothing,
        scale=nothing,
        network_evaluations=np.ones(3, dtype=np.int64),
        seconds=nothing,
    )


def test_all_measures(model: LinearModel, pairs: CounterfactualResult) -> None:
    reference = np.zeros((10, *SHAPE), dtype=np.uint8)
    reference[:5, 0, 0, 0] = 100  # class 1
    reference[5:, 0, 1, 0] = 200
    m = counterfactual_metrics(model, pairs, labels=np.array([0, 1, 0]), reference=reference)  # type: ignore[arg-type]
    assert m["validity"] == pytest.approx(2 / 3)
    assert m["validity_correct"] == pytest.approx(1 / 2)
    assert m["l1"] == pytest.approx((0.4 + 1.4) / 8)
    assert m["rms"] == pytest.approx((np.sqrt(0.16 / 4) + np.sqrt(1.16 / 4)) / 2)
    assert m["representation_distance"] == pytest.approx(2.0)
    assert m["sparsity"] == pytest.approx(5 / 8)
    assert m["redundancy"] == pytest.approx((0 + 1 / 2) / 2)
    assert m["ynn"] == pytest.approx(1.0)
    assert m["n"] == 3


def test_a_change_of_the_right_pixels_first_has_a_high_insertion_area(model: LinearModel, pairs: CounterfactualResult) -> None:
    areas = insertion_areas(model, pairs)  # type: ignore[arg-type]
    # Of four pixels the needed one comes first in image 0, second in image 1; the class is there from then on.
    assert areas[0, 0] == pytest.approx(7 / 8, abs=0.03)
    assert areas[1, 0] == pytest.approx(5 / 8, abs=0.03)
    assert areas[2] == pytest.approx([0, 1], abs=0.01)
    np.testing.assert_allclose(areas.sum(axis=1), 1, atol=1e-4)


def test_redundancy_of_larger_images_is_counted_by_patch() -> None:
    """The class is 1 from 16 bright values on; a patch of 16 and one value of another changed: the patch is needed."""
    weight = torch.stack([torch.zeros(28 * 28), torch.ones(28 * 28)])
    model = LinearModel(weight, torch.tensor([0.0, 28.0 * 28 - 31]), (1, 28, 28), None)  # type: ignore[arg-type]
    original = np.zeros((1, 1, 28, 28), dtype=np.uint8)
    found = original.copy()
    found[0, 0, 4:8, 8:12] = 255
    found[0, 0, 20, 20] = 255
    zero = np.zeros(1)
    change = CounterfactualResult(
        *(np.array([0]), original, found, np.array([0]), np.array([1]), np.array([True]), zero, zero, zero, zero, zero, zero),
        *(np.array([1]), zero),
    )
    assert redundancy(model, change).tolist() == [0.5]  # type: ignore[arg-type]
    assert redundancy(model, change, values=True).tolist() == [1.0]  # type: ignore[arg-type]


def test_redundancy_and_neighbours_by_pair(model: LinearModel, pairs: CounterfactualResult) -> None:
    assert redundancy(model, pairs).tolist() == [0.0, 0.5, 0.0]  # type: ignore[arg-type]
    reference = pairs.original[:1]
    assert nearest_agreement(model, pairs, reference).tolist() == [0, 0, 0]  # type: ignore[arg-type]


def test_split_distance_does_not_profit_from_what_did_not_change() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(400, 3)).astype(np.float32), rng.normal(size=(400, 3)).astype(np.float32)
    same = split_frechet(a, a)  # nothing changed, and still not zero, as the halves are of different images
    assert same > 0.005
    assert split_frechet(a, b) == pytest.approx(same, abs=0.15)
    assert split_frechet(a, b + 2) > 5


def test_a_result_without_valid_pairs_or_images(model: LinearModel, pairs: CounterfactualResult) -> None:
    failed = replace(pairs, success=np.zeros(3, dtype=bool))
    assert counterfactual_metrics(model, failed) == {"version": 2, "n": 3, "validity": 0}  # type: ignore[arg-type]
    linear = linear_distance(model, pairs.original)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="need counterfactual images"):
        counterfactual_metrics(model, linear)  # type: ignore[arg-type]
