"""Shuffled streams without an end: every pass whole, however the stream is cut."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssl_diffusion.training.batches import EndlessShuffle


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 2**40), turn=st.integers(0, 50))
def test_every_pass_visits_everything_once(n: int, seed: int, turn: int) -> None:
    assert sorted(EndlessShuffle(n, seed).batch(turn * n, n)) == list(range(n))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 30), sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6), start=st.integers(0, 100))
def test_batches_are_pieces_of_one_stream_however_it_is_cut(n: int, sizes: list[int], start: int) -> None:
    assume(sum(sizes))
    whole = EndlessShuffle(n, 3).batch(start, sum(sizes))
    cut = EndlessShuffle(n, 3)
    offsets = start + np.cumsum([0, *sizes[:-1]])
    pieces = {int(at): cut.batch(int(at), size) for at, size in reversed(list(zip(offsets, sizes, strict=True))) if size}
    assert np.concatenate([pieces[at] for at in sorted(pieces)]).tolist() == whole.tolist()


def test_passes_and_seeds_differ() -> None:
    stream = EndlessShuffle(50, 0)
    first, second = stream.batch(0, 50), stream.batch(50, 50)
    assert first.tolist() != second.tolist()
    assert first.tolist() != EndlessShuffle(50, 1).batch(0, 50).tolist()


def test_an_empty_set_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="empty"):
        EndlessShuffle(0, 0)
