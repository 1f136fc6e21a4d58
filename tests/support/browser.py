"""The labeling page of a job in headless Chromium."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
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
    """Run a scenario in a fresh browser context.

    Args:
        job: Job that is served.
        scenario: Coroutine function of the context and the address of the page.
        name: Name that the annotator has given before; None for somebody who is new.
        host: Name by which the browser knows the server.
        app: Application of the page; None makes one.
        options: Options of the context.
    """
    playwright = pytest.importorskip("playwright.async_api", reason="the package playwright is not installed (extra: test)")

    async def run(port: int) -> None:
        async with playwright.async_playwright() as p:
            arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {host} 127.0.0.1"]
            browser = await p.chromium.launch(executable_path=CHROMIUM, args=arguments)
            context = await browser.new_context(**options)
            if name is not None:
                given = f"localStorage.getItem('ssld-annotator') || localStorage.setItem('ssld-annotator', {name!r})"
                await context.add_init_script(f"if (location.protocol === 'http:') {{ {given} }}")
            await scenario(context, f"http://{host}:{port}/")
            await browser.close()

    with served(make_app(job) if app is None else app) as port:
        asyncio.run(run(port))


async def open_page(context: Any, url: str, complaints: list[str] | None = None) -> Any:
    """A tab; what it complains of is added to a list."""
    page = await context.new_page()
    if complaints is not None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    await page.goto(url)
    return page


async def shown(page: Any, other_than: str = "") -> str:
    """Id of the sample whose image is on the page, once it is another one."""
    await page.wait_for_function(
        """other => {
          const [id, image] = ['id', 'image'].map((name) => document.getElementById(name));
          return !id.hidden && id.textContent && id.textContent !== other && image.complete && !image.hidden
            && image.alt === 'sample ' + id.textContent;
        }""",
        arg=other_than,
    )
    return str(await page.text_content("#id"))
