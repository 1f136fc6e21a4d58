"""A server with accounts: who may log in, what each role may do, and under whose name it is recorded."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from support.accounts import make_accounts, password
from support.annotation_jobs import make_job, truth
from support.commands import refused

from ssl_diffusion.annotation.accounts import ROLES, Accounts, may
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.client import RemoteJob
from ssl_diffusion.annotation.page.permissions import NEEDED, OPEN, VERBS
from ssl_diffusion.annotation.page.server import make_app, make_jobs_app
from ssl_diffusion.annotation.store import people, queries
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError

TEAM = "http://team.example"
TYPED = {"annotator": "somebody else", "holder": "tab"}


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return make_accounts(tmp_path / "team.json")


@pytest.fixture
def app(job: Job, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fits.Background.start", lambda *_, **__: False)  # fits take long
    app = make_app(job, host="0.0.0.0", accounts=accounts)
    with TestClient(app, base_url=TEAM):
        yield app


def client_of(app: FastAPI, name: str, *, at: str = TEAM) -> TestClient:
    """Somebody who has logged in."""
    client = TestClient(app, base_url=at, follow_redirects=False)
    answer = client.post(f"{TEAM}/login", json={"name": name, "password": password(name)})
    assert answer.status_code == 200, answer.text
    client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
    return client


def digest(app: FastAPI, job: Job, id_: str) -> str:
    return str(app.state.page.pictures.digest(int(job.store.positions([id_])[0])))


def label(client: TestClient, job: Job, id_: str, name: str, **more: Any) -> Any:
    body = {**TYPED, "id": id_, "verb": "label", "label": name, "token": f"{id_} {name} {id(client)}", **more}
    return client.post("/api/label", json={**body, "digest": digest(client.app, job, id_)})  # type: ignore[arg-type]


def events(job: Job) -> list[tuple[str, str, str]]:
    """Kind, sample and person of what was done."""
    return [
        (row["kind"], row["id"], row["annotator"])
        for row in queries.history(job.store)
        if row["kind"] not in ("queried", "shown")
    ]


# -- the table of routes ----------------------------------------------------------------------------------------------


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Routes, by the description that the application gives of itself and by its list of routes."""
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    listed = {(method, route.path) for route in app.routes if isinstance(route, APIRoute) for method in route.methods}
    return described | listed


def test_every_route_is_in_the_table_and_nothing_else(job: Job, accounts: Accounts) -> None:
    several = make_jobs_app({"job": job}, accounts=accounts)
    one = make_app(job, accounts=accounts)
    found = routes_of(several) | routes_of(one)
    assert len(found) > 25
    assert found | {("GET", "/api/openapi.json")} == {*NEEDED, *OPEN}
    assert set(NEEDED.values()) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_table_says(app: FastAPI, job: Job, role: str) -> None:
    client = client_of(app, role)
    allowed = []
    for (method, path), needed in NEEDED.items():
        if path in ("/api/jobs", "/job/{name}", "/logout"):
            continue  # of another application; of the end
        answer = client.request(method, path, json={} if method == "POST" else None)
        if may(role, needed):  # type: ignore[arg-type]
            assert answer.status_code not in (401, 403), (path, answer.text)
            allowed.append(path)
        else:
            assert answer.status_code == 403, (path, answer.text)
            assert answer.json()["error"] == f"{method} {path} needs the role {needed}: {role} is {_a(role)}"
    assert len(allowed) > 15
    assert ("/api/fit" in allowed) == (role == "owner")
    assert ("/api/decide" in allowed) == (role != "annotator")


def _a(role: str) -> str:
    return f"{'a' if role == 'reviewer' else 'an'} {role}"


def test_a_route_that_the_table_lacks_is_the_owners(app: FastAPI) -> None:
    @app.get("/api/new")
    def new() -> dict[str, str]:
        return {"secret": "yes"}

    assert [client_of(app, role).get("/api/new").status_code for role in ROLES] == [403, 403, 200]


def test_without_accounts_everybody_may_do_everything(job: Job) -> None:
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        found = client.get("/api/session").json()
        assert found["account"] is None
        client.headers["X-CSRF-Token"] = found["csrf"]
        assert client.post("/api/classes", json={"name": "new"}).status_code == 200
        assert client.post("/api/fit").status_code == 415  # past the roles
        assert client.post("/password", json={"password": "x", "new": "y"}).json()["error"].startswith("this server has no acc")


# -- names ------------------------------------------------------------------------------------------------------------


