"""Batches chosen by information, by closeness and by dropout, against what they should be in closed form."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from ssl_diffusion.acquisition import Candidates, choose
from ssl_diffusion.acquisition.linear_head import linear_head
from ssl_diffusion.acquisition.strategies.herding import _largest

Floats = NDArray[np.float64]


def candidates(n: int, m: int = 4, *, k: int = 3, d: int = 4, seed: int = 0) -> tuple[Candidates, Floats, Floats]:
    """Candidates of a linear head, and its probabilities of candidates and of labeled samples."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n + m, d)).astype(np.float32)
    p = softmax(z @ rng.normal(size=(d, k)) + rng.normal(size=k), axis=1)
    classes = np.arange(m, dtype=np.int64) % k
    c = Candidates(z[:n], p[:n].astype(np.float32), z[n:], classes, k, np.random.default_rng(seed))
    return c, p[:n], p[n:]


def test_a_linear_head_is_found_again() -> None:
    c, p, known = candidates(200, 6)
    head = linear_head(c)
    np.testing.assert_allclose(head.probabilities(c.x), p, atol=2e-3)
    np.testing.assert_allclose(head.probabilities(c.labeled_representation), known, atol=2e-3)


def loss(c: Candidates, picks: list[int], p: Floats, known: Floats, binary: bool, prior: float = 30.0) -> float:
    """tr(M^-1 F), written down."""
    x = np.concatenate([c.x, c.labeled_representation]).astype(np.float64)
    x -= x.mean(axis=0)
    both = np.column_stack([x / np.sqrt(np.square(x).mean()), np.ones(len(x))])
    z, labeled = both[: len(c)], both[len(c) :]

    def information(z: Floats, p: Floats) -> Floats:
        if binary:
            top = p.max()
            return float(top * (1 - top)) * np.outer(z, z)
        return np.kron(np.diag(p) - np.outer(p, p), np.outer(z, z))

    of_labeled = sum(information(a, q) for a, q in zip(labeled, known, strict=True))
    of_all = [information(a, q) for a, q in zip(z, p, strict=True)]
    pool = (sum(of_all) + of_labeled) / (len(z) + len(labeled))
    m = prior * np.eye(len(pool)) + of_labeled + sum(of_all[i] for i in picks)
    return float(np.trace(np.linalg.solve(m, pool)))


@pytest.mark.parametrize(("name", "binary"), [("bait", True), ("bait-exact", False)])
@pytest.mark.parametrize("seed", range(3))
def test_bait_is_greedy_and_near_the_best_batch(name: str, binary: bool, seed: int) -> None:
    c, p, known = candidates(14, seed=seed)
    choice = choose(name, c, 3)
    without = loss(c, [], p, known, binary)
    gains = np.array([without - loss(c, [i], p, known, binary) for i in range(len(c))])
    np.testing.assert_allclose(choice.utilities, gains / gains.max(), atol=0.02)
    all_losses = [loss(c, list(batch), p, known, binary) for batch in combinations(range(len(c)), 3)]
    chosen = loss(c, choice.picks.tolist(), p, known, binary)
    assert np.mean(np.array(all_losses) < chosen - 1e-6) < 0.03  # of 364 batches at most ten are better


def test_a_shortlist_holds_what_bait_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_diffusion.acquisition.strategies import information

    monkeypatch.setattr(information, "_SHORTLIST", 10)
    monkeypatch.setattr(information, "_READ", 30)
    c, _, _ = candidates(60)
    for name, most in (("bait", 30), ("bait-exact", 10)):
        choice = choose(name, replace(c, rng=np.random.default_rng(0)), 4)
        assert len(set(choice.picks.tolist())) == 4
        assert np.count_nonzero(choice.utilities) <= most


def clusters(sizes: tuple[int, ...]) -> NDArray[np.float32]:
    """Well separated clusters, one after the other."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(n, 2)) * 0.05 + 10 * np.array([i, i % 2]) for i, n in enumerate(sizes)]).astype(
        np.float32
    )


def test_herding_takes_the_largest_clusters_first() -> None:
    z = clusters((5, 40, 20, 10))
    cluster = np.repeat(np.arange(4), (5, 40, 20, 10))
    none = np.zeros(0, dtype=np.int64)
    c = Candidates(z, None, z[:0], none, 0)
    assert cluster[choose("maxherding", c, 4).picks].tolist() == [1, 2, 3, 0]
    known = Candidates(z[1:], None, z[6:7], np.array([0]), 0)  # the largest has a label already
    assert cluster[1:][choose("maxherding", known, 3).picks].tolist() == [2, 3, 0]


def test_the_largest_gains_are_those_of_a_sort_of_all() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 32, 50, 400):
        gain = rng.integers(0, 6, n) / 4  # many are equal, and so are many of their weights
        weight = rng.integers(0, 3, n).astype(np.float32)
        for kept in (1, 32):
            assert _largest(gain, weight, kept).tolist() == np.lexsort((-weight, -gain))[:kept].tolist()


def test_uncertain_herding_covers_what_is_unsure() -> None:
    z = clusters((40, 20, 10))
    p = np.full((70, 2), (0.99, 0.01), dtype=np.float32)
    p[60:] = 0.5  # the smallest cluster
    c = Candidates(z, p, z[:1], np.array([0]), 2)
    assert choose("uherding", c, 1).picks[0] >= 60
    assert choose("maxherding", c, 1).picks[0] in range(40, 60)


def test_dropout_finds_those_that_hang_on_one_feature() -> None:
    """Two halves with the same probabilities: one feature of size 8, or eight features of size 1."""
    rng = np.random.default_rng(0)
    z = np.zeros((80, 16), dtype=np.float32)
    sign = rng.choice([-1, 1], 80).astype(np.float32)
    z[:40, 0] = 8 * sign[:40]
    z[40:, 8:] = sign[40:, None]
    z += rng.normal(size=z.shape).astype(np.float32) * 0.05
    logit = z[:, 0] + z[:, 8:].sum(axis=1) + 0.6  # what is dropped whole falls to one side
    p = softmax(np.column_stack([logit / 2, -logit / 2]), axis=1).astype(np.float32)
    c = Candidates(z, p, z[:2], np.array([0, 1]), 2)
    choice = choose("dropquery", c, 8)
    assert choice.utilities[:40].mean() > 1.5 * choice.utilities[40:].mean()
    assert (choice.utilities[choice.picks] > 0.5).all()


def test_dropout_completes_a_batch_by_margins() -> None:
    z = np.zeros((6, 3), dtype=np.float32)  # nothing to drop
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.51, 0.49], [0.95, 0.05], [0.7, 0.3]], dtype=np.float32)
    z[:, 0] = np.log(p[:, 0] / p[:, 1])
    c = Candidates(np.ones_like(z), p, z[:2], np.array([0, 1]), 2)
    assert choose("dropquery", c, 3).picks.tolist() == [3, 1, 5]
