"""What the page shows of the whole pool: search, samples to look at again and what is decided, history, comments, people."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import discussed_job, truth

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.search import FIELDS
from ssl_diffusion.annotation.loop.suspicious import queue_findings
from ssl_diffusion.annotation.page.routes import STATIC
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.people import annotators
from ssl_diffusion.annotation.store.pool_rows import STATUSES
from ssl_diffusion.annotation.store.review import ReviewItem, add_items, open_items
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.curation.label_issues import judge_labels
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

ME = {"annotator": "ann", "holder": "tab"}


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return discussed_job(tmp_path, digits_pool, tiny)


@pytest.fixture
def client(job: Job, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(make_app(job, blind=getattr(request, "param", False)), base_url="http://127.0.0.1:8700") as client:
        client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
        assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
        yield client


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json={**ME, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def found(client: TestClient, q: str) -> list[str]:
    answer = client.get("/api/search", params={"q": q, "n": 500})
    assert answer.status_code == 200, answer.text
    ids = [each["id"] for each in answer.json()["samples"]]
    assert answer.json()["total"] == len(ids)
    return ids


def test_search(client: TestClient, job: Job, digits_pool: Pool) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    assert found(client, "") == job.store.ids.tolist()
    assert found(client, "001") == [id_ for id_ in job.store.ids if "001" in id_]
    assert found(client, "is:flagged") == [pool[0]]
    assert found(client, "is:skipped by:eve") == [pool[60]]
    assert found(client, "is:commented") == [pool[1]]
    assert found(client, "class:7 by:eve") == [id_ for id_ in pool[:50] if truth(digits_pool, id_) == "7"]
    assert len(found(client, "is:labeled by:nobody")) == 0
    predicted, p = client.app.state.page.bench.pool.predictions()  # type: ignore[attr-defined]
    own = job.store.of_role("pool")
    unsure = found(client, "p<0.6 is:open")
    assert set(unsure) <= {job.store.ids[i] for i in own[p[own] < 0.6]}  # nothing of the audit
    assert np.all(np.diff(p[job.store.positions(unsure)]) >= 0)
    assert set(found(client, "predicted:3 p>=60%")) == {job.store.ids[i] for i in own[(predicted[own] == 3) & (p[own] >= 0.6)]}
    assert found(client, f"like:{pool[5]} is:labeled")[0] == pool[5]
    page = client.get("/api/search", params={"q": "", "n": 5, "start": 10}).json()
    assert [each["id"] for each in page["samples"]] == job.store.ids[10:15].tolist()


def test_the_page_suggests_every_condition() -> None:
    suggested = re.findall(r'<option value="([^"]+)">', (STATIC / "index.html").read_text(encoding="utf-8"))
    assert {each.removesuffix(":") for each in suggested if each.endswith(":")} == {*FIELDS} - {"is"}
    states = {each.removeprefix("is:") for each in suggested if each.startswith("is:")}
    assert states == {*STATUSES, "flagged", "commented", "wrong", "suspicious"}


@pytest.mark.parametrize("q", ["class:emu", "colour:red", "p<x", "p<1.2.3", "is:gone", "round:x", "like:nothing", 'class:"3'])
def test_what_cannot_be_searched_is_said(client: TestClient, q: str) -> None:
    answer = client.get("/api/search", params={"q": q})
    assert (answer.status_code, answer.json()["error"].count("\n")) == (400, 0) if q != "p<x" else (200, 0)


@pytest.mark.parametrize("client", [True], indirect=True)
def test_a_blind_page_does_not_search_by_predictions(client: TestClient) -> None:
    for q in ("p<0.5", "predicted:3", "is:wrong"):
        assert "blind" in client.get("/api/search", params={"q": q}).json()["error"]
    assert found(client, "is:flagged")


def test_wrong_labels_are_found_and_decided(client: TestClient, job: Job, digits_pool: Pool) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    items = [
        ReviewItem(pool[3], "label issue", "perhaps not", "8", 0.9),
        ReviewItem(pool[4], "outlier", "", None, 0.5),
        ReviewItem(pool[5], "duplicate", f"a copy of {pool[6]}", None, 0.4),
    ]
    assert add_items(job.store, items) == 3
    assert add_items(job.store, items) == 0
    assert client.get("/api/state").json()["suspicious"] == 3
    assert found(client, "issue:outlier") == [pool[4]]
    listed = client.get("/api/review", params={"kind": "suspicious"}).json()
    rows, seen = listed["samples"], {"seen": listed["seen"]}
    assert [(row["id"], row["kind"], row["suggested"]) for row in rows[:2]] == [
        (pool[3], "label issue", "8"),
        (pool[4], "outlier", None),
    ]
    assert [row["beside"] for row in rows] == ["", "", f"image?id={pool[6]}"]
    change = {"id": pool[3], "decision": "change", "label": "8", "token": "1", **seen}
    assert client.post("/api/decide", json={**ME, **change, "digest": "0"}).status_code == 409  # another image was seen
    assert post(client, "/api/decide", **change, digest=rows[0]["digest"])["status"] == "labeled"
    assert post(client, "/api/decide", id=pool[4], decision="drop", token="2", **seen)["status"] == "skipped"
    assert post(client, "/api/decide", id=pool[5], decision="keep", token="3", **seen)["status"] == "labeled"
    now = {row["id"]: (row["status"], row["label"]) for row in queries.listing(job.store)}
    assert (now[pool[3]], now[pool[4]]) == (("labeled", "8"), ("skipped", None))
    assert now[pool[5]] == ("labeled", truth(digits_pool, pool[5]))
    assert open_items(job.store) == []
    assert add_items(job.store, items, replaces=["label issue"]) == 0  # what was decided is not asked again
    assert client.post("/api/decide", json={**ME, "id": pool[5], "decision": "keep", "token": "4"}).status_code == 422
    post(client, "/api/undo", token="2")
    assert [item.id for item in open_items(job.store)] == [pool[4]]
    assert {row["id"]: row["label"] for row in queries.listing(job.store)}[pool[4]] == truth(digits_pool, pool[4])
    queries.check(job.store)
    with pytest.raises(DataError, match="no class"):
        add_items(job.store, [ReviewItem(pool[3], "x", suggested="emu")])


def test_a_kept_label_is_taken_back_like_any_decision(client: TestClient, job: Job) -> None:
    flagged, doubted = job.store.ids[job.store.of_role("pool")][[0, 3]].tolist()
    add_items(job.store, [ReviewItem(doubted, "label issue", "", "8")])
    for id_ in (flagged, doubted):
        seen = client.get("/api/review").json()["seen"]
        post(client, "/api/decide", id=id_, decision="keep", token=f"keep {id_}", seen=seen)
    assert (client.get("/api/review").json()["samples"], open_items(job.store)) == ([], [])
    for id_ in (doubted, flagged):
        for left in (id_, None):  # the second time it does not stand any more
            sample = post(client, "/api/undo", token=f"keep {id_}")["sample"]
            assert (sample and sample["id"]) == left
    assert [row["id"] for row in client.get("/api/review").json()["samples"]] == [flagged]
    assert [item.id for item in open_items(job.store)] == [doubted]
    assert [row["kind"] for row in queries.history(job.store)][-5:] == ["kept", "kept", "un-kept", "un-kept", "flagged"]
    queries.check(job.store)
    spoken = {**ME, "id": doubted, "verb": "un-keep", "token": "x"}
    assert "needs the decision" in client.post("/api/label", json=spoken).json()["error"]


def test_a_reviewer_who_contradicts_another_unknowingly_is_told(client: TestClient, job: Job) -> None:
    id_ = job.store.ids[job.store.of_role("pool")][3]
    add_items(job.store, [ReviewItem(id_, "label issue", "", "8")])
    listed = client.get("/api/review", params={"kind": "suspicious"}).json()
    both = {"id": id_, "seen": listed["seen"], "digest": listed["samples"][0]["digest"]}
    said = {
        "keep": "kept its label",
        "change": "labeled it 8",
        "drop": "dropped it",
    }
    for k, (decision, did) in enumerate(said.items()):
        first = {**both, "seen": client.get("/api/review").json()["seen"], "decision": decision, "label": "8"}
        for _ in range(2):  # an answer that is sent again is no other decision
            answer = client.post("/api/decide", json={**first, "annotator": "bob", "holder": "b", "token": f"bob {k}"})
            assert answer.status_code == 200
        before = queries.history(job.store)
        for other in said:
            body = {**ME, **both, "decision": other, "label": "5", "token": f"ann {k} {other}"}
            answer = client.post("/api/decide", json=body)
            assert answer.status_code == 409
            assert answer.json()["error"] == f"'bob' {did} less than a minute ago: look at {id_} again before you decide"
        assert queries.history(job.store) == before
    now = client.get("/api/review").json()["seen"]  # somebody who knows what the other has said may decide otherwise
    assert (
        post(client, "/api/decide", **{**both, "seen": now}, decision="change", label="5", token="knows")["status"] == "labeled"
    )


def test_the_page_looks_for_wrong_labels_itself(client: TestClient, job: Job, digits_pool: Pool) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    job.store.apply([Action("label", id_, Actor("eve"), "6") for id_ in pool[:4] if truth(digits_pool, id_) != "6"])
    post(client, "/api/suspicious")
    assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
    assert client.get("/api/state").json()["problem"] == ""
    model = client.app.state.page.bench._model  # type: ignore[attr-defined]
    positions, labels = queries.labels(job.store, "pool")
    judged = judge_labels(model.frozen.representation[positions], labels, 10, seed=job.settings.seed)
    expected = {job.store.ids[positions[k]] for k in np.flatnonzero(judged.wrong > 0.5)}
    assert expected
    assert {item.id for item in open_items(job.store)} == expected


def test_history_comments_and_people(client: TestClient, job: Job) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    job.store.apply([Action("label", pool[0], Actor("bob", seconds=1.0), "9"), Action("label", pool[1], Actor("bob"), "9")])
    post(client, "/api/comment", id=pool[1], text=" yes ", token="t")
    post(client, "/api/class", verb="rename", name="9", to="nine")
    history = client.get("/api/history", params={"id": pool[1]}).json()["events"]
    assert [(row["kind"], row["annotator"], row["text"]) for row in history] == [
        ("commented", "ann", "yes"),
        ("labeled", "bob", None),
        ("commented", "bob", "a seven?"),
        ("labeled", "eve", None),
    ]
    whole = client.get("/api/history").json()
    assert (whole["events"][0]["kind"], whole["events"][0]["text"]) == ("renamed", "nine")
    assert {row["annotator"] for row in client.get("/api/history", params={"annotator": "bob"}).json()["events"]} == {"bob"}
    older = client.get("/api/history", params={"before": 70}).json()["events"]
    assert max(row["number"] for row in older) < 70
    by_name = {each.name: each for each in annotators(job.store)}
    assert (by_name["eve"].votes, by_name["eve"].skips, by_name["eve"].seconds, by_name["eve"].compared) == (50, 1, 2.0, 2)
    labels = [row["votes"] for row in queries.listing(job.store) if len(row["votes"]) == 2]
    assert by_name["bob"].agreed == sum(votes["eve"] == votes["bob"] for votes in labels) / 2
    assert client.post("/api/comment", json={**ME, "id": pool[1], "text": " ", "token": "u"}).status_code == 400


def test_the_findings_of_a_check_wait_for_people(job: Job) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    rows = [
        (pool[0], "label", 0.9, "3", "8", "", "labeled 3, and probably 8"),
        (pool[1], "duplicate", 1.0, "", "", pool[2], f"a copy of {pool[2]}"),
        (pool[3], "fault", 2.5, "", "", "", "dark: mean 3"),
    ]
    findings = pd.DataFrame(rows, columns=["id", "kind", "score", "label", "suggested", "of", "what"])
    assert queue_findings(job, findings) == 3
    assert [(item.id, item.kind, item.note, item.suggested) for item in open_items(job.store)] == [
        (pool[3], "fault", "dark: mean 3", None),
        (pool[1], "duplicate", f"a copy of {pool[2]}", None),
        (pool[0], "label issue", "labeled 3, and probably 8", "8"),
    ]
    assert queue_findings(job, findings.iloc[:1]) == 1  # a new check takes the place of the one before
    assert [item.id for item in open_items(job.store)] == [pool[0]]
    assert queue_findings(job, findings.iloc[:0]) == 0
