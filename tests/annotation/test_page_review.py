"""The views beside labeling in a browser: what keys decide about samples to look at again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.annotation_jobs import discussed_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.review import ReviewItem, add_items, open_items
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return discussed_job(tmp_path, digits_pool, tiny)


def test_reviewed_by_keyboard_and_the_views_are_accessible(job: Job, digits_pool: Pool) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    names = ["label issue"] * 4
    add_items(job.store, [ReviewItem(pool[k], name, "perhaps not", "8", 1 - k / 10) for k, name in enumerate(names)])
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await shown(page)
        free = "() => !ssld.now.busy"
        await page.click("[data-view=suspicious]")
        await page.wait_for_selector("#review li.current")
        assert await axe(page) == []
        for key in ("k", "Enter", "d", "5"):  # keeps 0, changes 1 to the suggestion, drops 2, changes 3 to a five
            n = await page.locator("#review li").count()
            await page.keyboard.press(key)
            await page.wait_for_function("n => document.querySelectorAll('#review li').length < n && !ssld.now.busy", arg=n)
        now = {row["id"]: (row["status"], row["label"]) for row in queries.listing(job.store)}
        assert [now[pool[k]] for k in (1, 2, 3)] == [("labeled", "8"), ("skipped", None), ("labeled", "5")]
        assert open_items(job.store) == []
        await page.keyboard.press("u")
        await page.wait_for_function(f"() => document.getElementById('message').textContent === 'withdrawn: {pool[3]}'")
        assert {row["id"]: row["label"] for row in queries.listing(job.store)}[pool[3]] == truth(digits_pool, pool[3])
        await page.wait_for_selector("#review li.current")  # it is asked about again
        assert [item.id for item in open_items(job.store)] == [pool[3]]
        for k, key in ((3, "k"), (2, "d")):  # a kept label is taken back before what was dropped earlier
            await page.wait_for_function(free)
            if key == "k":
                await page.keyboard.press("k")
                await page.wait_for_function("() => document.querySelectorAll('#review li').length === 0 && !ssld.now.busy")
            await page.keyboard.press("u")
            await page.wait_for_function(f"() => document.getElementById('message').textContent === 'withdrawn: {pool[k]}'")
        assert {item.id for item in open_items(job.store)} == {pool[2], pool[3]}
        assert {row["id"]: row["label"] for row in queries.listing(job.store)}[pool[2]] == truth(digits_pool, pool[2])
        await page.wait_for_function(free)
        await page.keyboard.press("k")
        await page.wait_for_function("() => document.querySelectorAll('#review li').length === 1 && !ssld.now.busy")
        job.store.apply([Action("drop", item.id, Actor("bob")) for item in open_items(job.store)])  # meanwhile
        await page.keyboard.press("k")
        await page.wait_for_function("() => document.getElementById('message').textContent.includes('dropped it less than')")
        await page.wait_for_function("() => document.querySelectorAll('#review li').length === 0 && !ssld.now.busy")
        await page.click("[data-view=history]")
        await page.wait_for_selector("#events tbody tr")
        assert await axe(page) == []
        await page.fill("#search", "is:labeled by:ann")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#found li")
        assert await page.text_content("#search-title") == "1 image for is:labeled by:ann"
        assert await axe(page) == []
        await page.locator("#found button").first.click()
        await page.wait_for_function("id => document.getElementById('id').textContent === id", arg=pool[1])
        assert await shown(page) == pool[1]
        await page.wait_for_function(free)
        await page.keyboard.press("c")
        await page.keyboard.type("looked at")
        await page.keyboard.press("Enter")
        await page.wait_for_function("() => document.getElementById('message').textContent.includes('comment kept')")
        assert queries.history(job.store)[-1]["text"] == "looked at"
        await page.click("#edit-classes")
        assert await axe(page) == []
        await page.click("[aria-label='Rename 3']")
        await page.fill("#answer", "three")
        await page.click("#ok")
        await page.wait_for_selector("[aria-label='Rename three']")
        assert job.store.classes[3] == "three"

    browse(job, scenario)
    assert [each for each in complaints if "409 (Conflict)" not in each] == []  # the browser notes what was refused


def four_doubts(job: Job) -> list[str]:
    """Ids of four samples of the job, which wait for a review in this order."""
    ids: list[str] = job.store.ids[job.store.of_role("pool")][:4].tolist()
    add_items(job.store, [ReviewItem(id_, "label issue", "perhaps not", None, 1 - k / 10) for k, id_ in enumerate(ids)])
    return ids


def test_a_key_decides_the_card_that_was_clicked_also_after_others_are_gone(job: Job) -> None:
    ids = four_doubts(job)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.click("[data-view=suspicious]")
        for n, k in ((4, 0), (3, 1), (2, 2)):
            await page.wait_for_function(f"() => document.querySelectorAll('#review li').length === {n} && !ssld.now.busy")
            await page.locator("#review li", has_text=ids[k]).locator("b").click()
            assert await page.text_content("#review li.current b") == ids[k]
            await page.keyboard.press("d")
        await page.wait_for_function("() => document.querySelectorAll('#review li').length === 1 && !ssld.now.busy")
        assert [item.id for item in open_items(job.store)] == [ids[3]]

    browse(job, scenario)


def test_keys_that_are_faster_than_the_server_decide_one_card_each(job: Job) -> None:
    ids = four_doubts(job)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        held, sent = asyncio.Event(), []

        async def late(route: Any) -> None:
            sent.append(route.request.post_data_json["id"])
            await held.wait()
            await (route.fulfill(status=409, json={"error": "not any more"}) if sent[-1] == ids[2] else route.continue_())

        await page.route("**/api/decide", late)
        await page.click("[data-view=suspicious]")
        await page.wait_for_selector("#review li.current")
        for k in range(3):
            assert await page.text_content("#review li.current b") == ids[k]
            await page.keyboard.press("d")
        assert await page.text_content("#review li.current b") == ids[3]
        held.set()
        await page.wait_for_function("() => document.querySelectorAll('#review li').length === 2 && !ssld.now.busy")
        assert sent == ids[:3]
        assert [item.id for item in open_items(job.store)] == ids[2:4]  # the third was refused, and is there again
        await page.unroute("**/api/decide")
        await page.keyboard.press("d")
        await page.keyboard.press("u")
        await page.wait_for_function("() => document.querySelectorAll('#review li').length === 2 && !ssld.now.busy")
        assert [item.id for item in open_items(job.store)] == ids[2:4]

    browse(job, scenario)


def test_the_second_of_two_keys_means_nothing_else(job: Job) -> None:
    pool = job.store.ids[job.store.of_role("pool")].tolist()
    job.store.add_classes([f"thing {k}" for k in range(40)])
    add_items(job.store, [ReviewItem(pool[k], "label issue", "perhaps not") for k in (1, 2)])

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.click("[data-view=suspicious]")
        await page.wait_for_selector("#review li.current")
        keys = dict(zip(job.store.classes, await page.evaluate("() => ssld.session.keys"), strict=True))
        (name,) = (name for name, key in keys.items() if key == "0d")  # d alone drops the image
        await page.keyboard.press("0")
        await page.keyboard.press("d")
        await page.wait_for_function("() => document.querySelectorAll('#review li').length === 1 && !ssld.now.busy")
        assert {row["id"]: row["label"] for row in queries.listing(job.store)}[pool[1]] == name
        await page.click("[data-view=label]")
        await page.click("#sheet-mode")
        await page.wait_for_function("() => ssld.now.sheet && !ssld.now.busy")
        await page.locator("#tiles button").first.focus()
        (name,) = (name for name, key in keys.items() if key == "0x")  # x alone takes an image out of the sheet
        n = await page.locator("#tiles button").count()
        await page.keyboard.press("0")
        await page.keyboard.press("x")
        await page.wait_for_function("name => document.getElementById('message').textContent.includes(name)", arg=name)
        assert await page.text_content("#message") == f"{n} labeled {name}"

    browse(job, scenario)
