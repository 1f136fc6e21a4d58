"""The start page and roles in a real browser: by keyboard, on a phone, light and dark, without a complaint of axe-core."""

from pathlib import Path
from typing import Any

import pytest
from support.accounts import make_accounts, password
from support.annotation_jobs import asked, make_job, truth
from support.browser import CHROMIUM, axe, browse, open_page, shown

from ssl_diffusion.annotation.loop.fit_state import reporting
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app, make_jobs_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.progress import ProgressUpdate

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
    pytest.mark.timeout(180),
]
HARMLESS = "The Cross-Origin-Opener-Policy header has been ignored"  # Chromium says so of every page over plain HTTP


@pytest.fixture
def jobs(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> dict[str, Job]:
    return {name: make_job(_folder(tmp_path / name), digits_pool, tiny, "--n", 5) for name in ("first", "second & third")}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


async def log_in(page: Any, name: str, given: str | None = None) -> None:
    await page.fill("#name", name)
    await page.fill("#password", password(name) if given is None else given)
    await page.keyboard.press("Enter")


def lines(name: str) -> str:
    return f"[...document.querySelectorAll('#jobs li')].find((card) => card.innerText.includes('{name}'))?.innerText || ''"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_from_the_start_page_to_a_job_and_back_by_keyboard(jobs: dict[str, Job], digits_pool: Pool, scheme: str) -> None:
    complaints: list[str] = []
    job = jobs["first"]
    job.store.label("0089.png", truth(digits_pool, "0089.png"), Actor("cleo"))

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await page.wait_for_function(f"() => {lines('first')}.includes('1 of 90 labeled')")
        text = await page.evaluate(lines("first"))
        assert "10 classes · no model yet · accuracy not measured yet" in text
        assert "last: cleo, " in text
        assert "nobody has labeled here yet" in await page.evaluate(lines("second & third"))
        assert await page.text_content("#progress") == "2 jobs · 1 of 180 labeled"
        assert await axe(page) == []
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 390
        with job.alone("fit"), reporting(job, None) as progress:
            progress(ProgressUpdate("training", 300, 1000))
            await page.wait_for_function(f"() => {lines('first')}.includes('Fitting: training, 30 %')", timeout=20_000)
        for _ in range(2):  # the skip link, then the first job
            await page.keyboard.press("Tab")
        assert await page.evaluate("() => document.activeElement.textContent") == "first"
        assert await page.evaluate("() => getComputedStyle(document.activeElement, '::after').outlineStyle") == "solid"
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#stage")
        id_ = await shown(page)
        assert await page.title() == "first: label"
        await page.keyboard.press(truth(digits_pool, id_))
        await shown(page, id_)
        assert await axe(page) == []
        await page.click("#home")
        await page.wait_for_function(f"() => {lines('first')}.includes('2 of 90 labeled')")
        assert "last: ann, " in await page.evaluate(lines("first"))

    options = {"viewport": {"width": 390, "height": 800}, "color_scheme": scheme}
    browse(job, scenario, app=make_jobs_app(jobs), **options)
    assert complaints == []
    assert queries.counts(jobs["second & third"].store)["labeled"] == 0


def test_a_tab_that_goes_from_job_to_job_takes_nothing_along(jobs: dict[str, Job]) -> None:
    complaints: list[str] = []

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, f"{url}job/first/", complaints)
        id_ = await shown(page)
        await page.keyboard.press("1")
        await shown(page, id_)
        await page.evaluate("() => sessionStorage.setItem('ssld-out/job/first/', JSON.stringify(['0042.png']))")
        await page.goto(f"{url}job/second%20%26%20third/")
        await shown(page)
        assert await page.text_content("#note") != "taken out of a sheet"
        await page.keyboard.press("u")
        await page.wait_for_function("() => document.getElementById('message').textContent === 'this tab has nothing to undo'")
        await page.goto(f"{url}job/first/")
        assert await shown(page) == "0042.png"
        await page.keyboard.press("u")
        assert await shown(page, "0042.png") == id_

    browse(jobs["first"], scenario, app=make_jobs_app(jobs))
    assert complaints == []
    assert [queries.counts(job.store)["labeled"] for job in jobs.values()] == [0, 0]


