"""Host headers that are to get around the token or the page's secret, on the labeling page and on Label Studio's model server.

Requests are put to the applications as a server would, since clients do not send such headers.
"""

import asyncio
import base64
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from support.annotation_jobs import make_job
from support.serving import served

from ssl_diffusion.annotation.label_studio.backend import Backend, make_backend
from ssl_diffusion.annotation.label_studio.client import LabelStudio
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.data.pool import Pool

TOKEN = "a token that is long enough"
ME = {"annotator": "ann", "holder": "tab"}
Headers = dict[str, str]

# What the Host header of a request is; several are several headers.
MALFORMED: list[list[bytes]] = [
    [],
    [b""],
    [b"127.0.0.1", b"127.0.0.1"],
    [b"localhost", b"evil.com"],
    *(
        [host]
        for host in (
            b"x/login?", b"x/static/style.css?", b"x/login#", b"localhost/login?", b"evil.com/", b"user@localhost",
            b"a{b.evil.com", b'a"b.evil.com', b"a`b.evil.com", b"ev il.com", b" localhost", b"localhost\n", b":8700",
            b"\xc3\xb6.localhost", b"evil.com:99999", b"localhost:0", b"localhost:", b"localhost:80:80", b"localhost:8o",
            b".", b".localhost", b"localhost..", b"evil..com", b"localhost,evil.com",
            b"[::1].evil.com", b"[::1", b"::1", b"[]", b"[::1]x", b"[::1%lo]", b"[:::1]", b"[127.0.0.1]", b"[evil.com]",
        )
    ),
]  # fmt: skip
HERE = [b"localhost", b"LocalHost:8700", b"127.0.0.1", b"127.8.9.1:1", b"[::1]", b"[::1]:65535", b"[0:0:0:0:0:0:0:1]:8700"]
ELSEWHERE = [
    b"photos.example", b"photos.example.:8700", b"label_studio:9090", b"192.168.1.2:8700", b"[2001:db8::1]:80", b"0.0.0.0",
    b"localhost.evil.com", b"127.0.0.1.evil.com", b"1.evil.com:80",
]  # fmt: skip


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def ask(app: FastAPI, method: str, path: str, hosts: list[bytes], headers: Headers, body: bytes = b"") -> Answer:
    """What an application answers to a request whose Host headers are these bytes."""
    sent: list[dict[str, Any]] = []
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # nobody hangs up
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    given = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [*((b"host", host) for host in hosts), *given, (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8700),
    }
    asyncio.run(app(scope, receive, send))
    start, *rest = sent
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], names, b"".join(message.get("body", b"") for message in rest))


def post(app: FastAPI, path: str, hosts: list[bytes], headers: Headers, body: dict[str, Any]) -> Answer:
    return ask(app, "POST", path, hosts, {"content-type": "application/json", **headers}, json.dumps(body).encode())


def label_on(app: FastAPI, job: Job) -> dict[str, str]:
    """A label that the page takes from somebody who may give it."""
    digest = app.state.page.pictures.digest(int(job.store.positions(["0000.png"])[0]))
    return {"id": "0000.png", "verb": "label", "label": "3", "token": "once", "digest": digest, **ME}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny: list[str]) -> Job:
    """A job that nobody may write to."""
    return make_job(tmp_path_factory.mktemp("refused"), digits_pool, tiny, "--n", 4)


@pytest.fixture(params=[None, TOKEN], ids=["here", "token"])
def token(request: pytest.FixtureRequest) -> str | None:
    return request.param


def credentials(app: FastAPI, token: str | None) -> Headers:
    """Headers of somebody who may do everything on a page."""
    headers = {}
    if token is not None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        answer = ask(app, "POST", "/login", [b"127.0.0.1"], form, f"token={token.replace(' ', '+')}".encode())
        headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
    return {**headers, "x-csrf-token": ask(app, "GET", "/api/session", [b"127.0.0.1"], headers).json()["csrf"]}


def written(job: Job) -> tuple[tuple[str, ...], int]:
    """Classes, and how many labels there are."""
    return job.store.classes, queries.counts(job.store)["labeled"]


