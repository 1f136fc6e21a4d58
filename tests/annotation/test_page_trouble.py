"""The labeling page in a real browser where something is in the way: plain HTTP, slow images, a lost server, a closed tab."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.annotation_jobs import make_job
from support.browser import CHROMIUM, browse, open_page, shown

from ssl_diffusion.annotation.loop.fit_state import reporting
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import leases, queries, schema
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.progress import ProgressUpdate

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
    pytest.mark.timeout(120),
]
TOKEN = "a token that is long enough"


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def votes(job: Job) -> list[tuple[str, str]]:
    """Kinds of what annotators did, and who."""
    return [(row["kind"], row["annotator"]) for row in queries.history(job.store) if row["kind"] not in ("queried", "shown")]


def test_a_team_over_plain_http_logs_in_gives_names_and_keys_keep_what_was_typed(job: Job) -> None:
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await page.fill("#token", TOKEN)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#ask[open]")
        assert await page.evaluate("() => [isSecureContext, typeof crypto.randomUUID]") == [False, "undefined"]
        await page.keyboard.press("Escape")  # a name is needed
        await page.wait_for_selector("#ask[open]")
        await page.keyboard.type("eve")
        await page.keyboard.press("Enter")
        id_ = await shown(page)
        assert await page.text_content("#who") == "eve"
        await page.keyboard.press("n")
        await page.keyboard.type("eleven")
        await page.keyboard.press("Enter")
        await page.locator("[data-name=eleven]").click()  # its name is also in the list of sheets
        await shown(page, id_)
        await page.reload()
        await shown(page)  # the name is not asked again

    browse(job, scenario, name=None, host="team.example", app=make_app(job, host="0.0.0.0", token=TOKEN))
    # Chromium says of every page over plain HTTP that it ignores this header.
    assert [text for text in complaints if not text.startswith("The Cross-Origin-Opener-Policy header has been ignored")] == []
    assert votes(job) == [("labeled", "eve")]
    assert queries.listing(job.store)[0]["label"] == "eleven"


def test_nothing_can_be_said_of_an_image_that_is_not_yet_there(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        asked: list[str] = []
        arrive = asyncio.Event()

        async def late(route: Any) -> None:
            asked.append(route.request.url)
            if len(asked) > 1:
                await arrive.wait()
            await route.continue_()

        page = await context.new_page()
        await page.route("**/image?*", late)
        await page.goto(url)
        first = await shown(page)
        assert await page.evaluate("() => ssld.now.preloaded.map((image) => image.src)") == asked[1:]
        await page.keyboard.press("s")
        await page.wait_for_function("first => ssld.now.sample && ssld.now.sample.id !== first && !ssld.now.busy", arg=first)
        assert await page.is_hidden("#image")
        assert await page.text_content("#loading") == "loading the image"
        for key in "1234":
            await page.keyboard.press(key)
        assert await page.locator("#classes button:enabled").count() == 0
        assert votes(job) == [("skipped", "ann")]
        arrive.set()
        second = await shown(page, first)
        await page.keyboard.press("1")
        await shown(page, second)
        assert [row["id"] for row in queries.listing(job.store, "labeled")] == [second]

    browse(job, scenario)


def test_an_image_that_changes_under_the_eyes_is_shown_again(job: Job, tmp_path: Path) -> None:
    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        id_ = await shown(page)
        before = await page.evaluate("() => ssld.now.sample.digest")
        other = next(path for path in (tmp_path / "photos").iterdir() if path.name != id_)
        (tmp_path / "photos" / id_).write_bytes(other.read_bytes())
        await page.keyboard.press("1")
        await page.wait_for_function("before => ssld.now.ready && ssld.now.sample.digest !== before", arg=before)
        assert await shown(page) == id_
        assert "look at it again" in await page.text_content("#message")
        assert votes(job) == []
        await page.keyboard.press("1")
        await shown(page, id_)

    browse(job, scenario)
    assert votes(job) == [("labeled", "ann")]


def test_an_image_that_cannot_be_shown_says_why_and_can_be_skipped(job: Job, tmp_path: Path) -> None:
    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        id_ = await shown(page)
        (tmp_path / "photos" / id_).unlink()
        await page.reload()
        await page.wait_for_function("() => document.getElementById('loading').textContent.includes('ssld loop move')")
        await page.keyboard.press("1")
        await page.keyboard.press("s")
        await shown(page, id_)

    browse(job, scenario)
    assert votes(job) == [("skipped", "ann")]


def test_a_label_outlives_a_store_that_is_away_and_a_reload(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        gone = {"error": "the store does not answer: start it again"}
        is_away = True

        async def away(route: Any) -> None:
            if is_away:
                await route.fulfill(status=503, content_type="application/json", body=json.dumps(gone))
            else:
                await route.continue_()

        # Before the page is opened: one that is open already may send its next request past a new route.
        await context.route("**/api/label", away)
        page = await open_page(context, url)
        id_ = await shown(page)
        await page.keyboard.press("1")
        await page.wait_for_selector("#away:visible")
        text = await page.text_content("#away")
        assert "the store does not answer" in text
        assert "is kept" in text
        await page.keyboard.press("2")  # one answer at a time
        await page.reload()
        await page.wait_for_selector("#away:visible")
        assert votes(job) == []
        is_away = False
        await shown(page, id_)
        assert await page.locator("#away:visible").count() == 0
        assert await page.evaluate("() => import('/static/requests.js').then((m) => m.unsent().length)") == 0

    browse(job, scenario)
    assert [row["label"] for row in queries.listing(job.store)] == ["1"]
    assert votes(job) == [("labeled", "ann")]


def test_a_server_that_was_started_again_gets_the_label(job: Job) -> None:
    app = make_app(job)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        id_ = await shown(page)
        app.state.guard.csrf = "that of a new process"
        await page.keyboard.press("1")
        await shown(page, id_)

    browse(job, scenario, app=app)
    assert votes(job) == [("labeled", "ann")]


def test_a_closed_tab_leaves_its_sample_to_others(job: Job) -> None:
    def lease() -> float:
        """Seconds that the only lease lasts."""
        with job.store.reading() as connection:
            (until,) = connection.execute(select(schema.leases.c.until)).scalars()
        return float(until) - time.time()

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        id_ = await shown(page)
        await page.reload()
        assert await shown(page) == id_
        await page.wait_for_load_state("networkidle")
        assert lease() > leases.LEASE - 60  # the page before the reload has ended nothing
        await page.close(run_before_unload=True)
        while lease() > 20:  # the test's time limit ends this
            await asyncio.sleep(0.1)

    browse(job, scenario)


def test_undo_is_that_of_the_tab(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        first, second = await open_page(context, url), await open_page(context, url)
        a, b = await shown(first), await shown(second)
        await first.keyboard.press("1")
        now = await shown(first, a)
        await second.keyboard.press("2")
        await shown(second, b)
        await first.keyboard.press("u")
        assert await shown(first, now) == a
        assert [row["id"] for row in queries.listing(job.store, "labeled")] == [b]
        await first.keyboard.press("u")
        await first.wait_for_function("() => document.getElementById('message').textContent.includes('nothing to undo')")

    browse(job, scenario)


def test_a_fit_of_another_process_is_seen_and_its_button_says_why_not(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await page.wait_for_selector("#fit-reason:visible")
        assert await page.is_disabled("#fit")
        assert "labels of two classes" in await page.text_content("#fit-reason")
        job.store.label("0000.png", "3", Actor("bob"))
        job.store.label("0001.png", "4", Actor("bob"))
        await page.evaluate("() => import('/static/state.js').then((m) => m.state())")
        assert await page.is_enabled("#fit")
        with job.alone("fit"), reporting(job, None) as progress:
            progress(ProgressUpdate("pretraining", 400, 1000))
            await page.evaluate("() => import('/static/state.js').then((m) => m.state())")
            assert await page.is_disabled("#fit")
            assert (await page.text_content("#fit-state")).startswith("Fitting: pretraining, 40 %")
            assert await page.get_attribute("#fit-bar", "aria-valuenow") == "40"
        await page.evaluate("() => import('/static/state.js').then((m) => m.state())")
        assert await page.is_enabled("#fit")

    browse(job, scenario)


def test_an_explanation_that_fails_is_said_and_tried_again(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        tries: list[str] = []

        async def fails(route: Any) -> None:
            tries.append(route.request.url)
            if len(tries) < 3:
                await route.abort()
            else:
                await route.continue_()

        page = await context.new_page()
        await page.route("**/api/explanation?*", fails)
        await page.goto(url)
        await page.wait_for_function(
            "() => document.getElementById('explanation-note').textContent.includes('cannot be loaded')"
        )
        await page.wait_for_function("() => document.getElementById('explanation-note').textContent === 'no prediction yet'")
        assert len(tries) == 3

    browse(job, scenario)
