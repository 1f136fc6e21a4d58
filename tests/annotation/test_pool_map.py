"""The map of the page: its bytes, what it hides, and a line drawn around points."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import make_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.acquisition.pool_map import places_of
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    made = make_job(tmp_path, digits_pool, tiny, "--n", 10, "--audit", 20)
    pool = made.store.ids[made.store.of_role("pool")].tolist()
    made.store.apply([Action("label", id_, Actor("eve"), truth(digits_pool, id_)) for id_ in pool[:30]])
    return made


@pytest.fixture
def client(job: Job, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(make_app(job, blind=getattr(request, "param", False)), base_url="http://127.0.0.1:8700") as client:
        assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
        yield client


def points(client: TestClient) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    content = client.get("/api/map").content
    (length,) = struct.unpack_from("<I", content)
    facts, at = json.loads(content[4 : 4 + length]), 4 + length
    arrays = {}
    kinds = {"x": "<u2", "y": "<u2", "label": "<i2", "predicted": "<i2", "round": "<i2", "sure": "u1"}
    for name, kind in kinds.items():
        arrays[name] = np.frombuffer(content, kind, facts["n"], at)
        at += arrays[name].nbytes
    assert at == len(content)
    return facts, arrays


@pytest.mark.parametrize("client", [False, True], indirect=True, ids=["open", "blind"])
def test_every_sample_has_its_place_and_what_measures_the_model_has_no_prediction(
    client: TestClient, job: Job, request: pytest.FixtureRequest
) -> None:
    facts, found = points(client)
    assert (facts["n"], tuple(facts["names"]), facts["model"]) == (90, job.store.classes, "pixels")
    assert (found["label"] >= 0).sum() == 30
    hidden = job.store.of_role("audit") if "open" in request.node.name else np.arange(90)
    assert (found["predicted"][hidden] == -1).all()
    assert (found["sure"][hidden] == 0).all()
    if "open" in request.node.name:
        assert (found["predicted"][job.store.of_role("pool")] >= 0).all()
    assert found["x"].std() > 5000
    assert client.get("/api/map/at", params={"k": 3}).json()["id"] == job.store.ids[3]
    assert client.get("/api/map/at", params={"k": 90}).status_code == 400
    assert client.get("/api/map/at", params={"k": -1}).status_code == 422


def test_a_map_is_a_projection_that_is_known(digits_pool: Pool) -> None:
    x = digits_pool.images[:200].reshape(200, -1).astype(np.float32)
    centered = x - x.mean(axis=0)
    places = places_of(x)
    variance = np.linalg.svd(centered, compute_uv=False)[:2] ** 2
    np.testing.assert_allclose(np.square(places - places.mean(axis=0)).sum(axis=0), variance, rtol=1e-3)
    with pytest.raises(SSLDError, match="pca, umap"):
        places_of(x, "tsne")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(120)
def test_a_line_around_points_makes_a_sheet_and_the_page_is_accessible(job: Job) -> None:
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await shown(page)
        await page.wait_for_function("() => ssld.now.mapped")
        assert await page.evaluate(
            "() => document.getElementById('map').getContext('2d').getImageData(0, 0, 300, 300).data.some(Boolean)"
        )
        assert await axe(page) == []
        box = await page.locator("#map").bounding_box()
        await page.click("#map-lasso")
        await page.mouse.move(box["x"] + 5, box["y"] + 5)
        await page.mouse.down()
        for x, y in ((0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.5)):
            await page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        await page.mouse.up()
        await page.wait_for_function("() => ssld.now.sheet")
        assert (await page.text_content("#sheet-title") or "").startswith("This part of the map")
        assert await page.locator("#tiles button").count() == 24
        await page.locator("#map").focus()
        for key in ("+", "ArrowLeft", "ArrowUp", "-"):
            await page.keyboard.press(key)
        assert await page.evaluate("() => ssld.map.view.x") < 0.5
        await page.locator("#chips button").nth(3).click()
        await page.wait_for_function(
            "() => document.getElementById('sheet-title').textContent.includes('robably 3') || ssld.now.sheet === false"
        )

    browse(job, scenario)
    assert complaints == []
