"""The picture of a batch: every sample with its rank, its id and why; beside it the counterfactual when a run can make one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.canvas import assert_legible

from ssl_diffusion.acquisition import QueryBatch, batch_figure, batch_files, query
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.run import Run, load_run


@pytest.fixture(scope="module")
def opened(tiny_run: Path) -> Run:
    return load_run(tiny_run, accelerator="cpu", precision="fp32")


@pytest.fixture(scope="module")
def batch(opened: Run, digits_pool: Pool) -> QueryBatch:
    return query(opened, digits_pool, n=8, strategy="margin")


def test_a_batch_alone_is_one_image_a_sample(batch: QueryBatch, digits_pool: Pool) -> None:
    (panel,) = batch_figure(batch, digits_pool).axes
    reason, *titles = [text.get_text() for text in panel.texts]
    assert " ".join(reason.split()) == batch.reason
    assert len(titles) == 8
    name, probability = batch.predictions[3]
    assert titles[3] == f"4. {batch.ids[3]}\n{name} {probability:.2f}"
    pixels = digits_pool.images[digits_pool.positions(batch.ids)][:, 0]
    np.testing.assert_array_equal([image.get_array() for image in panel.images], pixels)


def test_with_a_run_each_image_has_its_counterfactual_beside_it(batch: QueryBatch, digits_pool: Pool, opened: Run) -> None:
    two = replace(batch, ids=batch.ids[:2], utilities=batch.utilities[:2], predictions=batch.predictions[:2])
    figure = batch_figure(two, digits_pool, opened)
    (panel,) = figure.axes
    image, other = panel.images[:2]
    title, beside = [text.get_text() for text in panel.texts[1:3]]
    said, predicted = beside.split("\n")[-1], title.split("\n")[1].split()[0]
    assert beside.startswith("it would say\n")
    assert said in opened.classes
    assert said != predicted
    assert np.abs(other.get_array().astype(int) - image.get_array()).max() > 0
    assert image.get_window_extent().x1 < other.get_window_extent().x0
    assert_legible(figure)


@pytest.mark.parametrize("why", ["noise", "backbone"])
def test_noise_and_searches_through_a_backbone_are_left_out(
    why: str, batch: QueryBatch, digits_pool: Pool, opened: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "noise":
        monkeypatch.setattr(batch_files, "doubt_of", lambda run: "what it draws is noise")
    else:
        monkeypatch.setattr(batch_files, "FusedDiffusion", type(opened.model))
    (panel,) = batch_figure(batch, digits_pool, opened).axes
    assert len(panel.images) == len(batch)
    assert "it would say" not in " ".join(text.get_text() for text in panel.texts)


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("name", ["{}", "a folder of photos that nobody ever tidied/another one/$x_{{{}"])
def test_every_text_is_legible(batch: QueryBatch, digits_pool: Pool, name: str, n: int) -> None:
    ids = np.array([name.format(i) for i in range(len(digits_pool))])
    pool = replace(digits_pool, ids=ids)
    chosen = replace(
        batch,
        ids=ids[:n],
        utilities=batch.utilities[:n],
        predictions=[(name.format(0), 0.98)] * n,
        reason="a reason that takes more than one line, because it says why these were chosen and no others " * 2,
    )
    figure = batch_figure(chosen, pool)
    assert_legible(figure)
    titles = [text.get_text().split("\n") for text in figure.axes[0].texts[1:]]
    assert [first.split(". ")[0] for first, _ in titles] == [str(i + 1) for i in range(n)]
    assert [first[-1] for first, _ in titles] == [str(i) for i in range(n)]  # the end of an id tells images apart
    assert all(second.endswith(" 0.98") for _, second in titles)
