"""Fits in the background are as important as the tests that wait for them."""

import pytest


@pytest.fixture(autouse=True)
def _fits_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fits._NICENESS", 0)
