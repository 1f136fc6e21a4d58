"""A query on a run, and the same pool with its whole representation at hand: the same candidates and the same batch.

Neither reads images in the batches of the other, so numbers agree to rounding. The strategies that are compared do not turn on
that: k-means and searches, which may, are left out.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_diffusion.acquisition import STRATEGIES, Candidates, choose, query
from ssl_diffusion.acquisition.names import get_variant
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference import projection
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.inference.embedding import embed_whole
from ssl_diffusion.inference.embedding_store import EmbeddingStore
from ssl_diffusion.inference.predict import probabilities
from ssl_diffusion.inference.run import Run, load_run

STEADY = sorted(STRATEGIES.keys() - {"typiclust", "probcover", "latent-mix", "counterfactual", "deepfool"})


@pytest.fixture(scope="module")
def pool(digits_pool: Pool) -> Pool:
    """Some of the digits, of training and test split."""
    d, some = digits_pool, np.arange(0, len(digits_pool), 5)
    return Pool("some digits", d.images[some], d.ids[some], d.labels[some], d.classes, d.is_test[some])


@pytest.fixture(scope="module", params=[512, 16], ids=["whole", "projected"])
def roads(
    request: pytest.FixtureRequest, tiny_run: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Run, EmbeddedPool]]:
    """A run, and its pool with the representation that it gives, once as it is and once so long that it is projected."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("roads") / "run", ignore=shutil.ignore_patterns("scores"))
    run = load_run(folder, "cpu", "fp32")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(projection, "DIMENSIONS", request.param)
        projection.projection_matrix.cache_clear()
        store = EmbeddingStore(folder / "kept", run.digest())
        z = embed_whole(run.model, pool, store, "all", batch_size=100)
        assert (z.shape[1] > request.param) == (request.param == 16)
        yield run, EmbeddedPool(pool.images, z, pool.train, run.model, run.precision)
    projection.projection_matrix.cache_clear()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    strategy=st.sampled_from([*STEADY, "margin:diverse", "entropy:power"]),
    m=st.integers(1, 60),
    n=st.integers(1, 8),
    seed=st.integers(0, 1000),
    kept=st.booleans(),
)
def test_both_roads_lead_to_the_same_batch(
    roads: tuple[Run, EmbeddedPool], pool: Pool, strategy: str, m: int, n: int, seed: int, kept: bool
) -> None:
    run, whole = roads
    ids = pool.ids
    known = np.random.default_rng(seed).permutation(pool.train)[:m]
    with patch.object(sys.modules[query.__module__], "choose", wraps=choose) as spy:
        batch = query(run, pool, n, strategy, labeled=ids[known], random_state=seed, keep_scores=kept)
    one = spy.call_args.args[1]

    open_ = np.setdiff1d(pool.train, known)
    open_, known = (rows[np.argsort(ids[rows], kind="stable")] for rows in (open_, known))
    p = probabilities(whole.logits(None, open_), multilabel=False)
    rng = np.random.default_rng(seed)
    two = Candidates.of(whole, open_, known, pool.labels[known], len(run.classes), rng, p, run.model)

    assert len(one) == len(two) == len(open_)
    assert (one.n_classes, one.precision) == (two.n_classes, two.precision)
    if kept or get_variant(strategy).reads_representation:  # a query leaves out what its strategy does not look at
        np.testing.assert_allclose(one.x, two.x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.p, two.p, atol=1e-5)
    m = len(known) if get_variant(strategy).reads_labeled else 0  # and unread
    assert len(one.labeled_representation) == m
    if m:
        np.testing.assert_allclose(one.labeled_representation, two.labeled_representation, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(one.labeled_classes, two.labeled_classes[:m])
    np.testing.assert_array_equal(one.labeled_images, two.labeled_images[:m])
    some = np.arange(0, len(open_), 97)
    np.testing.assert_array_equal(one.images_of(some)[1], two.images_of(some)[1])

    choice = choose(strategy, two, n)
    assert batch.ids.tolist() == ids[open_[choice.picks]].tolist()
    np.testing.assert_allclose(batch.utilities, choice.utilities[choice.picks], rtol=1e-3, atol=1e-5)
