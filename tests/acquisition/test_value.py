"""The value of a label against refits by brute force, and the mix of coverage and competence against balls drawn by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from ssl_diffusion.acquisition import Candidates, choose
from ssl_diffusion.acquisition.strategies import competence as mix
from ssl_diffusion.acquisition.strategies import value as of_labels

Floats = NDArray[np.float64]


def clusters(seed: int = 0, sizes: tuple[int, ...] = (60, 60, 6)) -> Candidates:
    """Three clusters in the plane, two with a label; a classifier that is right about these and unsure of the third."""
    rng = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [6.0, 0.0], [3.0, 6.0]])
    x = np.concatenate([rng.normal(center, 0.4, (n, 2)) for center, n in zip(centers, sizes, strict=True)]).astype(np.float32)
    logits = -np.square(x[:, None] - centers[None]).sum(axis=2) / 4
    logits[:, 2] /= 3
    p = softmax(logits, axis=1).astype(np.float32)
    known = centers[:2].astype(np.float32)
    return Candidates(x, p, known, np.array([0, 1]), 3, np.random.default_rng(seed))


def entropy(p: Floats) -> Floats:
    return np.asarray(-(p * np.log(p.clip(1e-30))).sum(axis=1))


class TestValue:
    def test_the_fall_is_the_mean_over_all_answers(self) -> None:
        rng = np.random.default_rng(1)
        pool, p, change = rng.dirichlet(np.ones(4), 7), rng.dirichlet(np.ones(4), 3), rng.normal(0, 0.7, (3, 7))
        for i, found in enumerate(of_labels.expected_fall(change, p, pool)):
            expected = entropy(pool).mean()
            for y in range(4):
                refitted = softmax(np.log(pool) + change[i][:, None] * (np.eye(4)[y] - p[i]), axis=1)
                expected -= p[i, y] * entropy(refitted).mean()
            assert found == pytest.approx(expected, abs=1e-12)

    def test_the_second_order_is_what_answers_tell(self) -> None:
        """The fall of the loss if classes are as probable as after the refit: the divergence from the head before."""
        rng = np.random.default_rng(2)
        pool, p, change = rng.dirichlet(np.ones(3), 50), rng.dirichlet(np.ones(3), 4), rng.normal(0, 1e-2, (4, 50))
        zeros = np.zeros(4)
        rough = of_labels._second_order(change, zeros, zeros, of_labels._products(p, pool))
        for i, found in enumerate(rough):
            expected = 0.0
            for y in range(3):
                q = softmax(np.log(pool) + change[i][:, None] * (np.eye(3)[y] - p[i]), axis=1)
                expected += p[i, y] * (q * (np.log(q) - np.log(pool))).sum(axis=1).mean()
            assert found == pytest.approx(expected, rel=0.01)

    def test_a_label_that_is_taken_counts_as_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(of_labels, "_PRIOR", 1e-3)
        c = clusters()
        one, two = choose("value", c, 1), choose("value", clusters(), 2)
        assert two.picks[0] == one.picks[0]
        assert one.picks[0] == one.utilities.argmax()
        twin = Candidates(
            np.repeat(c.x[one.picks], 2, axis=0),
            np.repeat(c.p[one.picks], 2, axis=0),
            c.labeled_representation,
            c.labeled_classes,
            3,
        )
        both = Candidates(
            np.concatenate([c.x, twin.x[:1]]), np.concatenate([c.p, twin.p[:1]]), c.labeled_representation, c.labeled_classes, 3
        )
        batch = set(choose("value", both, 2).picks.tolist())
        assert batch != {int(one.picks[0]), len(c)}  # the copy of what was taken is worth less than another one

    def test_a_head_that_is_too_sure_is_warmed(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(80, 12)).astype(np.float32)
        p = softmax(30 * x[:, :3], axis=1).astype(np.float32)

        def temperature(classes: NDArray[np.int64]) -> float:
            c = Candidates(x, p, x[:30], classes, 3, np.random.default_rng(0))
            _, _, known = of_labels._features(c, np.arange(80), np.arange(80))
            return of_labels._temperature(c, known)

        right = p[:30].argmax(axis=1)
        assert temperature(rng.integers(3, size=30)) > 1.5 * temperature(right)
        assert temperature(np.zeros(30, dtype=np.int64)) == 1


class TestMix:
    def test_competence_is_a_sigmoid_of_coverage(self) -> None:
        assert mix.competence(1.0) == 1.0
        assert mix.competence(0.9) == pytest.approx((1 + np.exp(-3)) / 2)
        assert mix.competence(0.2) < 1e-8

    def test_balls_end_where_the_classifier_disagrees(self) -> None:
        distance = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
        agrees = np.array([[True, True, False, True], [True, True, True, True]])
        np.testing.assert_array_equal(mix._own_radii(distance, agrees, 10.0), [1.0, 3.0])
        np.testing.assert_array_equal(mix._own_radii(distance, agrees, 2.5), [1.0, 2.0])
        np.testing.assert_array_equal(mix._own_radii(distance, ~agrees, 2.5), [0.0, 0.0])

    def test_what_nothing_covers_comes_first(self) -> None:
        c = clusters(sizes=(60, 60, 60))
        first = int(choose("dcom", c, 1).picks[0])
        assert first >= 120  # of the third cluster, which has no label
        assert "covers" in choose("dcom", clusters(sizes=(60, 60, 60)), 1).notes[0]
