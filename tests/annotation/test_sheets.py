"""Sheets: which samples are on them, what one key does to all, and that an action is undone as a whole."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import make_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.sheets import Wanted, choose_sheet, inside
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Action, Actor, Store
from ssl_diffusion.data.pool import Pool

ME, BOB = {"annotator": "ann", "holder": "tab"}, {"annotator": "bob", "holder": "other"}


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10, "--audit", 20)


class Page:
    """A browser that speaks JSON."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
        assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]

    def post(self, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    def label(self, sheet: dict[str, Any], label: str, token: str, status: int = 200) -> dict[str, Any]:
        samples = [{"id": each["id"], "digest": each["digest"]} for each in sheet["samples"]]
        return self.post("/api/sheet/label", status, **ME, samples=samples, label=label, token=token, seconds=0.1)


@pytest.fixture
def page(job: Job, digits_pool: Pool) -> Iterator[Page]:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    job.store.apply([Action("label", id_, Actor("eve"), truth(digits_pool, id_)) for id_ in pool[:30]])
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        yield Page(client)


def test_a_sheet_has_free_samples_of_the_pool_and_nobody_else_gets_them(page: Page, job: Job) -> None:
    first = page.post("/api/sheet", **ME, n=24)
    ids = [each["id"] for each in first["samples"]]
    assert first["label"] in job.store.classes
    assert first["title"] == f"Probably {first['label']}"
    positions = job.store.positions(ids)
    assert {job.store.role_of(i) for i in positions.tolist()} == {"pool"}
    assert not set(ids) & {row["id"] for row in queries.listing(job.store)}
    others = page.post("/api/sheet", **BOB, n=96, kind="similar")["samples"]
    assert not set(ids) & {each["id"] for each in others}
    assert len(others) + len(ids) == 90 - 20 - 30
    again = page.post("/api/sheet", **ME, n=24)  # a reload
    assert [each["id"] for each in again["samples"]] == ids
    without = page.post("/api/sheet", **ME, n=24, without=ids)
    assert not set(ids) & {each["id"] for each in without["samples"]}


def test_the_surest_of_a_class_come_first_and_the_slider_goes_to_the_others(page: Page, job: Job) -> None:
    view = page.client.app.state.page.bench.pool  # type: ignore[attr-defined]
    predicted, p = view.predictions()
    number = int(np.bincount(predicted[job.store.of_role("pool")]).argmax())
    label = job.store.classes[number]
    sure, unsure = [
        job.store.positions(each["id"] for each in page.post("/api/sheet", **ME, n=2, label=label, sure=sure)["samples"])
        for sure in (1, 0)
    ]
    assert (predicted[sure] == number).all()
    assert p[sure].min() >= p[unsure].max()
    assert list(p[sure]) == sorted(p[sure], reverse=True)


def test_one_key_is_one_action_also_when_it_is_taken_back_or_sent_twice(page: Page, job: Job) -> None:
    first = page.post("/api/sheet", **ME, n=6)
    before = {row["id"]: row["label"] for row in queries.listing(job.store)}
    for _ in range(2):
        assert page.label(first, "7", "one")["labeled"] == 6
    ids = {each["id"] for each in first["samples"]}
    assert {row["id"] for row in queries.listing(job.store) if row["label"] == "7"} >= ids
    assert [row["kind"] for row in queries.history(job.store)].count("labeled") == 36
    corrected = page.post("/api/sheet", **ME, n=6)  # another sheet, then the first again
    page.label(corrected, "3", "two")
    page.label(first, "8", "three")
    assert set(page.post("/api/undo", **ME, token="three")["ids"]) == ids
    assert {row["label"] for row in queries.listing(job.store) if row["id"] in ids} == {"7"}  # what was said before stands
    assert len(page.post("/api/undo", **ME, token="one")["ids"]) == 0  # its votes do not stand, those of the undo do
    assert len(page.post("/api/undo", **ME, token="two")["ids"]) == 6
    assert {row["id"]: row["label"] for row in queries.listing(job.store) if row["label"] and row["id"] not in ids} == before
    queries.check(job.store)


def test_an_image_that_changed_stops_the_whole_action(page: Page, job: Job, tmp_path: Path) -> None:
    sheet = page.post("/api/sheet", **ME, n=6)
    file = tmp_path / "photos" / sheet["samples"][5]["id"]
    file.write_bytes((tmp_path / "photos" / sheet["samples"][0]["id"]).read_bytes())
    assert "look at it again" in page.label(sheet, "7", "one", 409)["error"]
    assert "no class" in page.label(page.post("/api/sheet", **ME, n=6), "emu", "two", 400)["error"]
    assert not [row for row in queries.history(job.store) if row["annotator"] == "ann" and row["kind"] == "labeled"]
    for fault in ({"n": 97}, {"n": 0}, {"kind": "x"}, {"sure": 2}, {"points": [[0, 1e9]]}):
        page.post("/api/sheet", 422, **ME, **fault)


def test_similar_ones_and_those_inside_a_line_on_the_map(page: Page, job: Job) -> None:
    id_ = page.post("/api/sheet", **ME, n=1, kind="similar")["samples"][0]["id"]
    near = page.post("/api/sheet", **ME, n=5, kind="similar", id=id_)
    assert near["samples"][0]["id"] == id_  # nothing is nearer than itself
    assert near["title"] == f"Like {id_}"
    assert near["label"] is None
    everything = [[-1, -1], [2, -1], [2, 2], [-1, 2]]
    whole = page.post("/api/sheet", **ME, n=96, kind="lasso", points=everything)
    assert len(whole["samples"]) == 90 - 20 - 30
    assert page.post("/api/sheet", **ME, n=96, kind="lasso", points=[[0, 0], [1, 1]])["samples"] == []


def test_inside() -> None:
    places = np.array([[0.5, 0.6], [0.9, 0.1], [2, 2]], dtype=np.float32)
    assert inside(np.array([[0, 0], [1, 1], [0, 1.0]]), places).tolist() == [True, False, False]
    assert inside(np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]]), places).tolist() == [True, True, False]


