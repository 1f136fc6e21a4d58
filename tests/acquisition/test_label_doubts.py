"""Asking again and balancing classes: what the other labels contradict comes first, and rare classes count more."""

from dataclasses import replace

import numpy as np
import pytest

from ssl_diffusion.acquisition import Candidates, choose
from ssl_diffusion.acquisition.label_doubts import contradiction, suspicious_labels
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.testing.strategies import noise_candidates


def labeled_clusters(wrong: tuple[int, ...] = (3, 17), can_ask: bool = True) -> Candidates:
    """Two clusters with ten labels each, two of which are wrong."""
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [6.0, 0.0]])
    kind = np.repeat([0, 1], 10)
    labeled = (centers[kind] + rng.normal(0, 0.3, (20, 2))).astype(np.float32)
    classes = kind.copy()
    classes[list(wrong)] = 1 - classes[list(wrong)]
    x = (centers[np.repeat([0, 1], 20)] + rng.normal(0, 0.3, (40, 2))).astype(np.float32)
    p = rng.dirichlet([1, 1], 40).astype(np.float32)
    asked = np.zeros(20, dtype=np.bool_) if can_ask else None
    return Candidates(x, p, labeled, classes, 2, np.random.default_rng(0), asked_again=asked)


def test_leaving_out_has_a_closed_form() -> None:
    c = labeled_clusters()
    found = contradiction(c.labeled_representation, c.labeled_classes)
    # By brute force: the same regression without each label, whose own column of the kernel it does not see.
    z = c.labeled_representation.astype(np.float64)
    z -= z.mean(axis=0)
    kernel = z @ z.T
    kernel += np.trace(kernel) / 20
    ridge = 0.5 * np.trace(kernel) / 20
    for i in range(20):
        rest = np.arange(20) != i
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge * np.eye(19), np.eye(2)[c.labeled_classes[rest]])
        scores = kernel[i, rest] @ weights
        given = c.labeled_classes[i]
        assert found[i] == pytest.approx(scores[1 - given] - scores[given], abs=1e-6)


def test_wrong_labels_are_asked_for_again_and_once() -> None:
    c = labeled_clusters()
    assert set(suspicious_labels(c).tolist()) == {3, 17}
    choice = choose("margin:relabel", c, 10)
    assert set(choice.again.tolist()) == {3, 17}
    assert len(choice.picks) == 8
    asked = np.zeros(20, dtype=np.bool_)
    asked[3] = True
    choice = choose("uherding:relabel", replace(labeled_clusters(), asked_again=asked), 10)
    assert choice.again.tolist() == [17]
    assert len(choice.picks) == 9
    assert len(choose("margin:relabel", labeled_clusters(), 5).again) == 1  # a fifth of the batch


def test_where_one_cannot_ask_again_all_are_new() -> None:
    choice = choose("margin:relabel", labeled_clusters(can_ask=False), 10)
    assert len(choice.picks) == 10
    assert not len(choice.again)


@pytest.mark.parametrize("classes", [[0, 0, 0, 0], [0, 1, 2, 2]])
def test_a_class_with_a_single_label_or_alone_is_not_doubted(classes: list[int]) -> None:
    c = replace(noise_candidates(20, 4), labeled_classes=np.array(classes), asked_again=np.zeros(4, dtype=np.bool_))
    assert not set(suspicious_labels(c).tolist()) & {i for i, k in enumerate(classes) if classes.count(k) == 1}
    if len(set(classes)) == 1:
        assert not len(suspicious_labels(c))
    assert len(choose("margin:relabel", c, 5).picks) + len(suspicious_labels(c)[:1]) == 5


def test_rare_classes_count_more() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    kind = np.arange(200) % 2
    p = np.where(kind[:, None] == np.arange(2), 0.7, 0.3).astype(np.float32)
    known = rng.normal(size=(22, 4)).astype(np.float32)
    c = Candidates(x, p, known, np.array([0] * 20 + [1] * 2), 2, np.random.default_rng(0))
    balanced, plain = choose("margin:balanced", c, 20), choose("margin:diverse", replace(c, rng=np.random.default_rng(0)), 20)
    assert kind[balanced.picks].mean() > 0.7 > kind[plain.picks].mean()
    ratio = balanced.utilities[kind == 1].mean() / balanced.utilities[kind == 0].mean()
    assert ratio == pytest.approx((0.7 / 3 + 0.3 / 21) / (0.3 / 3 + 0.7 / 21), rel=1e-6)


def test_auto_has_variants() -> None:
    assert strategy_for("auto:balanced", 100, 10)[0].name == "uherding:balanced"
    assert strategy_for("auto:relabel", 0, 0)[0].name == "typiclust:relabel"
    blind = replace(noise_candidates(20, 0), probabilities=None, n_classes=0)
    assert len(choose("typiclust:balanced", blind, 4).picks) == 4
