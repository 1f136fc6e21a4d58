"""The labeling page's server: what it answers, to whom, and what it never tells."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import event
from support.annotation_jobs import LEARNS, make_job, truth
from support.commands import ok, refused

from ssl_diffusion.annotation.http_access import Guard, is_loopback
from ssl_diffusion.annotation.loop.fits import fit_job
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.rounds import next_round
from ssl_diffusion.annotation.loop.workbench import Workbench
from ssl_diffusion.annotation.page import server
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError, SSLDError
from ssl_diffusion.generation import readiness

TOKEN = "a token that is long enough"
ME = {"annotator": "ann", "holder": "tab"}


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


class Page:
    """A browser that speaks JSON."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.bench: Workbench = client.app.state.page.bench  # type: ignore[attr-defined]
        self.headers = {"X-CSRF-Token": client.get("/api/session").json()["csrf"]}

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def next(self, who: dict[str, str] = ME) -> dict[str, Any]:
        """The next sample, once there is one."""
        found = self.post("/api/next", **who)["sample"]
        if found is None:  # a round is chosen
            assert self.bench.idle(60)
            found = self.post("/api/next", **who)["sample"]
        assert found is not None, self.client.get("/api/state").json()
        return dict(found)

    def say(self, id_: str, verb: str, who: dict[str, str] = ME, **more: Any) -> str:
        token = more.pop("token", f"{id_} {verb} {time.monotonic_ns()}")
        if verb == "label":
            more.setdefault("digest", self.digest(id_))
        return str(self.post("/api/label", id=id_, verb=verb, token=token, **who, **more)["status"])

    def digest(self, id_: str) -> str:
        """Digest of the image of a sample, as if it had just been shown."""
        pictures = self.client.app.state.page.pictures  # type: ignore[attr-defined]
        return str(pictures.digest(int(self.bench.job.store.positions([id_])[0])))


@pytest.fixture
def page(job: Job) -> Iterator[Page]:
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        yield Page(client)


def test_labels_skips_flags_and_undo_are_kept(page: Page, job: Job, digits_pool: Pool) -> None:
    first = page.next()
    assert first["image"] == f"image?id={first['id']}&digest={first['digest']}"
    assert page.next()["id"] == first["id"]  # a reload
    other = page.next({"annotator": "bob", "holder": "other"})
    assert other["id"] != first["id"]
    assert page.say(first["id"], "label", label=truth(digits_pool, first["id"]), seconds=2.5, token="1") == "labeled"
    second = page.next()
    page.say(second["id"], "flag")
    assert page.say(second["id"], "skip", token="2") == "skipped"
    assert page.post("/api/undo", **ME, token="2")["sample"]["id"] == second["id"]
    assert page.next()["id"] == second["id"]
    assert page.post("/api/undo", annotator="nobody", holder="x", token="1")["sample"] is None
    assert page.post("/api/undo", **ME, token="1")["sample"]["id"] == first["id"]
    assert page.post("/api/undo", **ME, token="1")["sample"] is None  # it does not stand any more
    state = page.client.get("/api/state").json()["status"]
    assert state["counts"]["labeled"] == 0
    assert state["counts"]["flagged"] == 1
    assert state["rounds"] == 1
    kinds = [row["kind"] for row in queries.history(job.store) if row["kind"] not in ("queried", "shown")]
    assert kinds == ["labeled", "flagged", "skipped", "un-labeled", "un-labeled"]
    assert [row["seconds"] for row in queries.history(job.store) if row["kind"] == "labeled"] == [2.5]
    queries.check(job.store)


def test_a_request_sent_twice_is_kept_once(page: Page, job: Job) -> None:
    id_ = page.next()["id"]
    for _ in range(2):
        page.say(id_, "label", label="3", token="same")
    assert [row["kind"] for row in queries.history(job.store)].count("labeled") == 1


