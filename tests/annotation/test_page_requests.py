"""What the labeling page's server makes of bad requests, changed images, left tabs, and fits that were started elsewhere."""

import json
import logging
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import N, make_job, truth
from support.serving import served

from ssl_diffusion.annotation import http_access
from ssl_diffusion.annotation.http_access import Attempts
from ssl_diffusion.annotation.loop.fit_state import FitState, fit_state, reporting
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import Interrupted, RunError
from ssl_diffusion.progress import ProgressUpdate

TOKEN = "a token that is long enough"
ME, BOB = {"annotator": "ann", "holder": "tab"}, {"annotator": "bob", "holder": "other"}


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def next_sample(client: TestClient, who: dict[str, str] = ME) -> dict[str, Any]:
    if (found := post(client, "/api/next", **who)["sample"]) is None:
        assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
        found = post(client, "/api/next", **who)["sample"]
    return dict(found)


# -- bad requests -----------------------------------------------------------------------------------------------------


def test_half_characters_and_impossible_numbers_are_refused_with_a_sentence(client: TestClient, job: Job) -> None:
    good: dict[str, dict[str, Any]] = {
        "/api/next": ME,
        "/api/release": {**ME, "until": 1.0},
        "/api/undo": {**ME, "token": "t"},
        "/api/take": {**ME, "id": "0000.png"},
        "/api/classes": {"name": "new"},
        "/api/label": {**ME, "id": "0000.png", "verb": "skip", "label": "3", "token": "t", "digest": ""},
    }
    bad = [(path, key, r'"\ud800"') for path, body in good.items() for key, value in body.items() if isinstance(value, str)]
    bad += [("/api/label", "seconds", number) for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1", "1" + "0" * 400)]
    bad += [("/api/release", "until", number) for number in ("NaN", "Infinity", "1e400", "-1")]
    for path, key, value in bad:
        text = json.dumps({**good[path], key: "@"}).replace('"@"', value)
        answer = client.post(path, content=text.encode(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, (path, key, value, answer.text)
        assert answer.json()["error"].startswith(f"the request is not valid ({key}: "), answer.text
    for path in ("/image", "/counterfactual", "/api/explanation"):
        assert client.get(f"{path}?id=%ED%A0%80&k=0").status_code == 400
    assert len(job.store.classes) == 10
    assert [row for row in queries.history(job.store) if row["kind"] not in ("queried", "shown")] == []


def bomb() -> bytes:
    """A PNG file that says to be 60,000 pixels wide and high, padded to more than the page shows as it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"\0" * 5_000_000) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + b"x" * 5_000_000, bomb()], ids=["damaged", "bomb"])
def test_large_images_that_cannot_be_read_are_said(client: TestClient, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photos" / "0003.png").write_bytes(content)
    answer = client.get("/image", params={"id": "0003.png"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("0003.png cannot be shown: ")


def test_a_body_that_does_not_arrive_is_not_waited_for(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_access, "_BODY_SECONDS", 0.3)
    caplog.set_level(logging.ERROR)
    head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\ntok"
    with served(make_app(job, token=TOKEN)) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
            slow.sendall(head)
            answer = slow.makefile("rb").read()  # up to the end: the server closes the connection
        with socket.create_connection(("127.0.0.1", port), timeout=30) as gone:
            gone.sendall(head)
        time.sleep(0.5)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within" in answer
    assert caplog.records == []


def test_wrong_tokens_have_to_wait_but_lock_nobody_else_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("ssl_diffusion.annotation.http_access.time.monotonic", lambda: now)
    app = make_app(job, host="0.0.0.0", token=TOKEN)

    def login(address: str, token: str) -> Any:
        client = TestClient(app, base_url="http://team.example", client=(address, 5000), follow_redirects=False)
        return client.post("/login", data={"token": token})

    stranger = [login("192.0.2.1", f"guess {i}").status_code for i in range(8)]
    assert stranger == [401] * 5 + [429] * 3
    refused = login("192.0.2.1", TOKEN)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert login("192.0.2.2", TOKEN).status_code == 303
    now += 1
    assert login("192.0.2.1", "guess").status_code == 401
    assert login("192.0.2.1", TOKEN).headers["retry-after"] == "2"
    for _ in range(20):
        now += 60  # never longer than that
        assert login("192.0.2.1", "guess").status_code == 401
    now += 60
    assert login("192.0.2.1", TOKEN).status_code == 303
    assert login("192.0.2.1", "a slip").status_code == 401
    assert login("192.0.2.1", TOKEN).status_code == 303


def test_attempts_of_a_network_are_counted_together_and_forgotten_in_the_end() -> None:
    attempts = Attempts()
    for i in range(Attempts.FREE):
        attempts.note(f"2001:db8::{i + 1:x}", right=False)
    assert attempts.wait("2001:db8::abcd") > 0
    assert attempts.wait("2001:db8:0:1::1") == 0
    for i in range(1000):
        attempts.note(f"10.0.{i // 250}.{i % 250}", right=False)
    assert attempts.wait("2001:db8::abcd") == 0


# -- images -----------------------------------------------------------------------------------------------------------


def test_a_label_is_for_the_image_that_was_shown(client: TestClient, job: Job, tmp_path: Path, digits_pool: Pool) -> None:
    sample = next_sample(client)
    file = tmp_path / "photos" / sample["id"]
    other = next(f"{i:04d}.png" for i in range(N) if truth(digits_pool, f"{i:04d}.png") != truth(digits_pool, sample["id"]))
    body = {**ME, "id": sample["id"], "verb": "label", "label": "3", "token": "t"}
    assert client.get(sample["image"]).content == file.read_bytes()
    file.write_bytes((tmp_path / "photos" / other).read_bytes())
    assert client.get(sample["image"]).status_code == 409
    for digest in (sample["digest"], "", "0" * 32):
        answer = client.post("/api/label", json={**body, "digest": digest})
        assert answer.status_code == 409
        assert "is not the one that was shown" in answer.json()["error"]
    assert queries.counts(job.store)["labeled"] == 0
    again = next_sample(client)
    assert again["id"] == sample["id"]
    assert again["digest"] != sample["digest"]
    assert client.get(again["image"]).content == file.read_bytes()
    assert post(client, "/api/label", **body, digest=again["digest"])["status"] == "labeled"


def test_an_image_that_is_gone_can_be_skipped_but_not_labeled(client: TestClient, tmp_path: Path) -> None:
    id_ = next_sample(client)["id"]
    (tmp_path / "photos" / id_).unlink()
    sample = next_sample(client)
    assert sample["id"] == id_
    assert sample["digest"] == ""
    body = {**ME, "id": id_, "token": "t", "digest": ""}
    refused = client.post("/api/label", json={**body, "verb": "label", "label": "3"})
    assert refused.status_code == 400
    assert "ssld loop move" in refused.json()["error"]
    assert post(client, "/api/label", **body, verb="skip")["status"] == "skipped"


def test_links_lead_to_the_images_of_the_job_only(client: TestClient, tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for target, id_ in ((photos / "0001.png", "0000.png"), (Path("/etc/passwd"), "0002.png")):
        (photos / id_).unlink()
        (photos / id_).symlink_to(target)
        answer = client.get("/image", params={"id": id_})
        assert answer.status_code == 400
        assert "is a link to something else" in answer.json()["error"]
    (photos / "0003.png").rename(elsewhere / "0003.png")  # a data set may consist of links
    (photos / "0003.png").symlink_to(elsewhere / "0003.png")
    assert client.get("/image", params={"id": "0003.png"}).content == (elsewhere / "0003.png").read_bytes()


def test_the_images_that_follow_are_said(client: TestClient) -> None:
    sample = next_sample(client)
    ahead = post(client, "/api/next", **ME)["ahead"]
    assert len(ahead) == 2
    assert sample["image"] not in ahead
    post(client, "/api/label", **ME, id=sample["id"], verb="label", label="3", token="t", digest=sample["digest"])
    assert next_sample(client)["image"] == ahead[0]
    assert next_sample(client, BOB)["image"] == ahead[1]


# -- tabs -------------------------------------------------------------------------------------------------------------


def test_a_left_tab_gives_its_sample_back_and_a_reload_keeps_it(
    client: TestClient, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("ssl_diffusion.annotation.store.leases.time.time", lambda: now)
    first = next_sample(client)
    post(client, "/api/release", **ME, until=first["until"])
    now += 5
    assert next_sample(client)["id"] == first["id"]  # a reload
    assert next_sample(client, BOB)["id"] != first["id"]
    post(client, "/api/release", **ME, until=first["until"])  # that of the page before the reload, late
    now += 60
    post(client, "/api/release", **BOB, until=now + 1000)
    now += 60
    assert next_sample(client, {"annotator": "eve", "holder": "third"})["id"] != first["id"]
    post(client, "/api/release", **ME, until=now + 1000)
    now += 60
    assert next_sample(client, {"annotator": "joe", "holder": "fourth"})["id"] == first["id"]


def test_what_a_lost_tab_had_is_resumed_by_its_owner_at_once(client: TestClient, job: Job) -> None:
    next_sample(client)
    for row in queries.history(job.store):
        if row["kind"] == "queried" and row["id"] != next_sample(client)["id"]:
            job.store.skip(row["id"], Actor("ann"))
            job.store.skip(row["id"], Actor("bob"))
    last = next_sample(client)["id"]
    assert post(client, "/api/next", **BOB)["sample"] is None or next_sample(client, BOB)["id"] != last
    assert next_sample(client, {**ME, "holder": "a new tab"})["id"] == last


def test_undo_takes_back_the_votes_of_the_tab_alone(client: TestClient, job: Job) -> None:
    """Two people who gave the same name."""
    first, second = next_sample(client), next_sample(client, {**ME, "holder": "second"})
    for token, sample in (("1", first), ("2", second)):
        post(client, "/api/label", **ME, id=sample["id"], verb="label", label="3", token=token, digest=sample["digest"])
    assert post(client, "/api/undo", **ME, token="1")["sample"]["id"] == first["id"]
    assert queries.counts(job.store)["labeled"] == 1
    post(client, "/api/label", **ME, id=second["id"], verb="label", label="4", token="3", digest=second["digest"])
    assert post(client, "/api/undo", **ME, token="2")["sample"] is None  # it was corrected since
    assert queries.listing(job.store, "labeled")[0]["label"] == "4"


# -- audit ------------------------------------------------------------------------------------------------------------


def test_what_measures_the_model_is_labeled_without_its_guess(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 10, "--audit", 8)
    audit = job.store.ids[job.store.of_role("audit")].tolist()
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    for id_ in pool[:30]:
        job.store.label(id_, truth(digits_pool, id_), Actor("bob"))
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        bench = client.app.state.page.bench  # type: ignore[attr-defined]
        assert bench.idle(60)
        shown = {id_: client.get("/api/explanation", params={"id": id_}).json() for id_ in [*audit, *pool[30:34]]}
        assert set(bench.predicted_classes([*audit, *pool[30:34]])) == set(pool[30:34])
        assert all(client.get("/counterfactual", params={"id": id_, "k": 0}).status_code == 404 for id_ in audit)
    assert all(shown[id_]["predictions"] for id_ in pool[30:34])
    for id_ in audit:
        note = "Hidden: the label of this sample measures the model."
        assert shown[id_] == {"ready": True, "note": note, "predictions": [], "counterfactuals": []}


# -- fits -------------------------------------------------------------------------------------------------------------


def test_a_fit_of_another_process_is_on_the_page(client: TestClient, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fit_state._EVERY", 0.0)

    def status() -> dict[str, Any]:
        return dict(client.get("/api/state").json()["status"])

    assert status()["fit"]["state"] == "none"
    assert status()["no_fit"] == "a fit needs labels of two classes or more"
    job.store.label("0000.png", "3", Actor("bob"))
    job.store.label("0001.png", "4", Actor("bob"))
    assert status()["no_fit"] == ""
    elsewhere = open_job(job.path)
    seen: list[ProgressUpdate] = []
    with elsewhere.alone("fit"), reporting(elsewhere, seen.append) as progress:
        assert status()["fit"]["task"] == ""
        progress(ProgressUpdate("pretraining", 100, 1000))
        progress(ProgressUpdate("pretraining", 400, 1000))
        found = status()
        assert post(client, "/api/fit")["started"] is False
    assert len(seen) == 2
    assert found["fit"]["state"] == "running"
    assert (found["fit"]["task"], found["fit"]["done"]) == ("pretraining", 0.4)
    assert found["fit"]["seconds_left"] > 0
    assert found["no_fit"].startswith("a fit is running (by process ")
    assert status()["fit"]["state"] == "done"
    assert status()["no_fit"] == ""


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (RunError("the disk is full"), "failed", "the disk is full"),
        (ZeroDivisionError("oh"), "failed", "ZeroDivisionError: oh"),
        (Interrupted("stopped"), "stopped", "continues it"),
    ],
)
def test_how_a_fit_ended_is_kept(job: Job, error: Exception, state: str, message: str) -> None:
    with pytest.raises(type(error)), job.alone("fit"), reporting(job, None):
        raise error
    found = fit_state(open_job(job.path))
    assert found.state == state
    assert message in found.message


def test_a_fit_that_was_killed_is_not_running(job: Job) -> None:
    with job.alone("fit"), reporting(job, None):
        file = (job.path / "fit.json").read_text()
    (job.path / "fit.json").write_text(file)  # as it was when the process died
    found = fit_state(job)
    assert found.state == "failed"
    assert "was killed" in found.message
    for damaged in ("", "[]", '{"state": "flying"}', "{"):
        (job.path / "fit.json").write_text(damaged)
        assert fit_state(job) == FitState()
