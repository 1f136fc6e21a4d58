"""Pools with images of none of the classes: the pure ones are kept, the rest is as if the class were not there."""

from dataclasses import replace

import numpy as np
import pytest

from ssl_diffusion.acquisition import STRATEGIES, Candidates, choose
from ssl_diffusion.acquisition.open_pool import none_of, none_to_avoid, purest, purity
from ssl_diffusion.inference.projection import ProjectedRows
from ssl_diffusion.testing.strategies import noise_candidates

N, FOREIGN = 90, 30


def open_candidates(seed: int = 0, with_head: bool = True) -> Candidates:
    """60 candidates of two classes and 30 of none, well apart; ten labels of which three say so. The third class is "none"."""
    rng = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 9.0, 9.0]])
    kind = np.repeat([0, 1, 2], FOREIGN)
    x = (centers[kind] + rng.normal(0, 0.5, (N, 3))).astype(np.float32)
    known = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    p = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.4, 0.4, 0.2]], dtype=np.float32)[kind]
    labeled = (centers[known] + rng.normal(0, 0.5, (10, 3))).astype(np.float32)
    return Candidates(x, p if with_head else None, labeled, known, 3 if with_head else 0, np.random.default_rng(seed), none=2)


@pytest.mark.parametrize("with_head", [True, False])
def test_what_is_like_labels_of_none_is_left(with_head: bool) -> None:
    c = open_candidates(with_head=with_head)
    pure = purity(c)
    assert pure[:60].min() > pure[60:].max()
    for name in ("coreset", "typiclust", *(("margin", "uherding") if with_head else ())):
        choice = choose(name, open_candidates(with_head=with_head), 10)
        assert (choice.picks < 60).all()
        assert choice.utilities.shape == (N,)


@pytest.mark.parametrize("name", ["random", "margin:sampled"])
def test_draws_that_measure_the_model_are_among_all(name: str) -> None:
    picks = [choose(name, open_candidates(seed), 20).picks for seed in range(4)]
    assert (np.concatenate(picks) >= 60).any()


def test_inside_the_class_is_not_there() -> None:
    c = open_candidates()
    inner, rows = purest(c, 10)
    assert inner.none is None
    assert inner.n_classes == 2
    np.testing.assert_allclose(inner.p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(inner.p[0], c.p[rows[0], :2] / c.p[rows[0], :2].sum(), atol=1e-6)
    assert inner.labeled_classes.tolist() == [0, 0, 0, 0, 1, 1, 1]
    # The class may have any number: those behind it move up.
    first = replace(c, none=0, labeled_classes=(c.labeled_classes + 1) % 3, probabilities=np.roll(c.p, 1, axis=1))
    assert purest(first, 10)[0].labeled_classes.tolist() == [0, 0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(purity(first), purity(c))


def test_without_an_answer_of_that_kind_all_are_candidates() -> None:
    c = open_candidates()
    nothing = replace(c, labeled_classes=np.zeros(10, dtype=np.int64))
    assert (purity(nothing) == 1).all()
    assert len(purest(nothing, 10)[1]) == N
    only = replace(c, labeled_classes=np.full(10, 2))
    assert len(purest(only, 10)[1]) == N
    assert len(choose("typiclust", only, 4).picks) == 4


def test_a_batch_of_all_that_is_left_has_the_others_too() -> None:
    assert sorted(choose("margin", open_candidates(), N).picks.tolist()) == list(range(N))


def test_rows_that_are_projected_when_asked_for() -> None:
    c = open_candidates()
    lazy = replace(open_candidates(), representation=ProjectedRows(c.x, np.arange(N)))
    np.testing.assert_array_equal(choose("uherding", lazy, 5).picks, choose("uherding", c, 5).picks)


@pytest.mark.parametrize("name", [*STRATEGIES, "margin:diverse", "entropy:sampled"])
def test_every_strategy_works_in_an_open_pool(name: str) -> None:
    c = replace(noise_candidates(30, 6), none=2)
    choice = choose(name, c, 4)
    assert len(set(choice.picks.tolist())) == 4
    assert np.isfinite(choice.utilities).all()


def test_the_name_says_it() -> None:
    assert none_of(("a", "None of these ", "b")) == 1
    assert none_of(("a", "none")) is None


def test_classes_without_a_label_are_not_taken_for_none() -> None:
    names = ("a", "b", "none of these", "c")
    assert none_to_avoid(names, np.array([0, 1, 2])) is None
    assert none_to_avoid(names, np.array([0, 1, 2, 3])) == 2
    assert none_to_avoid(names, np.array([0, 1, 2]), in_use=np.array([0, 1, 2])) == 2  # c was merged into another
    assert none_to_avoid(("a", "b"), np.array([0, 1])) is None
