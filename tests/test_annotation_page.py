"""The labeling page in a real browser: by keyboard, after a reload, in two tabs, on a phone, with a class called <img ...>."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from annotation_jobs import make_job, truth

from ssl_diffusion.annotation import views
from ssl_diffusion.annotation.job import Job
from ssl_diffusion.annotation.refits import fit_job
from ssl_diffusion.annotation.server import make_app
from ssl_diffusion.annotation.store import By
from ssl_diffusion.pool import Pool

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed (extra: dev)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)")


COMPLAINTS: list[str] = []


@pytest.fixture(autouse=True)
def _no_complaints() -> Iterator[None]:
    COMPLAINTS.clear()
    yield
    assert COMPLAINTS == []


@contextlib.contextmanager
def served(job: Job, **options: object) -> Iterator[str]:
    """The page of a job on a free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(job, **options), port=port, log_level="error"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def open_page(context: "playwright.BrowserContext", url: str) -> "playwright.Page":
    """A tab; what it complains of is kept, and must be nothing in the end (:func:`_no_complaints`)."""
    page = context.new_page()
    page.on("pageerror", lambda error: COMPLAINTS.append(str(error)))
    page.on("console", lambda message: message.type == "error" and COMPLAINTS.append(message.text))
    page.goto(url)
    return page


def shown(page: "playwright.Page", other_than: str = "") -> str:
    """Id of the sample on the page, once it is another one."""
    page.wait_for_function(
        "other => { const e = document.getElementById('id'); return !e.hidden && e.textContent && e.textContent !== other }",
        arg=other_than,
    )
    return str(page.text_content("#id"))


def test_twenty_images_by_keyboard_undo_and_reload(browser: "playwright.Browser", job: Job, digits_pool: Pool) -> None:
    with served(job) as url, contextlib.closing(browser.new_context()) as context:
        page = open_page(context, url)
        last = ""
        for _ in range(20):
            last = shown(page, last)
            label = truth(digits_pool, last)
            page.keyboard.press(str((job.store.classes.index(label) + 1) % 10))
        page.wait_for_function("document.getElementById('progress').textContent.startsWith('20 labeled')")
        positions, classes = views.labels(job.store)
        ids = job.store.ids[positions]
        assert [job.store.classes[k] for k in classes] == [truth(digits_pool, i) for i in ids]
        now = shown(page, last)
        page.keyboard.press("u")
        assert shown(page, now) == last
        assert views.counts(job.store)["labeled"] == 19
        page.reload()
        assert shown(page) == last  # the tab keeps what it has
        page.keyboard.press("f")
        page.wait_for_selector("#flag[aria-pressed=true]")
        page.keyboard.press("s")
        shown(page, last)
        assert views.counts(job.store)["skipped"] == 1
        assert views.counts(job.store)["flagged"] == 1
    views.check(job.store)


def test_two_tabs_have_different_samples(browser: "playwright.Browser", job: Job) -> None:
    with served(job) as url, contextlib.closing(browser.new_context()) as context:
        first, second = open_page(context, url), open_page(context, url)
        a, b = shown(first), shown(second)
        assert a != b
        first.keyboard.press("1")
        assert shown(first, a) not in (a, b)


def test_any_name_of_a_class_is_text(browser: "playwright.Browser", job: Job) -> None:
    name = "<img src=x onerror=\"document.title='owned'\">"
    with served(job) as url, contextlib.closing(browser.new_context()) as context:
        page = open_page(context, url)
        id_ = shown(page)
        page.keyboard.press("n")
        page.fill("#answer", name)
        page.click("#ok")
        page.wait_for_function("document.getElementById('classes').children.length === 11")
        page.fill("#filter", "onerror")
        page.press("#filter", "Enter")
        shown(page, id_)
        assert page.title() == "job: label"
        assert page.locator("#classes img").count() == 0
    assert views.listing(job.store)[0]["label"] == name


def test_what_the_model_thinks_and_the_phone(
    browser: "playwright.Browser", job: Job, digits_pool: Pool, no_pictures: None
) -> None:
    for i in range(30):
        job.store.label(f"{i:04d}.png", truth(digits_pool, f"{i:04d}.png"), By("bob"))
    fit_job(job)
    with served(job) as url, contextlib.closing(browser.new_context(viewport={"width": 400, "height": 800})) as context:
        page = open_page(context, url)
        shown(page)
        page.wait_for_selector("#guesses .meter")
        page.wait_for_selector("#counterfactuals img", timeout=30_000)
        assert "if it looked like this" in (page.text_content("#counterfactuals") or "")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 400
        # Image and labels are in sight without scrolling.
        box = page.locator("#classes button").first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800
        assert min(b["height"] for b in (e.bounding_box() for e in page.locator("#classes button").all()) if b) >= 44
        page.locator("#classes button").first.focus()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") in ("solid", "auto")


def test_an_answer_is_sent_again_when_the_server_is_away(browser: "playwright.Browser", job: Job) -> None:
    with served(job) as url, contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(url)
        id_ = shown(page)
        dropped: list[str] = []

        def once(route: "playwright.Route") -> None:
            if dropped:
                route.continue_()
                return
            # It arrives, and the acknowledgement is lost.
            route.fetch()
            dropped.append(route.request.post_data or "")
            route.abort()

        page.route("**/api/say", once)
        page.keyboard.press("1")
        shown(page, id_)
        assert dropped
    assert [row["kind"] for row in views.history(job.store)].count("labeled") == 1
    assert views.counts(job.store)["labeled"] == 1
