"""The map of a query: everything has its place, and looking changes nothing."""

import sys

import numpy as np
import pytest

from ssl_diffusion.acquisition import Candidates, choose
from ssl_diffusion.acquisition.pool_map import MAPS, overview, overview_figure
from ssl_diffusion.errors import SSLDError


def candidates(n: int, m: int = 3, f: int = 6) -> Candidates:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n + m, f)).astype(np.float32)
    return Candidates(x[:n], None, x[n:], np.zeros(m, np.int64), 0, np.random.default_rng(0))


@pytest.mark.parametrize(("n", "m", "f"), [(200, 3, 6), (30, 0, 6), (3, 1, 6), (1, 0, 6), (20, 2, 1)])
def test_everything_has_its_place(n: int, m: int, f: int) -> None:
    c = candidates(n, m, f)
    choice = choose("random", c, min(n, 4))
    state = c.rng.bit_generator.state
    seen = overview(c, choice)
    assert c.rng.bit_generator.state == state
    assert seen.rest.shape == (n - len(choice.picks), 2)
    assert seen.labeled.shape == (m, 2)
    assert seen.chosen.shape == (len(choice.picks), 2)
    assert np.isfinite(np.concatenate([seen.rest, seen.labeled, seen.chosen])).all()
    assert len(overview_figure(seen, "why").axes) == 2


def test_the_first_axis_is_the_widest() -> None:
    c = candidates(300)
    c.representation[:, 2] *= 20
    seen = overview(c, choose("random", c, 5))
    assert seen.rest[:, 0].std() > 5 * seen.rest[:, 1].std()
    along = np.corrcoef(seen.chosen[:, 0], c.representation[choose("random", candidates(300), 5).picks, 2])[0, 1]
    assert abs(along) > 0.99


def test_large_pools_show_a_part() -> None:
    c = candidates(9000)
    assert 4900 < len(overview(c, choose("random", c, 50)).rest) <= 5000


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    c = candidates(40)
    choice = choose("random", c, 4)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SSLDError, match=r"pip install 'ssld\[umap\]'"):
        overview(c, choice, "umap")
    with pytest.raises(SSLDError, match="one of pca, umap, not 'tsne'"):
        overview(c, choice, "tsne")
    assert MAPS == ("pca", "umap")


@pytest.mark.slow
def test_umap_places_everything() -> None:
    pytest.importorskip("umap", reason="the extra umap is not installed")
    c = candidates(60)
    seen = overview(c, choose("random", c, 4), "umap")
    assert seen.rest.shape == (56, 2)
    assert seen.labeled.shape == (3, 2)