def test_everything_is_recorded_under_the_name_of_the_account(app: FastAPI, job: Job) -> None:
    client = client_of(app, "owner")
    once = iter(range(100))

    def post(path: str, **body: Any) -> dict[str, Any]:
        answer = client.post(path, json={**TYPED, "token": f"once {next(once)}", **body})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert client.get("/api/session").json()["account"] == {"name": "owner", "role": "owner"}
    if post("/api/next")["sample"] is None:
        assert app.state.page.bench.idle(60)
    assert post("/api/next")["sample"] is not None
    post("/api/label", id="0000.png", verb="label", label="3", digest=digest(app, job, "0000.png"))
    post("/api/label", id="0001.png", verb="flag")
    post("/api/comment", id="0001.png", text="a word")
    post("/api/decide", id="0002.png", decision="change", label="4", digest=digest(app, job, "0002.png"), seen=1000)
    sheet = post("/api/sheet", kind="similar", n=3)["samples"]
    samples = [{"id": each["id"], "digest": each["digest"]} for each in sheet]
    assert post("/api/sheet/label", samples=samples, label="5")["labeled"] == 3
    post("/api/take", id="0000.png")
    post("/api/class", verb="rename", name="9", to="nine")
    names = {row["annotator"] for row in queries.history(job.store) if row["kind"] != "queried"}
    assert names == {"owner"}
    assert {event["annotator"] for event in people.latest_events(job.store)} == {"owner"}
    assert {"labeled", "flagged", "commented"} <= {kind for kind, _, _ in events(job)}


def test_nobody_takes_back_what_another_account_did(app: FastAPI, job: Job) -> None:
    body = {"token": f"0000.png 3 {id(owner := client_of(app, 'owner'))}"}
    assert label(owner, job, "0000.png", "3").status_code == 200
    other = client_of(app, "other")
    assert other.post("/api/undo", json={**TYPED, "annotator": "owner", **body}).json() == {
        "sample": None,
        "ahead": [],
        "ids": [],
    }
    assert queries.counts(job.store)["labeled"] == 1


# -- what annotators may not ------------------------------------------------------------------------------------------


def test_annotators_do_not_contradict_others_and_reviewers_may(app: FastAPI, job: Job) -> None:
    first, other, reviewer = (client_of(app, name) for name in ("annotator", "other", "reviewer"))
    assert label(first, job, "0000.png", "3").status_code == 200
    assert label(first, job, "0000.png", "4").json() == {"status": "labeled"}  # one's own
    for id_ in ("0000.png", "0001.png"):
        answer = label(other, job, id_, "5")
        assert answer.status_code == (409 if id_ == "0000.png" else 200), answer.text
    assert "has been labeled by others: flag it, or comment" in label(other, job, "0000.png", "5").json()["error"]
    samples = [{"id": id_, "digest": digest(app, job, id_)} for id_ in ("0002.png", "0000.png")]
    answer = other.post("/api/sheet/label", json={**TYPED, "samples": samples, "label": "5", "token": "sheet"})
    assert answer.status_code == 409
    skipped = other.post("/api/label", json={**TYPED, "id": "0000.png", "verb": "skip", "token": "s"})
    assert skipped.status_code == 409
    assert queries.counts(job.store)["labeled"] == 2
    assert label(reviewer, job, "0000.png", "5").json() == {"status": "disputed"}
    # A dispute that an annotator opens is not settled by an annotator.
    other.post("/api/take", json={**TYPED, "id": "0000.png"})
    assert label(other, job, "0000.png", "6").status_code == 409
    first.post("/api/take", json={**TYPED, "id": "0000.png"})
    assert label(first, job, "0000.png", "7").json() == {"status": "disputed"}
    reviewer.post("/api/take", json={**TYPED, "id": "0000.png"})
    assert label(reviewer, job, "0000.png", "8").json() == {"status": "labeled"}
    assert {row["id"]: row["label"] for row in queries.listing(job.store)} == {"0000.png": "8", "0001.png": "5"}


def test_a_label_that_is_sent_twice_is_no_contradiction(app: FastAPI, job: Job) -> None:
    client = client_of(app, "annotator")
    assert [label(client, job, "0000.png", "3").json() for _ in range(2)] == [{"status": "labeled"}] * 2
    assert [kind for kind, _, _ in events(job)] == ["labeled"]


def test_verbs_need_roles_and_a_flag_is_removed_by_who_set_it(app: FastAPI, job: Job) -> None:
    first, other, reviewer = (client_of(app, name) for name in ("annotator", "other", "reviewer"))
    once = iter(range(100))

    def say(client: TestClient, verb: str, id_: str = "0000.png") -> int:
        body = {**TYPED, "id": id_, "verb": verb, "token": f"{verb} {next(once)}"}
        return client.post("/api/label", json=body).status_code

    assert say(first, "flag") == 200
    assert say(other, "un-flag") == 403
    assert say(first, "un-flag") == 200
    assert say(other, "flag") == 200
    assert say(reviewer, "un-flag") == 200
    for verb in ("keep", "drop"):
        assert say(first, verb) == 403
        assert say(reviewer, verb) == 200
    assert set(VERBS.values()) == {"annotator", "reviewer"}
    body = {**TYPED, "id": "0000.png", "verb": "drop", "token": "d"}
    assert first.post("/api/label", json=body).json()["error"] == "drop needs the role reviewer: annotator is an annotator"


