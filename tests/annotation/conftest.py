"""Fits in the background are as important as the tests that wait for them."""

import pytest


@pytest.fixture(autouse=True)
def _fits_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fits._NICENESS", 0)


@pytest.fixture
def one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page searches one counterfactual of the sample that is asked for, and none ahead."""
    monkeypatch.setattr("ssl_diffusion.annotation.loop.counterfactuals._TARGETS", 1)
    monkeypatch.setattr("ssl_diffusion.annotation.loop.workbench._AHEAD", 0)


@pytest.fixture
def faint_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that nobody sees are shown, too: a model of a few steps is on the fence everywhere."""
    monkeypatch.setattr("ssl_diffusion.generation.pair_panels.FAINT", -1)
