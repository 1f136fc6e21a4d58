"""The picture of a batch: every sample with its rank, its id and why; beside it the counterfactual when a run can make one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssl_diffusion.acquisition import QueryBatch, batch_figure, query
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.run import Run, load_run


@pytest.fixture(scope="module")
def opened(tiny_run: Path) -> Run:
    return load_run(tiny_run, accelerator="cpu", precision="fp32")


@pytest.fixture(scope="module")
def batch(opened: Run, digits_pool: Pool) -> QueryBatch:
    return query(opened, digits_pool, n=8, strategy="margin")


def test_a_batch_alone_is_one_image_a_sample(batch: QueryBatch, digits_pool: Pool) -> None:
    figure = batch_figure(batch, digits_pool)
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == 8
    name, probability = batch.predictions[3]
    assert drawn[3].get_title() == f"4. {batch.ids[3]}\n{name} {probability:.2f}"
    pixels = digits_pool.images[digits_pool.positions(batch.ids)][:, 0]
    shown = np.array([axis.images[0].get_array() for axis in drawn])
    np.testing.assert_allclose(shown, pixels / 255, atol=1e-6)
    assert figure.get_suptitle() == batch.reason


def test_with_a_run_each_image_has_its_counterfactual_beside_it(batch: QueryBatch, digits_pool: Pool, opened: Run) -> None:
    two = replace(batch, ids=batch.ids[:2], utilities=batch.utilities[:2], predictions=batch.predictions[:2])
    image, other = batch_figure(two, digits_pool, opened).axes[:2]
    said, predicted = other.get_title().split("\n")[-1], image.get_title().split("\n")[1].split()[0]
    assert other.get_title().startswith("it would say\n")
    assert said in opened.classes
    assert said != predicted
    assert np.abs(other.images[0].get_array() - image.images[0].get_array()).max() > 0