def test_rounds_follow_one_another(page: Page, job: Job, digits_pool: Pool) -> None:
    for _ in range(24):
        id_ = page.next()["id"]
        page.say(id_, "label", label=truth(digits_pool, id_))
    assert page.client.get("/api/state").json()["status"]["rounds"] >= 3
    assert queries.counts(job.store)["labeled"] == 24
    assert page.client.get("/api/explanation", params={"id": page.next()["id"]}).json()["predictions"]  # there are classes now


@pytest.mark.usefixtures("no_pictures", "one_search", "faint_too")
def test_a_new_model_takes_over_and_shows_counterfactuals(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, [*tiny, *LEARNS])
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        new_model(Page(client), job, digits_pool)
    assert next_round(job, 2).strategy == "uherding"


def new_model(page: Page, job: Job, digits_pool: Pool) -> None:
    for i in range(30):
        page.say(f"{i:04d}.png", "label", label=truth(digits_pool, f"{i:04d}.png"))
    fit_job(job)
    page.bench.submit("model", page.bench.refresh_model)  # as it is every two seconds
    assert page.bench.idle(60)
    assert page.client.get("/api/state").json()["status"]["model"] == "joint model 001"
    sample = page.next()
    page.client.get("/api/explanation", params={"id": sample["id"]})
    assert page.bench.explainer.idle(60)
    found = page.client.get("/api/explanation", params={"id": sample["id"]}).json()
    assert found["ready"]
    assert found["counterfactuals"], found
    assert {c["label"] for c in found["counterfactuals"]} <= set(digits_pool.classes)
    pictures = [picture["image"] for each in found["counterfactuals"] for picture in each["pictures"]]
    assert pictures, found
    for address in pictures:
        assert page.client.get(address).headers["content-type"] == "image/png"
    assert page.client.get(pictures[0].replace("picture=", "picture=x")).status_code == 404
    assert page.client.get("/counterfactual", params={"id": sample["id"], "k": 9}).status_code == 404
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readiness, "LARGEST_RATIO", 0.0)  # a denoiser that has learned nothing shows nothing, and says why
        patch.setattr(page.bench.explainer, "_judged", None)  # as of a model that is new
        page.bench.rerank()
        found = page.client.get("/api/explanation", params={"id": sample["id"]}).json()
    assert found["counterfactuals"] == []
    assert "draws is noise" in json.dumps(found)
    assert found["predictions"]


def test_disputes_and_flags_can_be_reviewed_and_settled(page: Page, job: Job) -> None:
    job.store.label("0000.png", "3", Actor("ann"))
    job.store.label("0000.png", "4", Actor("bob"))
    job.store.flag("0001.png", Actor("bob"))
    rows = {row["id"]: row for row in page.client.get("/api/review").json()["samples"]}
    assert rows["0000.png"]["votes"] == {"ann": "3", "bob": "4"}
    assert set(rows) == {"0000.png", "0001.png"}
    taken = page.post("/api/take", **ME, id="0000.png")
    assert taken["sample"]["status"] == "disputed"
    # Who settles is decided by what was given out for review, not by the request.
    assert (
        page.say("0000.png", "label", {"annotator": "eve", "holder": "else"}, label="4", token="eve", final=True) == "labeled"
    )
    assert page.post("/api/undo", annotator="eve", holder="else", token="eve")["sample"]["status"] == "disputed"
    assert page.say("0000.png", "label", label="3") == "labeled"
    assert [row["final"] for row in queries.history(job.store) if row["kind"] in ("labeled", "corrected")][-2:] == [False, True]


