"""What people say of counterfactuals: kept with the picture, counted once, refused if the model has been replaced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import make_job
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.annotation.loop.counterfactuals import Counterfactual
from ssl_diffusion.annotation.loop.explanations import Explanation, Named
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import class_changes
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.annotation.store.verdicts import Verdict, add_verdict, all_verdicts, verdicts
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import png_of
from ssl_diffusion.errors import DataError

ANN, BOB = Actor("ann"), Actor("bob")
ME = {"annotator": "ann", "holder": "tab"}


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def found(level: int) -> Explanation:
    """A counterfactual of a model that changes images to this gray level."""
    gray = np.full((1, 8, 8), 100, dtype=np.uint8)
    changed = np.full_like(gray, level)
    pictures = {"original": gray, "sure": changed, "difference": changed}
    return Explanation([("4", 0.9)], [Named("4", "6", Counterfactual(4, 6, "sure", 0.93, 0.1, pictures, changed))])


def test_the_last_word_of_everybody_counts(job: Job) -> None:
    def say(verdict: Any, by: Actor, digest: str = "d") -> None:
        add_verdict(job.store, Verdict("0000.png", verdict, "4", "6", "001", b"png", digest), by)

    say("true", ANN)
    say("false", ANN)
    say("true", BOB)  # two who contradict each other: both are kept
    say("none", ANN, "another picture")
    for _ in range(2):
        say("true", Actor("eve", token="once"))
    say("withdrawn", BOB)
    assert [(each.annotator, each.verdict) for each in verdicts(job.store)] == [
        ("ann", "false"),
        ("ann", "none"),
        ("eve", "true"),
    ]
    assert len(all_verdicts(job.store)) == 6
    class_changes.merge(job.store, "6", "5", "ann")
    assert {each.target for each in verdicts(job.store)} == {"5"}
    for fault in (Verdict("x", "true", "4", "5", "", b"", ""), Verdict("0000.png", "true", "4", "emu", "", b"", "")):
        with pytest.raises(DataError, match=r"no (sample|class)"):
            add_verdict(job.store, fault, ANN)
    with pytest.raises(DataError, match="no verdict"):
        say("perhaps", ANN)


@pytest.fixture
def client(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
        bench = client.app.state.page.bench  # type: ignore[attr-defined]
        assert bench.idle(60)  # it has opened the model, whose name a verdict has
        monkeypatch.setattr(bench, "explanation", lambda id_: found(200))
        yield client


def test_a_verdict_is_kept_with_the_picture_and_not_of_a_model_that_was_replaced(
    client: TestClient, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    (message,) = client.get("/api/explanation", params={"id": "0001.png", "annotator": "ann"}).json()["counterfactuals"]
    assert (message["verdict"], [picture["name"] for picture in message["pictures"]]) == (
        None,
        ["original", "sure", "difference"],
    )
    body = {**ME, "id": "0001.png", "k": 0, "digest": message["digest"], "verdict": "true", "token": "t"}
    assert client.post("/api/verdict", json=body).json() == {"verdicts": 1}
    (kept,) = verdicts(job.store)
    assert kept.picture == png_of(np.full((1, 8, 8), 200, dtype=np.uint8))
    assert (kept.id, kept.source, kept.target, kept.annotator, kept.model) == ("0001.png", "4", "6", "ann", "pixels")
    (message,) = client.get("/api/explanation", params={"id": "0001.png", "annotator": "ann"}).json()["counterfactuals"]
    assert message["verdict"] == "true"
    monkeypatch.setattr(client.app.state.page.bench, "explanation", lambda id_: found(201))  # type: ignore[attr-defined]
    answer = client.post("/api/verdict", json={**body, "token": "u"})
    assert (answer.status_code, "model has been replaced" in answer.json()["error"]) == (409, True)
    for fault in ({"k": 1}, {"digest": ""}):
        assert client.post("/api/verdict", json={**body, "token": "v", **fault}).status_code == 409
    assert client.post("/api/verdict", json={**body, "verdict": "perhaps"}).status_code == 422
    assert len(all_verdicts(job.store)) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(120)
def test_verdict_blink_zoom_and_contrast_by_keyboard(job: Job) -> None:
    complaints: list[str] = []
    app = make_app(job)
    bench = app.state.page.bench
    bench.explanation = lambda id_: found(200)
    bench.counterfactuals = lambda id_: [found(200).counterfactuals[0].found]

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await shown(page)
        await page.wait_for_selector(".verdicts")
        await page.keyboard.press("b")
        await page.wait_for_selector("#blink:not([hidden])")
        assert await page.text_content("#blink-note") == "changed: 6 0.93"
        await page.keyboard.press("b")
        assert await page.text_content("#blink-note") == "original"
        for _ in range(2):  # given, and withdrawn
            await page.keyboard.press("Shift+T")
            await page.wait_for_function(
                "() => document.getElementById('message').textContent.includes('erdict') && !ssld.now.busy"
            )
        await page.keyboard.press("Shift+F")
        await page.wait_for_selector(".verdicts button[aria-pressed=true]")
        assert [each.verdict for each in all_verdicts(job.store)] == ["true", "withdrawn", "false"]
        frame = await page.locator("#frame").bounding_box()
        await page.mouse.move(frame["x"] + 20, frame["y"] + 20)
        await page.mouse.wheel(0, -600)
        where = await page.evaluate("() => new DOMMatrix(document.getElementById('stage').style.transform)")
        assert where["a"] > 1.5
        assert (20 - where["e"]) / where["a"] == pytest.approx(20, abs=0.5)  # what lay under the pointer lies there still
        await page.keyboard.press("i")
        await page.click("#tone summary")
        await page.locator("#contrast").fill("200")
        assert (
            await page.evaluate("() => document.getElementById('stage').style.filter")
            == "brightness(100%) contrast(200%) invert(1)"
        )
        assert await axe(page) == []
        await page.locator("#contrast").blur()
        await page.keyboard.press("Escape")
        assert await page.text_content("#zoom-reset") == "fit"

    browse(job, scenario, app=app)
    assert complaints == []