@pytest.mark.parametrize("known", [False, True], ids=["stranger", "known"])
@pytest.mark.parametrize("hosts", MALFORMED, ids=repr)
def test_no_malformed_host_gets_into_the_page(job: Job, token: str | None, hosts: list[bytes], known: bool) -> None:
    app = make_app(job, token=token)
    headers = credentials(app, token)
    before = written(job)
    sent = headers if known else {}
    answers = [
        ask(app, "GET", "/api/session", hosts, sent),
        post(app, "/api/classes", hosts, sent, {"name": "pwned"}),
        post(app, "/api/label", hosts, sent, label_on(app, job)),
        ask(app, "GET", "/login", hosts, sent),
    ]
    assert not any(headers["x-csrf-token"].encode() in answer.content for answer in answers)
    assert written(job) == before
    assert [answer.status for answer in answers] == [400] * 4
    assert all("Host header" in answer.json()["error"] for answer in answers)
    assert all("content-security-policy" in answer.headers for answer in answers)


@pytest.mark.parametrize("host", HERE + ELSEWHERE, ids=repr)
def test_a_page_is_served_by_the_names_of_this_machine_and_with_a_token_by_all(
    job: Job, token: str | None, host: bytes
) -> None:
    app = make_app(job, token=token)
    headers, before = credentials(app, token), written(job)
    session = ask(app, "GET", "/api/session", [host], headers)
    unknown = post(app, "/api/take", [host], headers, {**ME, "id": "no such image"})
    if token is None and host in ELSEWHERE:
        assert (session.status, unknown.status) == (421, 421)
        assert "csrf" not in session.content.decode()
    else:
        assert session.json()["csrf"] == headers["x-csrf-token"]
        assert "no such image" in unknown.json()["error"]
        assert ask(app, "GET", "/api/session", [host], {}).status == (200 if token is None else 401)
        assert post(app, "/api/classes", [host], {}, {"name": "pwned"}).status == (403 if token is None else 401)
    assert written(job) == before


def test_what_is_refused_above_is_done_for_those_who_may(
    tmp_path: Path, digits_pool: Pool, tiny: list[str], token: str | None
) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 4)
    app = make_app(job, token=token)
    headers = credentials(app, token)
    assert post(app, "/api/classes", [b"localhost"], headers, {"name": "new"}).json()["classes"][-1] == "new"
    assert post(app, "/api/label", [b"localhost"], headers, label_on(app, job)).json() == {"status": "labeled"}
    assert written(job) == ((*digits_pool.classes, "new"), 1)


class Listening(Backend):
    """A model server that keeps what it hears: it would take over labels and train."""

    heard: str = ""

    def on_event(self, action: str) -> None:
        self.heard = action


@pytest.mark.parametrize("hosts", [*MALFORMED, [HERE[1]], [HERE[-1]], *([host] for host in ELSEWHERE)], ids=repr)
def test_a_model_server_hears_those_only_who_may(job: Job, token: str | None, hosts: list[bytes]) -> None:
    backend = Listening(job, LabelStudio("http://teams.test", TOKEN), 7)
    app = make_backend(backend, token=token)
    password = {} if token is None else {"authorization": "Basic " + base64.b64encode(f"ssld:{token}".encode()).decode()}
    answers = [
        post(app, "/webhook", hosts, password, {"action": "START_TRAINING"}),
        post(app, "/predict", hosts, password, {"tasks": [], "label_config": ""}),
        ask(app, "GET", "/health", hosts, password),
    ]
    if hosts in MALFORMED:
        assert backend.heard == ""
        assert [answer.status for answer in answers] == [400] * 3
    elif token is None and hosts[0] in ELSEWHERE:
        assert backend.heard == ""
        assert [answer.status for answer in answers] == [421] * 3
    else:
        assert backend.heard == "START_TRAINING"
        assert answers[2].json()["status"] == "UP"
        assert ask(app, "GET", "/health", hosts, {}).status == (200 if token is None else 401)
    assert all("error" in answer.json() for answer in answers if answer.status != 200)


def test_the_attack_fails_over_a_socket(job: Job, token: str | None) -> None:
    before = written(job)
    body = json.dumps({"name": "pwned"}).encode()
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    with served(make_app(job, token=token)) as port:
        for host in (b"Host: x/login?\r\n", b"Host: evil.com/\r\n", b"Host: localhost\r\nHost: x\r\n", b"Host:\r\n", b""):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(b"POST /api/classes HTTP/1.1\r\n" + host + head + body)
                assert connection.makefile("rb").readline().split()[1] == b"400", host
        answer = httpx.get(f"http://127.0.0.1:{port}/api/session")
        assert answer.status_code == (200 if token is None else 401)
    assert written(job) == before