def test_a_blind_page_suggests_nothing(job: Job, digits_pool: Pool) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    job.store.apply([Action("label", id_, Actor("eve"), truth(digits_pool, id_)) for id_ in pool[:30]])
    with TestClient(make_app(job, blind=True), base_url="http://127.0.0.1:8700") as client:
        found = Page(client).post("/api/sheet", **ME, n=6)
    assert (found["label"], found["title"], len(found["samples"])) == (None, "Similar samples", 6)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(120)
def test_a_sheet_by_keyboard_and_mouse(job: Job, digits_pool: Pool) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    job.store.apply([Action("label", id_, Actor("eve"), truth(digits_pool, id_)) for id_ in pool[:30]])
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        ready = "() => ssld.now.sheet && !ssld.now.busy"
        await shown(page)
        await page.keyboard.press(" ")
        await page.wait_for_function(ready)
        await page.select_option("#sheet-size", "6")
        await page.wait_for_function(ready)
        await page.select_option("#sheet-kind", "similar")  # whatever is predicted
        await page.wait_for_function("() => ssld.now.sheet && document.getElementById('tiles').children.length === 6")
        tiles = page.locator("#tiles button")
        ids = [await tiles.nth(k).get_attribute("title") for k in range(6)]
        await tiles.nth(0).click()
        await tiles.nth(2).click(modifiers=["Shift"])  # 0 to 2 are out
        await page.keyboard.press("ArrowRight")
        for key in ("ArrowRight", "x", "Shift+ArrowRight"):  # 4 is out, and 5 like it
            await page.keyboard.press(key)
        assert [await tiles.nth(k).get_attribute("aria-pressed") for k in range(6)] == ["false"] * 3 + ["true"] + ["false"] * 2
        assert await axe(page) == []
        await page.keyboard.press("5")
        await page.wait_for_function("id => ssld.now.sheet && !document.querySelector(`[title='${id}']`)", arg=ids[3])
        assert [row["id"] for row in queries.listing(job.store) if row["votes"].get("ann")] == [ids[3]]
        await page.keyboard.press(" ")
        assert await shown(page) == ids[0]  # what was taken out comes first
        assert await page.text_content("#note") == "taken out of a sheet"
        await page.keyboard.press("u")
        assert await shown(page, ids[0]) == ids[3]
        assert queries.counts(job.store)["labeled"] == 30

    browse(job, scenario)
    assert complaints == []


def crossings(corners: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Whether a ray from each place crosses the line an odd number of times."""
    found = np.zeros(len(places), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        spans = (y1 > places[:, 1]) != (y2 > places[:, 1])
        found ^= spans & (places[:, 0] < x1 + (places[:, 1] - y1) * (x2 - x1) / (y2 - y1 if y2 != y1 else 1))
    return found


def test_a_line_around_a_part_of_a_hundred_thousand_points(tmp_path: Path) -> None:
    n, draw = 100_000, np.random.default_rng(0)
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.add_samples([f"{i:06d}.png" for i in range(n)], ["audit" if i % 10 == 0 else "pool" for i in range(n)])
    store.add_classes(["three", "seven"])
    places, p = draw.random((n, 2), dtype=np.float32), draw.random(n, dtype=np.float32)
    predicted = (places[:, 0] > 0.4).astype(np.int64)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)  # as many corners as the page sends, of a star
    radii = np.where(np.arange(200) % 40 < 20, 0.4, 0.2)
    star = 0.5 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    own = crossings(star, places.astype(np.float64)) & (np.arange(n) % 10 > 0)
    labeled = np.flatnonzero(own)[:50]
    store.apply([Action("label", store.ids[i], Actor("eve"), "seven") for i in labeled])
    own[labeled] = False
    assert own.sum() > 10_000
    view: Any = SimpleNamespace(places=lambda: places, predictions=lambda: (predicted, p))
    wanted = Wanted("lasso", n=96, points=tuple(map(tuple, star.tolist())))
    sheet = choose_sheet(cast(Job, SimpleNamespace(store=store)), view, wanted, "ann", "tab", lambda: np.arange(0))
    surest = np.flatnonzero(own & (predicted == 1))
    surest = surest[np.argsort(-p[surest], kind="stable")][:96]
    assert [item.id for item in sheet.items] == store.ids[surest].tolist()
    assert (sheet.title, sheet.label, sheet.left) == ("This part of the map", "seven", own.sum() - 96)
    store.close()
