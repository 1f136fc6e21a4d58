"""Fits in the background are as important as the tests that wait for them; and what asks the page of a test's job."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from ssl_diffusion.annotation.loop.job import Job


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


@pytest.fixture
def client(job: "Job") -> "Iterator[TestClient]":
    """The page of the job that the test module makes."""
    from fastapi.testclient import TestClient

    from ssl_diffusion.annotation.page.server import make_app

    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
        yield client