def test_a_job_alone_has_no_way_home(jobs: dict[str, Job]) -> None:
    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await shown(page)
        assert await page.is_hidden("#home")
        assert await page.is_hidden("#account")
        assert await page.is_visible("#who")
        assert await page.is_visible("#fit")

    browse(jobs["first"], scenario)


@pytest.mark.parametrize("role", ["annotator", "reviewer", "owner"])
def test_what_a_role_may_not_do_is_not_there(jobs: dict[str, Job], tmp_path: Path, role: str) -> None:
    complaints: list[str] = []
    job, accounts = jobs["first"], make_accounts(tmp_path / "team.json")
    asked(job)

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url, complaints)
        await log_in(page, role, "a wrong password")
        await page.wait_for_function("() => document.getElementById('problem').textContent.startsWith('That is no name')")
        assert await axe(page) == []
        await log_in(page, role)
        await page.wait_for_selector("#account-name")  # another document
        id_ = await shown(page)
        assert await page.text_content("#account-name") == f"{role} · {role}"
        assert await page.is_hidden("#who")
        there = {
            name: await page.is_visible(name) for name in ("[data-view=disputed]", "#add", "#edit-classes", "#fit", "#flag")
        }
        assert list(there.values()) == [role != "annotator", role != "annotator", True, role == "owner", True]
        await page.click("#edit-classes")  # which all may look at, with their targets and examples
        assert (await page.locator("#class-table input, #class-table button").count() > 0) == (role == "owner")
        await page.click("#class-done")
        assert await axe(page) == []
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 390
        await page.keyboard.press("n")
        if role != "annotator":
            await page.wait_for_selector("#ask[open]")
        assert (await page.locator("#ask[open]").count() == 1) == (role != "annotator")
        await page.keyboard.press("Escape")
        await page.wait_for_function("() => !ssld.now.busy")
        await page.keyboard.press("1")
        await shown(page, id_)
        await page.get_by_role("button", name="Log out").click()
        await page.wait_for_selector("#password")

    app = make_app(job, host="0.0.0.0", accounts=accounts)
    options = {"viewport": {"width": 390, "height": 800}}
    browse(job, scenario, app=app, host="team.example", **options)
    # The browser says of a refused log-in what its status is.
    assert [text for text in complaints if not text.startswith(HARMLESS) and "401" not in text] == []
    row = next(row for row in queries.history(job.store) if row["kind"] == "labeled")
    assert row["annotator"] == role  # not "ann", the name that was given in this browser before
    (open_,) = {row["status"] for row in queries.listing(job.store)}
    assert open_ == "labeled"


def test_a_password_is_changed_on_the_page(jobs: dict[str, Job], tmp_path: Path) -> None:
    accounts = make_accounts(tmp_path / "team.json")

    async def scenario(context: Any, url: str) -> None:
        page = await open_page(context, url)
        await log_in(page, "other")
        await page.get_by_role("button", name="Password").click()
        assert await axe(page) == []
        await page.fill("#password-now", "wrong")
        await page.fill("#password-next", "a new and long password")
        await page.click("#password-change")
        await page.wait_for_function(
            "() => document.querySelector('#password-dialog .problem').textContent.includes('not the pass')"
        )
        await page.fill("#password-now", password("other"))
        await page.click("#password-change")
        await page.wait_for_selector("#password-dialog", state="detached")
        await page.click("text=first")
        await page.wait_for_selector("#stage")
        await shown(page)

    browse(jobs["first"], scenario, app=make_jobs_app(jobs, host="0.0.0.0", accounts=accounts), host="team.example")
    assert accounts.check("other", "a new and long password") is not None