@contextmanager
def statements(job: Job) -> Iterator[list[tuple[str, str]]]:
    """Statements that the store executes, with their parameters."""
    seen: list[tuple[str, str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append((statement, str(parameters)))

    event.listen(job.store.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(job.store.engine, "before_cursor_execute", note)


def test_no_request_asks_the_store_for_the_same_thing_twice(page: Page, job: Job, digits_pool: Pool) -> None:
    for _ in range(12):
        id_ = page.next()["id"]
        page.say(id_, "label", label=truth(digits_pool, id_))
    ok("loop", "next", job.path, "--strategy", "margin:sampled", "--n", 3)  # whose draws are read, too
    id_ = page.next()["id"]
    assert page.bench.idle(60)
    counts = {}
    for path, options in (("/api/state", {}), ("/api/explanation", {"params": {"id": id_}}), ("/api/session", {})):
        with statements(job) as seen:
            assert page.client.get(path, **options).status_code == 200
        assert len(seen) == len(set(seen)), path
        counts[path] = len(seen)
    with statements(job) as seen:
        assert page.next()["id"] == id_
    assert len(seen) == len(set(seen))
    # Before a request read the state once, these were 13, 4, 1, and 8 for the next sample; one is for examples of the classes.
    assert counts == {"/api/state": 9, "/api/explanation": 2, "/api/session": 1}
    assert len(seen) == 8


def test_blind_pages_tell_nothing_of_the_model(job: Job, digits_pool: Pool) -> None:
    for i in range(20):
        job.store.label(f"{i:04d}.png", truth(digits_pool, f"{i:04d}.png"), Actor("bob"))
    with TestClient(make_app(job, blind=True), base_url="http://localhost:8700") as client:
        page = Page(client)
        sample = page.next()
        assert sample["note"] == ""
        found = client.get("/api/explanation", params={"id": sample["id"]}).json()
        assert found == {"ready": True, "note": "", "predictions": [], "counterfactuals": []}


def test_images_are_served_by_id_only(page: Page, job: Job, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    assert page.client.get("/image", params={"id": "0000.png"}).content == (tmp_path / "photos" / "0000.png").read_bytes()
    for id_ in ("../secret.png", "/etc/passwd", "%2e%2e/secret.png", "..", "", "0000.png\x00"):
        answer = page.client.get("/image", params={"id": id_})
        assert answer.status_code == 400, id_
        assert b"secret" not in answer.content.replace(b"secret.png", b"")
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py"):
        assert page.client.get(path).status_code == 404
    (tmp_path / "photos" / "0001.png").unlink()
    assert "ssld loop move" in page.client.get("/image", params={"id": "0001.png"}).json()["error"]


def test_large_and_unusual_images_are_made_fit_for_browsers(job: Job, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "0002.png")
    with TestClient(make_app(job), base_url="http://127.0.0.1") as client:
        answer = client.get("/image", params={"id": "0002.png"})
    assert answer.headers["content-type"] == "image/jpeg"
    (tmp_path / "shown.jpg").write_bytes(answer.content)
    assert Image.open(tmp_path / "shown.jpg").size == (1600, 1000)


def test_every_answer_has_the_headers_that_keep_others_out(page: Page) -> None:
    for path in ("/", "/api/state", "/static/app.js", "/image?id=0000.png", "/nothing", "/image?id=x"):
        headers = page.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    text = page.client.get("/").text + page.client.get("/login").text
    assert "<script>" not in text
    assert "style=" not in text
    assert "onclick" not in text


def test_writes_need_the_page(page: Page, job: Job) -> None:
    body = {"id": "0000.png", "verb": "label", "label": "3", "token": "t", **ME}
    client = page.client
    assert client.post("/api/label", json=body).status_code == 403
    assert client.post("/api/label", json=body, headers={"X-CSRF-Token": "wrong"}).status_code == 403
    form = {"X-CSRF-Token": page.headers["X-CSRF-Token"], "Content-Type": "text/plain"}
    assert client.post("/api/label", content=b"{}", headers=form).status_code == 415
    large = {**body, "label": "x" * 70_000}
    assert client.post("/api/label", json=large, headers=page.headers).status_code == 413
    chunked = client.post("/api/label", content=iter([b"{}"]), headers={**page.headers, "Content-Type": "application/json"})
    assert chunked.status_code == 411
    for bad in (
        {**body, "annotator": ""},
        {**body, "annotator": "a\x07"},
        {**body, "seconds": -1},
        {**body, "token": "x" * 101},
    ):
        assert client.post("/api/label", json=bad, headers=page.headers).status_code == 422
    answer = client.post("/api/label", json={**body, "verb": "paint"}, headers=page.headers)
    assert answer.status_code == 422
    assert "verb: Input should be 'label'" in answer.json()["error"]
    assert queries.counts(job.store)["labeled"] == 0


def test_other_host_names_are_refused(job: Job) -> None:
    with TestClient(make_app(job), base_url="http://evil.example") as client:  # its name was made to point here
        answer = client.get("/api/session")
    assert answer.status_code == 421
    assert "csrf" not in answer.text
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.1.2", "x.org")] == [
        True, True, True, False, False, False
    ]  # fmt: skip


def test_others_need_the_token_and_logs_never_show_it(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SSLDError, match="--token"):
        make_app(job, host="0.0.0.0")
    with pytest.raises(SSLDError, match="16 characters"):
        Guard("0.0.0.0", "short")
    assert "--token" in refused("loop", "serve", job.path, "--host", "0.0.0.0", "--no-open")
    caplog.set_level(logging.DEBUG)
    app = make_app(job, host="0.0.0.0", token=TOKEN)
    with TestClient(app, base_url="http://photos.example:8700", follow_redirects=False) as client:
        assert client.get("/").headers["location"] == "/login"
        for path in ("/api/session", "/api/state", "/image?id=0000.png", "/static/app.js"):
            assert client.get(path).status_code == 401
        wrong = client.post("/login", data={"token": "a token that is not right"})
        assert wrong.status_code == 401
        assert "not the token" in wrong.text
        right = client.post("/login", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN.lower() not in cookie
        page = Page(client)
        page.next()
    assert TOKEN not in caplog.text


def test_names_of_classes_are_text_and_nothing_else(page: Page, job: Job) -> None:
    name = "<img src=x onerror=alert(1)>"
    assert page.post("/api/classes", name=name)["classes"][-1] == name
    answer = page.client.get("/api/session")
    assert answer.headers["content-type"] == "application/json"
    assert name in answer.json()["classes"]
    script = "".join(path.read_text() for path in (Path(server.__file__).parent / "static").rglob("*.js"))
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in script


def test_two_servers_do_not_share_a_job(job: Job) -> None:
    with job.alone("serve"):
        assert "is in use: serve by process" in refused("loop", "serve", job.path, "--no-open")


def test_tasks_run_one_after_another_and_once_for_all_who_wait(job: Job) -> None:
    bench = Workbench(job)
    began, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        done.append("first")
        began.set()
        assert go_on.wait(10)

    def fails() -> None:
        done.append("fails")
        if done.count("fails") == 1:
            raise RunError("it is raining")

    bench.submit("first", first)
    assert began.wait(10)
    for _ in range(3):
        bench.submit("first", first)  # it has begun, so it is needed once more
        bench.submit("fails", fails)
    assert not bench.idle(0.01)
    assert done == ["first"]
    go_on.set()
    assert bench.idle(10)
    assert done == ["first", "first", "fails"]
    assert bench.problem == "it is raining"
    bench.submit("fails", fails)
    assert bench.idle(10)
    assert bench.problem == ""


def test_a_round_that_cannot_be_made_is_said_on_the_page(job: Job) -> None:
    for id_ in job.store.ids:
        job.store.label(str(id_), "3", Actor("bob"))
    with TestClient(make_app(job), base_url="http://127.0.0.1") as client:
        page = Page(client)
        assert page.post("/api/next", **ME)["sample"] is None
        assert page.bench.idle(60)
        problem = client.get("/api/state").json()["problem"]
    assert "nothing is left to choose" in problem


def test_a_round_of_the_command_line_is_asked_for_after_what_is_in_hand(page: Page, job: Job) -> None:
    in_hand = page.next()["id"]
    ok("loop", "next", job.path, "--n", 3)
    assert len(leases.pending(job.store)) == 3
    assert page.next()["id"] == in_hand
    page.say(in_hand, "label", label="3")
    assert page.next()["id"] in {row["id"] for row in leases.batch_of(job.store, 2)}
