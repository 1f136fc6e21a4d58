"""The labeling page of a job in headless Chromium."""

import asyncio
import atexit
import shutil
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.page.server import make_app
from support.serving import served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

Scenario = Callable[[Any, str], Awaitable[None]]


def browse(
    job: Job,
    scenario: Scenario,
    *,
    name: str | None = "ann",
    host: str = "127.0.0.1",
    app: FastAPI | None = None,
    **options: Any,
) -> None:
    """Run a scenario in a fresh context of a browser that all tests of this process share.

    Args:
        job: Job that is served.
        scenario: Coroutine function of the context and the address of the page.
        name: Name that the annotator has given before; None for somebody who is new.
        host: Name by which the browser knows the server: 127.0.0.1, or one that ends in .example.
        app: Application of the page; None makes one.
        options: Options of the context.
    """
    pytest.importorskip("playwright.async_api", reason="the package playwright is not installed (extra: test)")

    async def run(port: int) -> None:
        context = await _browser().chromium.new_context(**options)
        try:
            if name is not None:
                given = f"localStorage.getItem('ssld-annotator') || localStorage.setItem('ssld-annotator', {name!r})"
                await context.add_init_script(f"if (location.protocol === 'http:') {{ {given} }}")
            await scenario(context, f"http://{host}:{port}/")
        finally:
            await context.close()

    with served(make_app(job) if app is None else app) as port:
        _browser().wait_for(run(port))


class _Browser:
    """Chromium and the event loop that it is driven from, in a thread: starting both takes longer than most scenarios."""

    def __init__(self) -> None:
        from playwright.async_api import async_playwright

        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._playwright = self.wait_for(async_playwright().start())
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
        self.chromium = self.wait_for(self._playwright.chromium.launch(executable_path=CHROMIUM, args=arguments))
        atexit.register(self._stop)

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine, from the thread of a test."""
        task = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return task.result()
        finally:
            task.cancel()  # where the test was stopped by its time limit

    def _stop(self) -> None:
        self.wait_for(self.chromium.close())
        self.wait_for(self._playwright.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)


@lru_cache(maxsize=1)
def _browser() -> _Browser:
    return _Browser()


async def open_page(context: Any, url: str, complaints: list[str] | None = None) -> Any:
    """A tab; what it complains of is added to a list."""
    page = await context.new_page()
    if complaints is not None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    await page.goto(url)
    return page


async def axe(page: Any) -> list[str]:
    """What axe-core complains of: rule, and the elements at fault."""
    script = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    await page.evaluate(f"() => {{ if (!window.axe) {{ {script} }} }}")
    found = await page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [f"{each['id']}: {[node['target'] for node in each['nodes']]}" for each in found["violations"]]


async def shown(page: Any, other_than: str = "") -> str:
    """Id of the sample whose image is on the page, once it is another one."""
    await page.wait_for_function(
        """other => {
          const [id, image] = ['id', 'image'].map((name) => document.getElementById(name));
          return id && image && !id.hidden && id.textContent && id.textContent !== other && image.complete && !image.hidden
            && image.alt === 'sample ' + id.textContent;
        }""",
        arg=other_than,
    )
    return str(await page.text_content("#id"))
