"""Wrong labels are ranked first, whatever way they go wrong; labels that cannot be judged are not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from ssl_diffusion.curation import find_label_issues, held_out_probabilities, judge_labels
from ssl_diffusion.curation.held_out import condensed
from ssl_diffusion.curation.label_noise import clean_probabilities, noise_matrix
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

K = 6


def clouds(n: int = 1200, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Six overlapping clouds."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, K, n)
    centers = 3 * rng.standard_normal((K, 8))
    return (centers[true] + 2.2 * rng.standard_normal((n, 8))).astype(np.float32), true


def spoiled(true: NDArray[np.int64], rate: float, kind: str, n_classes: int = K, seed: int = 1) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    given, bad = true.copy(), rng.permutation(len(true))[: int(rate * len(true))]
    given[bad] = (true[bad] + (1 if kind == "pair" else rng.integers(1, n_classes, len(bad)))) % n_classes
    return given


@pytest.mark.parametrize("rate", [0.05, 0.2])
@pytest.mark.parametrize("kind", ["symmetric", "pair"])
def test_ranked_as_well_as_by_self_confidence_and_better_where_classes_swap(kind: str, rate: float) -> None:
    z, true = clouds()
    given = spoiled(true, rate, kind)
    wrong = given != true
    p, _ = held_out_probabilities(condensed(z), given, K)
    found = find_label_issues(given, p)
    ours = average_precision_score(wrong, found.wrong)
    plain = average_precision_score(wrong, 1 - p[np.arange(len(p)), given])
    assert ours > plain - 0.01
    if kind == "pair":
        assert ours > plain + 0.01
    assert wrong[found.flagged].mean() > 0.9
    assert wrong[found.ranked[: wrong.sum()]].mean() > 0.8


def test_the_second_pass_finds_more_than_the_first() -> None:
    z, true = clouds()
    given = spoiled(true, 0.3, "pair")
    p, _ = held_out_probabilities(condensed(z), given, K)
    once = average_precision_score(given != true, find_label_issues(given, p).wrong)
    assert average_precision_score(given != true, judge_labels(z, given, K).wrong) > once + 0.01


def test_digits_with_wrong_labels(digits_pool: Pool) -> None:
    true = digits_pool.labels
    given = spoiled(true, 0.1, "symmetric", 10)
    found = judge_labels(digits_pool.images.reshape(len(true), -1).astype(np.float32), given, 10)
    wrong = given != true
    assert average_precision_score(wrong, found.wrong) > 0.95
    right = found.suggested[wrong & found.flagged] == true[wrong & found.flagged]
    assert right.mean() > 0.9
    assert (found.suggested != given).all()


def test_nothing_is_flagged_among_right_labels() -> None:
    z, true = clouds()
    assert not judge_labels(z, true, K).flagged.mean() > 0.01


def test_the_noise_is_estimated() -> None:
    z, true = clouds(6000)
    given = spoiled(true, 0.2, "pair")
    p, _ = held_out_probabilities(condensed(z), given, K)
    noise = noise_matrix(given, p)
    assert noise.sum(axis=0) == pytest.approx(np.ones(K))
    assert noise.diagonal() == pytest.approx(np.full(K, 0.8), abs=0.1)
    assert noise[(np.arange(K) + 1) % K, np.arange(K)] == pytest.approx(np.full(K, 0.2), abs=0.1)


def test_noise_is_taken_out_of_predictions_of_noisy_labels() -> None:
    rng = np.random.default_rng(0)
    clean = rng.dirichlet(np.full(4, 0.2), 2000)
    noise = 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=0)
    predicted = clean @ noise.T
    given = np.array([rng.choice(4, p=row) for row in predicted])
    assert clean_probabilities(given, predicted, noise) == pytest.approx(clean, abs=0.05)
    # A classifier that predicts the true classes has none in it.
    assert (clean_probabilities(given, clean, noise) == clean).all()


def test_without_evidence_of_a_pattern_the_rank_is_that_of_self_confidence() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(4, 0.3), 300)
    given = np.array([rng.choice(4, p=row) for row in p])
    noise = noise_matrix(given, p)
    assert len(np.unique(noise.diagonal().round(12))) == 1
    found = find_label_issues(given, p)
    assert (found.ranked[:20] == np.argsort(p[np.arange(300), given], kind="stable")[:20]).mean() > 0.8


def test_copies_of_a_wrong_label_do_not_vouch_for_each_other() -> None:
    z, true = clouds(300)
    copies = np.concatenate([np.arange(300), np.full(25, 7)])
    given = true[copies]
    given[[7, *range(300, 325)]] = (true[7] + 1) % K
    apart = judge_labels(z[copies], given, K)
    together = judge_labels(z[copies], given, K, groups=copies)
    assert together.wrong[7] > 0.5 > apart.wrong[7]


def test_classes_with_too_few_labels_are_not_judged() -> None:
    z, true = clouds(200)
    given = np.where(np.arange(200) < 2, 7, true)
    found = judge_labels(z, given, 9)
    assert np.isnan(found.wrong[:2]).all()
    assert (found.suggested[:2] == -1).all()
    assert np.isfinite(found.wrong[2:]).all()
    assert len(found.ranked) == 198
    assert not found.flagged[:2].any()


@pytest.mark.parametrize("shape", [(40, 700), (700, 400), (300, 9000)])
def test_many_features_are_condensed_without_losing_the_classes(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(shape[0]) % 2
    z = rng.standard_normal(shape).astype(np.float32)
    z[:, : shape[1] // 4] += 3 * y[:, None]
    x = condensed(z)
    assert x.shape == (shape[0], min(256, shape[0] if shape[0] < shape[1] and shape[1] <= 8192 else 256))
    p, _ = held_out_probabilities(x, y, 2)
    assert (p.argmax(axis=1) == y).mean() > 0.95


@pytest.mark.parametrize(
    ("labels", "p", "words"),
    [
        ([0, 1, 0], np.full((2, 2), 0.5), "do not go together"),
        ([], np.zeros((0, 2)), "do not go together"),
        ([0, 1], [[np.nan, 1], [0, 1]], "row 0 are missing, not finite or negative"),
        ([0, 1], [[2, -1], [0, 1]], "not finite or negative"),
        ([0, 1], [[3.0, 1.0], [4.0, 1.0]], "2 rows (row 0 for one) do not sum to 1"),
        ([0, 2], [[0.5, 0.5], [0, 1]], "labels reach from 0 to 2, for 2 classes"),
        ([1, 1], [[0.5, 0.5], [0, 1]], "all 2 labels are of one class"),
    ],
)
def test_wrong_arrays_are_refused_in_a_sentence(labels: list[int], p: object, words: str) -> None:
    with pytest.raises(DataError) as error:
        find_label_issues(np.array(labels, dtype=np.int64), np.asarray(p, dtype=np.float64))
    assert words in str(error.value)


def test_a_representation_that_is_not_finite_is_refused() -> None:
    z, true = clouds(60)
    z[7, 2] = np.nan
    with pytest.raises(DataError, match="a representation of row 7 is not finite"):
        judge_labels(z, true, K)


def test_one_class_is_refused() -> None:
    z, _ = clouds(60)
    with pytest.raises(DataError, match="3 labels of each of two classes, and 1 of 6 classes has as many"):
        judge_labels(z, np.full(60, 2), K)


@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_a_classifier_that_cannot_tell_the_classes_apart_judges_nobody(shift: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600)
    z = (rng.standard_normal((600, 40)) + shift * rng.standard_normal((10, 40))[labels]).astype(np.float32)
    with pytest.raises(DataError, match=r"the given label in only \d+% of the cases .* is no judge of labels: let a network"):
        judge_labels(z, labels, 10)


def test_labels_of_which_two_in_ten_are_wrong_are_judged_all_the_same() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 10, 600)
    labels = np.where(rng.random(600) < 0.2, rng.integers(0, 10, 600), true)
    z = (rng.standard_normal((600, 40)) + 1.5 * rng.standard_normal((10, 40))[true]).astype(np.float32)
    found = judge_labels(z, labels, 10)
    assert (labels != true)[found.flagged].mean() > 0.9
