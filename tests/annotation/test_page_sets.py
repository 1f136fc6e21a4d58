"""The labeling page of a multi-label job: over HTTP, and by keyboard in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.browser import CHROMIUM, axe, browse, open_page, shown
from support.sets import CLASSES, answer_sets, make_sets_job

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.client import RemoteJob
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError

KEYS = dict(zip(CLASSES, "123", strict=True))


@pytest.fixture
def made(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> tuple[Job, dict[str, tuple[str, ...]]]:
    return make_sets_job(tmp_path, digits_pool, tiny, "--n", 8)


@pytest.fixture
def client(made: tuple[Job, Any]) -> Iterator[TestClient]:
    with TestClient(make_app(made[0]), base_url="http://127.0.0.1:8700") as client:
        yield client


def test_sets_over_http(client: TestClient, made: tuple[Job, dict[str, tuple[str, ...]]]) -> None:
    job, truth = made
    remote = RemoteJob("", "ada", client=client)
    assert client.get("/api/session").json()["multilabel"] is True
    for _ in range(12):
        sample = remote.next()
        while sample is None:
            assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
            sample = remote.next()
        assert remote.label(sample, truth[sample["id"]]) == "labeled"
    assert {row["id"]: row["label"] for row in queries.listing(job.store)}.items() <= truth.items()
    last = sample
    with pytest.raises(SSLDError, match="a set of classes"):
        remote.label(last, "zero")
    with pytest.raises(SSLDError, match="named twice"):
        remote.label(last, ["zero", "zero"])
    with pytest.raises(SSLDError, match="label one at a time"):
        remote.sheet()
    with pytest.raises(SSLDError, match="label one at a time"):
        remote.label_sheet([last], "zero")
    found = remote.search("class:zero")
    assert found
    assert all("zero" in each["label"] for each in found)
    assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
    explanation = client.get("/api/explanation", params={"id": remote.search("is:open")[0]["id"]}).json()
    assert {each["label"] for each in explanation["predictions"]} == {*CLASSES}
    assert explanation["counterfactuals"] == []
    status = remote.status()
    assert sum(status["labels"].values()) + status["without_class"] >= 12
    events = client.get("/api/history", params={"id": last["id"]}).json()["events"]
    assert events[0]["label"] == list(truth[last["id"]])
    assert client.get("/api/map").status_code == 200


def test_two_sets_are_a_dispute_that_a_look_settles(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job, _ = make_sets_job(tmp_path, digits_pool, tiny, "--agreement", 2)
    job.label("000.png", ["zero"], "ada")
    job.label("000.png", ["zero", "two"], "bob")
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        remote = RemoteJob("", "cleo", client=client)
        (row,) = client.get("/api/review", params={"kind": "disputed"}).json()["samples"]
        assert row["votes"] == {"ada": ["zero"], "bob": ["zero", "two"]}
        taken = remote._post("/api/take", remote.who | {"id": "000.png"})["sample"]
        assert remote.label(taken, []) == "labeled"
        people = client.get("/api/history").json()["annotators"]
    assert {each["name"]: each["agreed"] for each in people}["ada"] == pytest.approx((0.5 + 0) / 2)
    assert queries.listing(job.store)[0]["label"] == ()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(180)
def test_sets_by_keyboard(made: tuple[Job, dict[str, tuple[str, ...]]]) -> None:
    job, truth = made
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        first = last = await shown(page)
        assert await page.locator("#sheet-mode").is_hidden()
        assert await page.text_content("#confirm") == "⏎None of the classes"
        for k in range(6):
            for name in truth[last]:
                await page.keyboard.press(KEYS[name])
            assert await page.locator("#classes [aria-pressed=true]").count() == len(truth[last])
            before = last
            await page.keyboard.press("Enter" if k % 2 else " ")
            last = await shown(page, before)
        await page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('6 labeled')")
        found = {row["id"]: row["label"] for row in queries.listing(job.store)}
        assert len(found) == 6
        assert found.items() <= truth.items()
        assert first in found
        await page.keyboard.press("u")
        assert await shown(page, last) == before
        pressed = [await each.get_attribute("data-name") for each in await page.locator("#classes [aria-pressed=true]").all()]
        assert tuple(pressed) == truth[before]  # what was withdrawn is where one goes on
        for name in truth[before]:
            await page.click(f"#classes [data-name={name}]")
        await page.click("#classes [data-name=two]")
        assert await page.text_content("#confirm") == "⏎Label two"
        await page.click("#confirm")
        await shown(page, before)
        assert {row["id"]: row["label"] for row in queries.listing(job.store)}[before] == ("two",)
        await page.keyboard.press("m")  # a sheet, which is not offered
        await page.wait_for_function("() => document.getElementById('message').textContent.includes('one at a time')")
        assert await page.locator("#single").is_visible()
        assert await axe(page) == []
        await page.click("nav [data-view=history]")
        await page.wait_for_function("() => document.getElementById('events').textContent.includes('two')")

    browse(job, scenario)
    assert complaints == []
    queries.check(job.store)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(180)
def test_predicted_sets_are_shown(made: tuple[Job, dict[str, tuple[str, ...]]]) -> None:
    job, truth = made
    answer_sets(job, truth)
    answer_sets(job, truth)
    job.next(4)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.wait_for_function("() => document.querySelector('#predictions .first') !== null", timeout=60_000)
        names = [await each.text_content() for each in await page.locator("#predictions .first span").all()]
        assert names == ["none of the classes"] or {*names} <= {*CLASSES}
        # The state of the job comes by itself, before the predictions or after them.
        titled = "() => document.querySelector('#accuracy-title').textContent === 'Macro F1'"
        await page.wait_for_function(titled, timeout=60_000)

    browse(job, scenario)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(180)
def test_500_classes_are_found_by_name_and_by_two_keys(made: tuple[Job, Any]) -> None:
    job = made[0]
    job.store.add_classes([f"thing {k}" for k in range(497)])

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        first = await shown(page)
        await page.keyboard.press("/")
        await page.keyboard.type("tg77")  # letters in order are enough
        await page.keyboard.press("Enter")
        keys = dict(zip(job.store.classes, await page.evaluate("() => ssld.session.keys"), strict=True))
        buttons = await page.locator("#classes button").evaluate_all(
            "made => made.map((each) => [each.dataset.name, each.querySelector('kbd')?.textContent])"
        )
        assert dict(buttons) == keys
        assert len({*keys.values()}) == 500
        assert (keys["thing 5"], keys["thing 6"], keys["thing 42"]) == ("9", "01", "a1")
        for name in ("thing 34", "thing 496"):  # "0s", whose second key skips by itself, and the last one
            for key in keys[name]:
                await page.keyboard.press(key)
        assert keys["thing 34"] == "0s"
        assert await page.text_content("#confirm") == "⏎Label thing 34, thing 77, thing 496"
        await page.keyboard.press("a")
        assert await page.text_content("#pending") == "a …"
        await page.keyboard.press("Escape")  # ends the pair
        assert await page.text_content("#pending") == ""
        for key in keys["thing 496"]:  # the same keys take it out again
            await page.keyboard.press(key)
        await page.keyboard.press("/")
        await page.keyboard.type("0S")  # keys are found, too
        assert await page.locator("#classes button:not([hidden])").first.get_attribute("data-name") == "thing 34"
        await page.keyboard.press("Enter")
        assert await page.text_content("#confirm") == "⏎Label thing 77"
        assert await axe(page) == []
        await page.keyboard.press("Enter")
        await shown(page, first)
        assert {row["id"]: row["label"] for row in queries.listing(job.store)} == {first: ("thing 77",)}

    browse(job, scenario)