def test_annotators_are_told_of_themselves(app: FastAPI, job: Job, digits_pool: Pool) -> None:
    first, reviewer = client_of(app, "annotator"), client_of(app, "reviewer")
    label(first, job, "0000.png", truth(digits_pool, "0000.png"))
    label(reviewer, job, "0001.png", truth(digits_pool, "0001.png"))
    everything = reviewer.get("/api/history").json()
    assert {each["name"] for each in everything["annotators"]} == {"annotator", "reviewer"}
    assert {each["annotator"] for each in everything["events"]} == {"annotator", "reviewer"}
    for query in ("", "?annotator=reviewer"):
        own = first.get(f"/api/history{query}").json()
        assert {each["name"] for each in own["annotators"]} == {"annotator"}
        assert {each["annotator"] for each in own["events"]} == {"annotator"}
    (event,) = first.get("/api/history?id=0001.png").json()["events"]  # what was said of an image is said to all
    assert event["annotator"] == "reviewer"


# -- logging in -------------------------------------------------------------------------------------------------------


def test_nothing_is_told_before_the_log_in(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = TestClient(app, base_url=TEAM, follow_redirects=False)
    assert client.get("/").headers["location"] == "/login"
    for path in ("/api/session", "/api/state", "/image?id=0000.png", "/static/app.js", "/api/openapi.json", "/nothing"):
        assert client.get(path).status_code == 401, path
    form = client.get("/login").text
    assert 'id="password"' in form
    assert 'id="token"' not in form
    for name, given in (("owner", "wrong"), ("nobody", "wrong"), ("", "")):
        answer = client.post("/login", json={"name": name, "password": given})
        assert (answer.status_code, answer.json()) == (401, {"error": "that is no name with its password"})
        assert "set-cookie" not in answer.headers
    for bad in (b"", b"{", b'{"name": "owner"}', b'{"name": 1, "password": 2}', b"[]", b'{"name": "\\ud800", "password": "x"}'):
        answer = client.post("/login", content=bad, headers={"Content-Type": "application/json"})
        assert answer.status_code in (401, 422), bad
    right = client.post("/login", json={"name": "owner", "password": password("owner")})
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert client.get("/api/session").status_code == 200
    behind = TestClient(app, base_url="https://team.example").post(
        "/login", json={"name": "owner", "password": password("owner")}
    )
    assert "secure" in behind.headers["set-cookie"].lower()
    assert password("owner") not in caplog.text


def test_other_sites_cannot_log_in_or_write(app: FastAPI, job: Job) -> None:
    """What a form or a script of another site can send: without asking first, no JSON, and no header of the page."""
    known = {"name": "owner", "password": password("owner")}
    stranger = TestClient(app, base_url=TEAM)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = stranger.post("/login", content=json.dumps(known).encode(), headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == 415, kind
        assert "set-cookie" not in answer.headers
    asked = stranger.options("/login", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"})
    assert not [name for name in asked.headers if name.startswith("access-control")]
    owner, other = client_of(app, "owner"), client_of(app, "other")
    for secret in ("", "wrong", app.state.guard.csrf, other.headers["X-CSRF-Token"]):
        answer = owner.post("/api/classes", json={"name": "pwned"}, headers={"X-CSRF-Token": secret})
        assert answer.status_code == 403, secret
    assert owner.post("/logout", json={}, headers={"X-CSRF-Token": ""}).status_code == 403
    assert len(job.store.classes) == 10
    assert owner.post("/api/classes", json={"name": "new"}).status_code == 200


def test_wrong_passwords_wait_by_name_and_address(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("ssl_diffusion.annotation.http_access.time.monotonic", lambda: now)

    def login(address: str, name: str, given: str | None = None) -> Any:
        client = TestClient(app, base_url=TEAM, client=(address, 5000))
        return client.post("/login", json={"name": name, "password": password(name) if given is None else given})

    assert [login("192.0.2.1", "owner", f"guess {i}").status_code for i in range(7)] == [401] * 5 + [429] * 2
    waiting = login("192.0.2.1", "owner")
    assert (waiting.status_code, waiting.headers["retry-after"]) == (429, "1")
    assert login("192.0.2.1", "other").status_code == 200  # which does not start the count of the owner again
    assert login("192.0.2.1", "owner").status_code == 429
    assert login("192.0.2.2", "owner").status_code == 200  # and the owner is not locked out
    now += 1
    assert login("192.0.2.1", "owner", "guess").status_code == 401
    assert login("192.0.2.1", "owner").headers["retry-after"] == "2"
    now += 60
    assert login("192.0.2.1", "owner").status_code == 200


def test_a_cookie_ends_with_its_session_and_its_account(app: FastAPI, accounts: Accounts) -> None:
    leaves, removed, changes = client_of(app, "other"), client_of(app, "annotator"), client_of(app, "reviewer")
    cookie = leaves.cookies["ssld"]
    assert leaves.post("/logout", json={}).status_code == 200
    assert leaves.get("/api/session").status_code == 401
    again = TestClient(app, base_url=TEAM, cookies={"ssld": cookie})
    assert again.get("/api/session").status_code == 401
    Accounts(accounts.path).remove("annotator")  # as another process does
    assert removed.get("/api/session").status_code == 401
    assert changes.post("/api/fit", json={}).status_code == 403
    Accounts(accounts.path).set_role("reviewer", "owner")
    assert changes.post("/api/fit", json={}).status_code == 200
    for made_up in (b"", b"x", "é".encode(), b"\xff", b"0" * 5000):
        stranger = TestClient(app, base_url=TEAM)
        assert stranger.get("/api/session", headers=[(b"Cookie", b"ssld=" + made_up)]).status_code == 401


def test_accounts_that_cannot_be_read_let_nobody_in(app: FastAPI, accounts: Accounts) -> None:
    client = client_of(app, "owner")
    text = accounts.path.read_text()
    for damage in ("{", '{"accounts": []}', None):
        accounts.path.unlink() if damage is None else accounts.path.write_text(damage)
        for answer in (
            client.get("/api/session"),
            client.post("/login", json={"name": "owner", "password": password("owner")}),
        ):
            assert answer.status_code in (400, 503), answer.text
            assert str(accounts.path) not in answer.text
    accounts.path.write_text(text)
    assert client.get("/api/session").status_code == 200


def test_ones_own_password_is_changed_with_the_old_one(app: FastAPI, accounts: Accounts) -> None:
    client, elsewhere = client_of(app, "other"), client_of(app, "other")

    def change(old: str, new: str) -> Any:
        return client.post("/password", json={"password": old, "new": new})

    assert change("wrong", "a new and long password").json() == {"error": "that is not the password until now"}
    assert "a password has 12 to 1000 characters" in change(password("other"), "short").json()["error"]
    assert accounts.check("other", password("other")) is not None
    assert change(password("other"), "a new and long password").status_code == 200
    assert client.get("/api/session").status_code == 200
    assert elsewhere.get("/api/session").status_code == 401
    assert accounts.check("other", "a new and long password") is not None


def test_a_server_has_the_token_or_accounts(job: Job, accounts: Accounts, tmp_path: Path) -> None:
    with pytest.raises(SSLDError, match="not both"):
        make_app(job, accounts=accounts, token="a token that is long enough")
    words = ("loop", "serve", job.path, "--no-open")
    assert "not both" in refused(*words, "--accounts", accounts.path, "--token", "a token that is long enough")
    missing = refused(*words, "--accounts", tmp_path / "none.json", "--host", "0.0.0.0")
    assert re.search(
        r"none\.json is missing; add an owner with: ssld loop accounts add .*none\.json NAME --role owner", missing
    )


def test_a_client_logs_in_with_an_account(job: Job, accounts: Accounts, digits_pool: Pool) -> None:
    app = make_jobs_app({"job": job}, host="0.0.0.0", accounts=accounts)
    with TestClient(app, base_url=TEAM) as server:
        at = f"{TEAM}/job/job/"
        with pytest.raises(SSLDError, match="no name with its password"):
            RemoteJob("", "other", password="wrong", client=TestClient(app, base_url=at))
        with RemoteJob("", "other", password=password("other"), client=TestClient(app, base_url=at)) as remote:
            sample = remote.next()
            if sample is None:
                assert app.state.pages["job"].bench.idle(60)
                sample = remote.next()
            assert sample is not None
            assert remote.label(sample, truth(digits_pool, sample["id"])) == "labeled"
            with pytest.raises(SSLDError, match="needs the role owner: other is an annotator"):
                remote.fit()
        assert [each[2] for each in events(job)] == ["other"]
        owner = client_of(server.app, "owner")  # type: ignore[arg-type]
        assert owner.get("/api/jobs").json()["jobs"][0]["overview"]["last_by"] == "other"
