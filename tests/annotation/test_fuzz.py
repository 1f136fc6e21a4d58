"""Requests made up from the OpenAPI descriptions of the labeling page and of the ML backend: no answer is a server error.

The applications do not serve their descriptions; they are read from them here.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from support.annotation_jobs import make_job

from ssl_diffusion.annotation.label_studio.backend import Backend, make_backend
from ssl_diffusion.annotation.label_studio.client import LabelStudio
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app, make_jobs_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.data.pool import Pool

schemathesis = pytest.importorskip("schemathesis", reason="the package schemathesis is not installed (extra: dev)")

BASE = "http://127.0.0.1:8700"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path_factory.mktemp("fuzz"), digits_pool, tiny, "--n", 10)


class Deaf(Backend):
    """A backend whose events start nothing, as there is no Label Studio."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def on_event(self, action: str) -> None:
        pass


def page(job: Job) -> FastAPI:
    return make_app(job)


def backend(job: Job) -> FastAPI:
    return make_backend(Deaf(job, LabelStudio("http://teams.test", "a token that is long enough"), 7))


def start(job: Job) -> FastAPI:
    return make_jobs_app({"job": job})


@pytest.fixture(params=[page, start, backend], ids=["page", "start", "backend"])
def app(request: pytest.FixtureRequest, job: Job, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    make: Callable[[Job], FastAPI] = request.param
    app = make(job)
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fits.Background.start", lambda *_, **__: False)
    return app


def strategies(app: FastAPI) -> Iterator[Any]:
    """Strategies for valid and for invalid requests of every operation."""
    description = schemathesis.openapi.from_dict(app.openapi())
    description.config.update(base_url=BASE)
    for found in description.get_all_operations():
        for mode in schemathesis.GenerationMode:
            yield found.ok().as_strategy(generation_mode=mode)


def send(client: TestClient, case: Any) -> None:
    """Send a request, with the page's own secret."""
    values = case.as_transport_kwargs()
    headers = {key: value for key, value in values.get("headers", {}).items() if key.lower() != "x-csrf-token"}
    known = {key: values[key] for key in ("method", "url", "params", "json", "cookies") if values.get(key) is not None}
    if (data := values.get("data")) is not None:
        known["content" if isinstance(data, bytes | str) else "data"] = data
    began = time.monotonic()
    answer = client.request(**known, headers=headers)
    assert answer.status_code < 500, (known, answer.text[:500])
    assert time.monotonic() - began < 30, known


def bombard(app: FastAPI, examples: int) -> int:
    """Send so many requests of every kind; returns how many there were."""
    sent = 0
    with TestClient(app, base_url=BASE, raise_server_exceptions=False, follow_redirects=False) as client:
        if hasattr(app.state, "guard"):
            client.headers["X-CSRF-Token"] = app.state.guard.csrf
        for strategy in strategies(app):

            @settings(
                max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=strategy)
            def one(case: Any) -> None:
                nonlocal sent
                sent += 1
                send(client, case)

            with suppress(Unsatisfiable):  # nothing is invalid where there is nothing to say
                one()
    return sent


def test_no_made_up_request_is_a_server_error(app: FastAPI, job: Job) -> None:
    assert bombard(app, examples=1) > 5
    queries.check(job.store)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_made_up_request_of_many_is_a_server_error(app: FastAPI, job: Job) -> None:
    sent = bombard(app, examples=100)
    assert sent > 300
    queries.check(job.store)
