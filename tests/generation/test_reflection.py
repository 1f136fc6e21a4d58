"""Reflections across a linear boundary, decoded by images of the pool."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.commands import CPU, ok, refused
from torch import nn

from ssl_diffusion.data.published.datasets import load_dataset
from ssl_diffusion.errors import RunError
from ssl_diffusion.generation.counterfactual.reflection import (
    Reference,
    linear_head,
    pulls,
    reference_of,
    reflected,
)
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult, Pairs
from ssl_diffusion.generation.counterfactual.search import explain
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.models.joint import JointConfig, JointDiffusion
from ssl_diffusion.models.settings import ModelSettings

SMALL = ModelSettings(channels=8, multipliers=(1,), blocks=1, decoder_blocks=1, head_width=0)


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run, "cpu", "fp32")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    pool = load_dataset("digits")
    return np.asarray(pool.images[pool.test[:8]])


@pytest.fixture(scope="module")
def reference(run: Run) -> Reference:
    return reference_of(run, load_dataset("digits"))


@pytest.fixture(scope="module")
def result(run: Run, images: np.ndarray, reference: Reference) -> CounterfactualResult:
    """Reflections that were made where any gradient would be an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", None)
        return explain(run.model, images, reference=reference, confidence=0.5)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.9])
def test_a_reflection_has_the_probability_that_is_asked_for(confidence: float) -> None:
    generator = torch.Generator().manual_seed(0)
    head, z = nn.Linear(6, 3), torch.randn(4, 6, generator=generator)
    logits = head(z).detach().numpy()
    source, target = logits.argmax(axis=1), logits.argmin(axis=1)
    at = reflected(head, z, logits, Pairs(np.arange(4), source, target), confidence)
    two = head(at).detach()[np.arange(4)[:, None], np.stack([target, source], axis=1)]
    np.testing.assert_allclose(two.softmax(dim=1)[:, 0], max(confidence, 0.5), atol=1e-5)
    w = (head.weight[target] - head.weight[source]).detach()
    turned = torch.nn.functional.cosine_similarity(at - z, w)  # and there is no shorter way to it
    np.testing.assert_allclose(turned, 1, atol=1e-5)


def test_a_reflection_is_decoded_as_the_mean_of_the_nearest_sure_images() -> None:
    model = JointDiffusion(JointConfig(model=SMALL, n_classes=2, image_shape=(1, 4, 4)))
    linear = linear_head(model)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[1, 0] = 1.0
    n, features = 30, model.n_features
    z = np.zeros((n, features), dtype=np.float32)
    z[:, 0] = np.arange(n)  # the nearest to 3 + 0 are not sure, and the first ten of those that are follow
    p1 = np.where(np.arange(n) >= 12, 0.95, 0.2)
    pixels = np.repeat(np.arange(n, dtype=np.uint8), 16).reshape(n, 1, 4, 4)
    some = Reference(pixels, z, np.stack([1 - p1, p1], axis=1).astype(np.float32))
    start = np.zeros((1, features), dtype=np.float32)
    logits = np.array([[3.0, 0.0]], dtype=np.float32)
    pairs = Pairs(np.array([0]), np.array([0]), np.array([1]))
    (pull,) = pulls(model, some, np.zeros((1, 1, 4, 4), dtype=np.uint8), start, logits, pairs, 0.0)
    np.testing.assert_allclose(pull, np.arange(12, 22).mean() / 127.5, rtol=1e-5)


def test_reflections_change_the_class_in_at_most_forty_evaluations(
    run: Run, images: np.ndarray, result: CounterfactualResult
) -> None:
    assert result.network_evaluations.max() <= 40
    assert result.success.sum() >= 4
    p = run.predict_proba(result.images())
    reached = (p.argmax(axis=1) == result.target) & (p.max(axis=1) >= 0.5)
    assert reached.tolist() == result.success.tolist()
    np.testing.assert_allclose(p[np.arange(len(p)), result.target], result.p_target, atol=1e-5)


def test_reflections_do_not_depend_on_the_batch_and_stay_in_their_region(
    run: Run, images: np.ndarray, reference: Reference, result: CounterfactualResult
) -> None:
    alone = explain(run.model, images, reference=reference, confidence=0.5, batch_size=3)
    assert np.abs(alone.images().astype(int) - result.images()).max() <= 1
    region = np.zeros(images.shape[2:], dtype=np.float32)
    region[:, :4] = 1
    part = explain(run.model, images, reference=reference, region=region, confidence=0.5)
    np.testing.assert_array_equal(part.images()[..., 4:], images[..., 4:])
    assert (part.images()[..., :4] != images[..., :4]).any()


def test_a_head_with_a_hidden_layer_has_no_reflection() -> None:
    model = JointDiffusion(JointConfig(model=SMALL.replace(head_width=4), n_classes=2, image_shape=(1, 4, 4)))
    with pytest.raises(RunError, match="a reflection needs a linear head"):
        linear_head(model)


def test_explain_reflects_on_request(tiny_run: Path, tmp_path: Path) -> None:
    ids = ["--id", "test/00003", "--id", "test/00012"]
    ok("explain", tiny_run, *ids, "--method", "reflect", "--confidence", 0, "--out", tmp_path / "out", *CPU)
    frame = pd.read_csv(tmp_path / "out" / "counterfactuals.csv")
    assert frame["network_evaluations"].max() <= 40
    assert set(frame["noise_level"]) == {0.6}
    said = refused("explain", tiny_run, *ids, "--method", "reflekt", "--out", tmp_path / "other", *CPU)
    assert said.startswith("no method 'reflekt'; did you mean reflect?")
