"""Neighbors: all compared, or through an index that misses few of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.inference import neighbors
from ssl_diffusion.inference.neighbors import Neighbors, has_index

needs_faiss = pytest.mark.skipif(not has_index(), reason="the extra neighbors is not installed")


def digits(times: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors of real images, each several times with other noise and strength, without their mean."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    x = np.tile(load_digits().data, (times, 1)).astype(np.float32)
    x = x * rng.uniform(0.7, 1.3, (len(x), 1)) + rng.normal(0, 1.5, x.shape)
    x = (x - x.mean(axis=0)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_exact_neighbors_are_those_of_scikit_learn(k: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    x = digits()
    products, numbers = Neighbors(x, approximate=False).nearest(x, k, own=np.arange(len(x)))
    assert (numbers == NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)).mean() > 0.999  # but for ties
    assert products == pytest.approx(np.einsum("nf,nkf->nk", x, x[numbers]), abs=1e-5)
    assert (np.diff(products, axis=1) <= 0).all()


def test_queries_that_are_none_of_the_vectors_find_the_vector_itself() -> None:
    x = digits()
    assert Neighbors(x).nearest(x[[5, 0]], 1)[1].tolist() == [[5], [0]]
    assert Neighbors(x).nearest(x[:0], 2)[1].shape == (0, 2)


@pytest.mark.parametrize("approximate", [False, pytest.param(True, marks=needs_faiss)])
def test_where_there_are_fewer_neighbors_the_rest_is_marked(approximate: bool) -> None:
    index = Neighbors(np.eye(3, 4, dtype=np.float32), approximate=approximate)
    products, numbers = index.nearest(np.eye(3, 4, dtype=np.float32), 4, own=np.arange(3))
    assert np.sort(numbers[1]).tolist() == [-1, -1, 0, 2]
    assert np.isneginf(products[numbers < 0]).all()
    assert np.isfinite(products[numbers >= 0]).all()


def test_pairs_are_all_above_the_bound() -> None:
    x = digits()
    pairs = np.concatenate(list(Neighbors(x).pairs_above(x, 0.8)))
    products = np.triu(x @ x.T, 1)
    assert len(pairs) > 500
    assert set(map(tuple, pairs.tolist())) == set(map(tuple, np.argwhere(products > 0.8).tolist()))


@needs_faiss
def test_an_index_misses_few_neighbors_of_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_PROBES", 16)
    x = digits(8)
    every = np.arange(len(x))
    exact, index = Neighbors(x, approximate=False), Neighbors(x, approximate=True)
    (_, of_all), (products, found) = (which.nearest(x, 10, own=every) for which in (exact, index))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(of_all.tolist(), found.tolist(), strict=True)])
    assert 0.95 < recall < 1  # below 1: it is an index, not all compared
    assert (found != every[:, None]).all()
    assert products == pytest.approx(np.einsum("nf,nkf->nk", x, x[found]), abs=1e-5)
    near, some = ({tuple(pair) for part in which.pairs_above(x, 0.9) for pair in part.tolist()} for which in (exact, index))
    assert some <= near
    assert len(some) > 0.98 * len(near) > 1000
    again = Neighbors(x, approximate=True).nearest(x[:500], 10)
    assert [part.tolist() for part in again] == [part.tolist() for part in index.nearest(x[:500], 10)]


def test_without_faiss_all_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "has_index", lambda: False)
    monkeypatch.setattr(neighbors, "LARGE", 10)
    x = digits()
    index = Neighbors(x)
    assert not index.approximate
    assert index.nearest(x, 3)[1].tolist() == Neighbors(x, approximate=False).nearest(x, 3)[1].tolist()
    with pytest.raises(SSLDError, match=r"pip install 'ssld\[neighbors\]'"):
        Neighbors(x, approximate=True)


@needs_faiss
def test_an_index_is_made_of_many_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "LARGE", 1797)
    x = digits()
    assert Neighbors(x).approximate
    assert not Neighbors(x[1:]).approximate
    assert not Neighbors(x, approximate=False).approximate


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3)], ids=["none", "of nothing", "one"])
def test_what_is_no_set_of_vectors_is_refused(x: NDArray[np.float64]) -> None:
    with pytest.raises(DataError, match="these have shape"):
        Neighbors(x.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(value: float) -> None:
    x = digits()
    x[7, 3] = value
    with pytest.raises(DataError, match="vector 7 is not finite"):
        Neighbors(x)


def test_queries_of_another_length_or_number_are_refused() -> None:
    index = Neighbors(digits())
    with pytest.raises(DataError, match="64 numbers"):
        index.nearest(np.zeros((2, 63), np.float32), 1)
    with pytest.raises(DataError, match="1,797 vectors, not 2"):
        next(index.pairs_above(np.zeros((2, 64), np.float32), 0.5))
    with pytest.raises(DataError, match="not 0"):
        index.nearest(digits()[:1], 0)
