"""Rows that are projected when they are asked for answer to an index as the projected array would."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssl_diffusion.inference.projection import DIMENSIONS, ProjectedRows, project


def arrays(n: int, n_features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A base with more rows than are looked at, and which of them are, some of them twice."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(2 * n + 3, n_features)).astype(np.float32)
    return base, rng.integers(0, len(base), n)


@st.composite
def keys(draw: st.DrawFn, n: int) -> Any:
    """What numpy takes as an index of the first axis."""
    return draw(
        st.integers(-n, n - 1)
        | st.integers(-n, n - 1).map(np.int64)
        | st.slices(n)
        | hnp.arrays(np.int64, st.integers(0, 2 * n), elements=st.integers(-n, n - 1))
        | hnp.arrays(np.bool_, n)
        | st.lists(st.integers(-n, n - 1), min_size=1, max_size=4)
    )


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 12), n_features=st.sampled_from([3, DIMENSIONS, DIMENSIONS + 40]), seed=st.integers(0, 99), data=st.data()
)
def test_an_index_answers_as_in_numpy(n: int, n_features: int, seed: int, data: st.DataObject) -> None:
    base, at = arrays(n, n_features, seed)
    rows, whole = ProjectedRows(base, at), project(base)[at]
    key = data.draw(keys(n))
    found = rows[key]
    assert found.shape == whole[key].shape
    np.testing.assert_allclose(found, whole[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_features", [5, DIMENSIONS + 1])
@pytest.mark.parametrize("n", [0, 1, 2047, 2049])
def test_all_rows_at_once(n: int, n_features: int) -> None:
    base, at = arrays(n, n_features, 0)
    rows = ProjectedRows(base, at)
    assert len(rows) == n
    assert rows.shape == (n, min(n_features, DIMENSIONS))
    np.testing.assert_allclose(np.asarray(rows), project(base)[at], rtol=1e-4, atol=1e-4)


def test_an_index_that_does_not_exist_is_refused() -> None:
    rows = ProjectedRows(*arrays(4, 3, 0))
    for key in (4, -5, [0, 4]):
        with pytest.raises(IndexError):
            rows[key]
