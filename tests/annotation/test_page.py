"""The labeling page in a real browser: by keyboard, after a reload, in two tabs, on a phone, with a class called <img ...>."""

from pathlib import Path
from typing import Any

import pytest
from support.annotation_jobs import LEARNS, make_job, truth
from support.browser import CHROMIUM, browse, open_page, shown

from ssl_diffusion.annotation.loop.fits import fit_job
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def test_eight_images_by_keyboard_undo_and_reload(job: Job, digits_pool: Pool) -> None:
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        last = ""
        for _ in range(8):
            last = await shown(page, last)
            await page.keyboard.press(truth(digits_pool, last))  # a class called "7" has the key 7
        await page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('8 labeled')")
        positions, classes = queries.labels(job.store)
        assert [job.store.classes[k] for k in classes] == [truth(digits_pool, i) for i in job.store.ids[positions]]
        now = await shown(page, last)
        await page.keyboard.press("u")
        assert await shown(page, now) == last
        assert queries.counts(job.store)["labeled"] == 7
        await page.reload()
        assert await shown(page) == last  # the tab keeps what it has
        await page.keyboard.press("f")
        await page.wait_for_selector("#flag[aria-pressed=true]")
        await page.keyboard.press("s")
        await shown(page, last)
        assert queries.counts(job.store)["skipped"] == 1
        assert queries.counts(job.store)["flagged"] == 1

    browse(job, scenario)
    assert complaints == []
    queries.check(job.store)


def test_two_tabs_have_different_samples(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        first, second = await open_page(context, url), await open_page(context, url)
        a, b = await shown(first), await shown(second)
        assert a != b
        await first.keyboard.press("1")
        assert await shown(first, a) not in (a, b)

    browse(job, scenario)


def test_any_name_of_a_class_is_text(job: Job) -> None:
    name = "<img src=x onerror=\"document.title='owned'\">"

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        id_ = await shown(page)
        await page.keyboard.press("n")
        await page.fill("#answer", name)
        await page.click("#ok")
        await page.wait_for_function("() => document.getElementById('classes').children.length === 11")
        await page.fill("#filter", "onerror")
        await page.press("#filter", "Enter")
        await shown(page, id_)
        assert await page.title() == "job: label"
        assert await page.locator("#classes img").count() == 0

    browse(job, scenario)
    assert queries.listing(job.store)[0]["label"] == name


@pytest.mark.usefixtures("no_pictures", "one_search", "faint_too")
def test_what_the_model_thinks_on_a_phone(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, [*tiny, *LEARNS])
    for i in range(30):
        job.store.label(f"{i:04d}.png", truth(digits_pool, f"{i:04d}.png"), Actor("bob"))
    fit_job(job)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        await page.wait_for_selector("#predictions .meter")
        await page.wait_for_selector("#counterfactuals img", timeout=30_000)
        assert "changed like this" in (await page.text_content("#counterfactuals") or "")
        captions = await page.locator(".counterfactual").first.locator("figcaption").all_text_contents()
        assert captions[-1] == "change × 6"
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 400
        frame, image = [await page.locator(name).bounding_box() for name in (".frame", "#image")]
        assert image["height"] <= frame["height"]  # nothing of it is cut off
        assert await page.evaluate("() => getComputedStyle(document.getElementById('image')).objectFit") == "contain"
        # Image and labels are in sight without scrolling, and large enough for a finger.
        boxes = [await button.bounding_box() for button in await page.locator("#classes button").all()]
        assert max(box["y"] + box["height"] for box in boxes[:3]) < 800
        assert min(box["height"] for box in boxes) >= 44
        await page.locator("#classes button").first.focus()
        await page.keyboard.press("Tab")
        assert await page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"

    browse(job, scenario, viewport={"width": 400, "height": 800})


def test_an_answer_is_sent_again_when_its_acknowledgement_is_lost(job: Job) -> None:
    async def scenario(context: Any, url: str) -> None:
        lost: list[str] = []

        async def lose_the_first(route: Any) -> None:
            if lost:
                await route.continue_()
                return
            await route.fetch()  # it arrives
            lost.append(route.request.post_data)
            await route.abort()

        # Before the page is opened: one that is open already may send its next request past a new route.
        await context.route("**/api/label", lose_the_first)
        page = await open_page(context, url)
        id_ = await shown(page)
        await page.keyboard.press("1")
        await shown(page, id_)
        assert lost

    browse(job, scenario)
    assert [row["kind"] for row in queries.history(job.store)].count("labeled") == 1
    assert queries.counts(job.store)["labeled"] == 1
