"""The views of the page on a phone in the dark: axe-core has no complaint of any, and they fit; one server for all."""

from pathlib import Path
from typing import Any

import pytest
from support.annotation_jobs import make_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.review import ReviewItem, add_items
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool

AUDITED = 9
COLORS = """() => Object.fromEntries([...document.querySelectorAll('#classes button')].map((each) => {
  const chips = [...document.querySelectorAll('#chips button')];
  const chip = chips.find((other) => other.childNodes[1].textContent === each.dataset.name);
  return [each.dataset.name, [each, chip].map((one) => getComputedStyle(one.querySelector('.dot')).backgroundColor)];
}))"""


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    """Fifty labels and nine of the audit; four doubts of a check, one of them a copy; a flag."""
    made = make_job(tmp_path, digits_pool, tiny, "--n", 10, "--audit", 20)
    pool, audit = (made.store.ids[made.store.of_role(role)].tolist() for role in ("pool", "audit"))
    eve = Actor("eve", "page", seconds=2.0)
    made.store.apply([Action("label", id_, eve, truth(digits_pool, id_)) for id_ in [*pool[:50], *audit[:AUDITED]]])
    made.store.apply([Action("flag", pool[0], eve)])
    add_items(made.store, [ReviewItem(id_, "label issue", "labeled, and probably 8", "8") for id_ in pool[1:4]])
    add_items(made.store, [ReviewItem(pool[5], "duplicate", f"a copy of {pool[6]}")])
    return made


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")
@pytest.mark.timeout(180)
def test_sheet_review_queue_and_search_on_a_phone_in_the_dark(job: Job) -> None:
    complaints: list[str] = []

    async def fits(page: Any) -> None:
        assert await axe(page) == []
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 390

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await shown(page)
        await page.wait_for_function("() => ssld.now.mapped && document.querySelectorAll('#chips button').length === 10")
        await page.wait_for_function("() => document.getElementById('accuracy').textContent.includes('So far')")
        line = await page.text_content("#accuracy")  # no figure of nine labels leads
        assert line.startswith(f"{50 - AUDITED} more audit labels for about ± 10 points. So far between ")
        assert line.endswith(f"(95 %), from {AUDITED} labels.")
        colors = await page.evaluate(COLORS)  # a class has the same color on its button and beside the map
        assert all(button == chip for button, chip in colors.values())
        assert len({button for button, _ in colors.values()}) == len(colors) == 10
        await fits(page)
        await page.click("#sheet-mode")
        await page.wait_for_function("() => ssld.now.sheet && !ssld.now.busy")
        await page.locator("#tiles button").first.click()
        await fits(page)
        for view, cards in (("suspicious", 4), ("disputed", 1)):
            await page.click(f"[data-view={view}]")
            await page.wait_for_function(f"() => document.querySelectorAll('#review li').length === {cards} && !ssld.now.busy")
            await fits(page)
        await page.fill("#search", "is:labeled by:eve")
        await page.keyboard.press("Enter")
        await page.wait_for_function("() => document.querySelectorAll('#found li').length > 50 && !ssld.now.busy")
        await fits(page)

    browse(job, scenario, viewport={"width": 390, "height": 800}, color_scheme="dark")
    assert complaints == []
