"""Two blocks of features as one: each block alone is a special case, and the labels decide between them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ssl_diffusion.models.fusion import WITHOUT_LABELS, Fusion, WeightChoice, choose_weight, fit_fused_probe
from ssl_diffusion.models.probe import fit_probe

K = 3


def block(y: NDArray[np.int64], features: int, signal: float, seed: int) -> NDArray[np.float32]:
    """Features of very different scales, which tell classes apart as well as `signal` says."""
    rng = np.random.default_rng(seed)
    z = signal * rng.normal(size=(K, features))[y] + rng.normal(size=(len(y), features))
    return (z * 10.0 ** rng.uniform(-1, 1, features) + rng.normal(size=features)).astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


Y = np.arange(45) % K
GOOD, NOISE = block(Y, 30, 1.0, seed=1), block(Y, 20, 0.0, seed=2)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_of_0_or_1_is_the_probe_of_one_block(weight: float) -> None:
    blocks = (GOOD, NOISE)
    fused = fit_fused_probe(blocks, Y, blocks, K, weight=weight, inverse_penalty=10.0)
    alone = blocks[int(weight)]
    probe = fit_probe(alone, Y, alone, K, inverse_penalty=10.0)
    np.testing.assert_allclose(softmax(fused.probe.logits(fused.fusion(*blocks))), softmax(probe.logits(alone)), atol=2e-3)


@settings(max_examples=10, deadline=None)
@given(weight=st.floats(0, 1), scale=st.floats(1e-2, 1e2), shift=st.floats(-10, 10))
def test_inner_products_are_the_weighted_mean_of_the_blocks(weight: float, scale: float, shift: float) -> None:
    """In any units, and a sample of each block has a mean square length of 1."""
    moved = (GOOD * scale + shift).astype(np.float32)
    z = Fusion.of((moved, NOISE), weight)(moved, NOISE)
    first = Fusion.of((GOOD, NOISE), 0)(GOOD, NOISE)
    second = Fusion.of((GOOD, NOISE), 1)(GOOD, NOISE)
    np.testing.assert_allclose(z @ z.T, (1 - weight) * first @ first.T + weight * second @ second.T, atol=2e-3)
    np.testing.assert_allclose([np.square(part).sum(axis=1).mean() for part in (first, second, z)], 1, atol=1e-3)


@pytest.mark.parametrize("backbone_is_good", [True, False])
def test_the_block_that_knows_the_classes_gets_the_weight(backbone_is_good: bool) -> None:
    blocks = (NOISE, GOOD) if backbone_is_good else (GOOD, NOISE)
    choice = choose_weight([part[:15] for part in blocks], Y[:15], blocks)
    assert choice.weight > 0.8 if backbone_is_good else choice.weight < 0.2
    assert (choice.nll[1.0] < choice.nll[0.0]) == backbone_is_good


def test_of_two_blocks_that_know_different_things_both_are_used() -> None:
    """One tells 0 from the others, the other 2."""
    first, second = (block((k == Y).astype(np.int64), 20, 1.0, seed=3 + k) for k in (0, 2))
    choice = choose_weight((first, second), Y, (first, second))
    assert 0.2 < choice.weight < 0.8
    assert min(choice.nll.values()) < 0.8 * min(choice.nll[0.0], choice.nll[1.0])


def test_the_weight_is_the_mean_under_the_likelihoods_of_all_labels() -> None:
    blocks = (block(Y, 25, 0.4, seed=5), block(Y, 25, 0.4, seed=6))
    choice = choose_weight(blocks, Y, blocks)
    weights, losses = np.array(list(choice.nll)), len(Y) * np.array(list(choice.nll.values()))
    p = np.exp(-losses) / np.exp(-losses).sum()
    assert choice.weight == pytest.approx(float(weights @ p))
    assert 0.1 < choice.weight < 0.9


def test_without_a_label_that_can_be_held_out_nothing_is_chosen() -> None:
    choice = choose_weight((GOOD[:4], NOISE[:4]), np.array([0, 0, 1, 2]), (GOOD, NOISE))
    assert (choice.weight, choice.nll) == (WITHOUT_LABELS, {})
    assert str(choice) == "backbone 0.75, denoiser 0.25: too few labels to choose"


def test_the_choice_is_said_in_one_line() -> None:
    choice = WeightChoice(0.9, 30.0, {0.0: 1.9, 0.5: 0.71, 1.0: 0.74})
    assert str(choice) == "backbone 0.9, denoiser 0.1: cross-validated NLL 0.71 against 0.74 and 1.90"


def test_many_labels_choose_the_weight_by_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the penalty by more of them."""
    monkeypatch.setattr("ssl_diffusion.models.fusion._LARGEST", 24)
    choice = choose_weight((NOISE, GOOD), Y, (NOISE, GOOD))
    assert choice.weight > 0.8
    assert choice.inverse_penalty is None


def test_several_labels_an_image() -> None:
    many = np.stack([Y == 0, Y != 1], axis=1).astype(np.int64)
    fused = fit_fused_probe((NOISE, GOOD), many, (NOISE, GOOD), 2, weight=0.9, inverse_penalty=30.0)
    p = 1 / (1 + np.exp(-fused.probe.logits(fused.fusion(NOISE, GOOD))))
    assert ((p > 0.5) == many).mean() > 0.9
