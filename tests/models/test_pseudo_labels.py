"""Labels spread over the pool: closed forms on small graphs, and a head that is taught them only where that helps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from sklearn.datasets import make_moons

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.models.probe import LinearProbe, fit_probe, standardisation
from ssl_diffusion.models.pseudo_labels import (
    LARGEST_BUDGET,
    PseudoLabelProbe,
    fit_pseudo_label_probe,
    neighbor_graph,
    poisson_scores,
    pseudo_labels,
)

Sets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def line(n: int) -> sparse.csr_matrix:
    return sparse.diags([np.ones(n - 1), np.ones(n - 1)], [-1, 1]).tocsr()


def test_on_a_line_scores_fall_evenly_from_one_label_to_the_other() -> None:
    """The Laplacian of a line is the second difference: between two sources the solution is straight."""
    u = poisson_scores(line(6), np.array([0, 5]), np.array([0, 1]), 2)
    np.testing.assert_allclose(np.diff(u[:, 0]), -0.5, atol=0.02)
    np.testing.assert_allclose(u.sum(axis=1), 0, atol=1e-6)


def test_a_part_without_a_path_to_the_rest_has_the_class_of_its_only_label() -> None:
    graph = sparse.block_diag([line(4), line(5), line(3)]).tocsr()
    u = poisson_scores(graph, np.array([0, 8]), np.array([1, 0]), 3)
    assert u[:4].argmax(axis=1).tolist() == [1] * 4
    assert u[4:9].argmax(axis=1).tolist() == [0] * 5
    assert np.isfinite(u).all()


def test_one_label_a_class_is_enough_for_two_moons() -> None:
    """Their classes are no halves of the plane: a probe of the same two labels fails."""
    x, y = make_moons(400, noise=0.05, random_state=0)
    rows = np.array([np.flatnonzero(y == 0)[0], np.flatnonzero(y == 1)[0]])
    u = poisson_scores(neighbor_graph((x - x.mean(axis=0)).astype(np.float32) @ LIFT + RING), rows, y[rows], 2)
    assert (u.argmax(axis=1) == y).mean() > 0.97


LIFT = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
RING = np.array([0, 0, 3], dtype=np.float32)  # so that lengths, which are made equal, do not matter


def test_neighbors_are_symmetric_and_not_the_sample_itself() -> None:
    graph = neighbor_graph(np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32), n_neighbors=5)
    assert abs(graph - graph.T).max() == 0
    assert graph.diagonal().max() == 0
    assert ((graph > 0).sum(axis=1) >= 5).all()
    assert graph.max() <= 1


@given(
    arrays(np.float64, (7, 3), elements=st.floats(-50, 50)),
    arrays(np.float64, (7, 3), elements=st.floats(0.01, 1)),
)
def test_pseudo_labels_are_probabilities(scores: np.ndarray, p: np.ndarray) -> None:
    p = p / p.sum(axis=1, keepdims=True)
    q = pseudo_labels(scores, p)
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q.sum(axis=1), 1, atol=1e-9)


def test_a_graph_that_says_nothing_leaves_the_probe_as_it_is() -> None:
    p = np.array([[0.2, 0.8], [0.7, 0.3]])
    np.testing.assert_allclose(pseudo_labels(np.zeros((2, 2)), p).argmax(axis=1), [1, 0])


@pytest.fixture(scope="module")
def digits(digits_pool: Pool) -> Sets:
    """Standardised pixels: of 40 labeled images, of unlabeled ones, and of the test split."""
    z = digits_pool.images.reshape(len(digits_pool), -1).astype(np.float32)
    mean, scale = standardisation(z[digits_pool.train])
    z = ((z - mean) / scale).astype(np.float32)
    rng = np.random.default_rng(0)
    train = rng.permutation(digits_pool.train)
    y = digits_pool.labels
    labeled = np.concatenate([train[y[train] == k][:4] for k in range(10)])
    others = np.setdiff1d(train, labeled)[::3]
    return z[labeled], y[labeled], z[others], z[digits_pool.test], y[digits_pool.test]


def accuracy(probe: LinearProbe, z: np.ndarray, y: np.ndarray) -> float:
    return float((probe.logits(z).argmax(axis=1) == y).mean())


def test_digits_of_few_labels_gain(digits: Sets) -> None:
    z, y, unlabeled, test, truth = digits
    first = fit_probe(z, y, None, 10)
    found = fit_pseudo_label_probe(first, z, y, unlabeled, 10)
    assert found.used
    assert found.nll is not None
    assert found.nll[1] < found.nll[0]
    assert str(found) == f"used: cross-validated NLL {found.nll[1]:.2f} with, {found.nll[0]:.2f} without"
    assert accuracy(found.probe, test, truth) > accuracy(first, test, truth) + 0.02
    again = fit_pseudo_label_probe(first, z, y, unlabeled, 10)
    np.testing.assert_array_equal(again.probe.weight, found.probe.weight)


def test_where_neighbors_say_nothing_of_the_classes_the_probe_stays(digits: Sets) -> None:
    z, _, unlabeled, _, _ = digits
    y = np.random.default_rng(1).permutation(np.arange(len(z)) % 10)
    first = fit_probe(z, y, None, 10)
    found = fit_pseudo_label_probe(first, z, y, unlabeled, 10)
    assert not found.used
    assert found.probe is first
    assert str(found).startswith("not used: ")


def test_two_classes_and_one_that_has_no_label(digits: Sets) -> None:
    z, y, unlabeled, test, truth = digits
    kept = np.isin(y, (3, 8))
    first = fit_probe(z[kept], y[kept], None, 10)
    found = fit_pseudo_label_probe(first, z[kept], y[kept], unlabeled, 10)
    of_two = np.isin(truth, (3, 8))
    assert accuracy(found.probe, test[of_two], truth[of_two]) > 0.8
    assert set(found.probe.logits(test[of_two]).argmax(axis=1)) <= {3, 8}


@pytest.mark.parametrize("case", ["many labels", "one label a class", "no unlabeled images"])
def test_where_nothing_can_be_tried_the_probe_stays(case: str, digits: Sets) -> None:
    z, y, unlabeled, _, _ = digits
    if case == "many labels":
        times = LARGEST_BUDGET // len(z) + 1
        z, y = np.tile(z, (times, 1)), np.tile(y, times)
    elif case == "one label a class":
        z, y = z[::4], y[::4]
    else:
        unlabeled = unlabeled[:0]
    first = LinearProbe(np.zeros((10, z.shape[1]), dtype=np.float32), np.zeros(10, dtype=np.float32), 30.0)
    assert fit_pseudo_label_probe(first, z, y, unlabeled, 10) == PseudoLabelProbe(first, False, None)
