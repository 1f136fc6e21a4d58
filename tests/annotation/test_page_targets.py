"""Targets and examples of classes in a real browser: on the buttons, in the list of classes, and chosen by a click."""

from pathlib import Path
from typing import Any

import pytest
from support.annotation_jobs import make_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.annotation.accounts import Accounts
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import class_examples
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.data.pool import Pool

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
    pytest.mark.timeout(120),
]


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    made = make_job(tmp_path, digits_pool, tiny, "--n", 10)
    for k in range(20, 40):
        made.label(f"{k:04d}.png", truth(digits_pool, f"{k:04d}.png"), "ada")
    return made


async def count(page: Any, name: str) -> str:
    return str(await page.text_content(f"#classes [data-name='{name}'] .count"))


def test_an_owner_sets_a_target_and_it_is_reached(job: Job, digits_pool: Pool) -> None:
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        id_ = await shown(page)
        name = truth(digits_pool, id_)
        n = int(await count(page, name) or 0)
        await page.click("#edit-classes")
        field = page.get_by_label(f"Number of labels that are wanted of {name}", exact=True)
        await field.fill("lots")
        await field.press("Tab")
        await page.wait_for_function("() => document.getElementById('message').textContent.includes('no number of labels')")
        field = page.get_by_label(f"Number of labels that are wanted of {name}", exact=True)
        await field.fill(str(n + 1))
        await field.press("Tab")
        at = f"#classes [data-name='{name}'] .count"
        is_text = "([at, text]) => document.querySelector(at).textContent === text"
        await page.wait_for_function(is_text, arg=[at, f"{n}/{n + 1}"])
        assert await axe(page) == []
        await page.click("#class-done")
        await page.keyboard.press(name)
        await page.wait_for_function("at => document.querySelector(at).textContent.startsWith('✓')", arg=at)
        assert await count(page, name) == f"✓ {n + 1}/{n + 1}"
        await page.wait_for_function("() => document.getElementById('message').textContent.includes('that is wanted')")
        title = await page.get_attribute(f"#classes [data-name='{name}']", "title")
        assert title == f"{n + 1} of {n + 1} labels that are wanted"
        assert read_state(job.store).targets == {name: n + 1}

    browse(job, scenario)
    assert complaints == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]  # lots


def test_one_click_makes_an_image_the_example_of_its_class(job: Job) -> None:
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await shown(page)
        await page.wait_for_selector("#classes .example")
        name = await page.evaluate("() => ssld.session.classes.find((each) => ssld.now.counts[each] >= 2)")
        first = await page.get_attribute(f"#classes [data-name='{name}'] .example", "src")
        await page.hover(f"#classes [data-name='{name}']")
        await page.wait_for_selector("#class-peek:visible")
        assert (await page.text_content("#class-peek figcaption")).startswith(f"{name}: ")
        assert await axe(page) == []
        await page.mouse.move(5, 5)
        assert await page.is_hidden("#class-peek")
        await page.click("#edit-classes")
        await page.get_by_label(f"Choose examples of {name}", exact=True).click()
        await page.wait_for_selector("#found li")
        buttons = await page.locator(".as-example").all()
        assert {await each.text_content() for each in buttons} == {f"Example of {name}"}
        ids = [str(await each.get_attribute("aria-label")).split()[0] for each in buttons]
        chosen, made = next((id_, each) for id_, each in zip(ids, buttons, strict=True) if id_ not in str(first))
        await made.click()
        await page.wait_for_selector(".as-example[aria-pressed=true]")
        assert await axe(page) == []
        assert [str(job.store.ids[i]) for (i,) in class_examples.chosen(job.store).values()] == [chosen]
        now = await page.get_attribute(f"#classes [data-name='{name}'] .example", "src")
        assert now != first
        assert chosen in str(now)
        await page.click("nav [data-view=label]")
        await page.click("#edit-classes")
        await page.get_by_label(f"{chosen} is no longer an example of {name}", exact=True).click()
        await page.wait_for_function("name => !ssld.session.examples[name].some((each) => each.chosen)", arg=name)
        assert class_examples.chosen(job.store) == {}

    browse(job, scenario)
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_annotator_on_a_phone_sees_both_and_changes_nothing(job: Job, tmp_path: Path, scheme: str) -> None:
    accounts = Accounts(tmp_path / "team.json")
    accounts.add("ada", "owner", "a long password of ada")
    accounts.add("eve", "annotator", "a long password of eve")

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await page.fill("#name", "eve")
        await page.fill("#password", "a long password of eve")
        await page.keyboard.press("Enter")
        await shown(page)
        await page.wait_for_selector("#classes .example")
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert min([(await made.bounding_box())["height"] for made in await page.locator("#classes button").all()]) >= 44
        await page.click("#edit-classes")
        assert await page.locator("#class-table img").count() > 3
        assert await page.locator("#class-table input, #class-table button").count() == 0
        assert await axe(page) == []
        await page.click("#class-done")

    app = make_app(job, accounts=accounts)
    browse(job, scenario, name=None, app=app, viewport={"width": 390, "height": 844}, color_scheme=scheme)
