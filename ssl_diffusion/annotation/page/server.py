"""The applications that serve labeling pages: of one job, or of several behind a start page."""

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from ssl_diffusion.annotation.accounts import Accounts
from ssl_diffusion.annotation.http_access import Guard
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.several_jobs import job_name
from ssl_diffusion.annotation.loop.workbench import Workbench
from ssl_diffusion.annotation.page.job_routes import job_api
from ssl_diffusion.annotation.page.permissions import AlreadyLabeledError, NotAllowedError, check_role
from ssl_diffusion.annotation.page.pictures import ImageChangedError, Pictures
from ssl_diffusion.annotation.page.pool_routes import pool
from ssl_diffusion.annotation.page.routes import STATIC, Page, api, documents, images
from ssl_diffusion.annotation.page.sign_in import sign_in
from ssl_diffusion.annotation.page.start import start
from ssl_diffusion.annotation.store.decisions import DecidedMeanwhileError
from ssl_diffusion.annotation.store.faults import StoreError
from ssl_diffusion.errors import SSLDError

__all__ = ["make_app", "make_jobs_app"]

# 409: the image, or the sample, is not what it was when it was shown.
_STATUS = {ImageChangedError: 409, AlreadyLabeledError: 409, DecidedMeanwhileError: 409, NotAllowedError: 403, StoreError: 503}
_PAGE: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": "/api/openapi.json"}


def make_app(
    job: Job,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    accounts: Accounts | None = None,
    blind: bool = False,
    refit_every: int | None = None,
    map_method: str = "pca",
) -> FastAPI:
    """Make the application of a job.

    Args:
        job: Job to label.
        host: Address that it is served on.
        token: Token that log-ins need, one secret for all who may then do everything; None without one.
        accounts: Accounts that log-ins need instead, each with a role; None without any. With neither, this machine is served.
        blind: Whether to hide the model's predictions and reasons.
        refit_every: New labels after which a fit starts, see :class:`~ssl_diffusion.annotation.loop.workbench.Workbench`.
        map_method: Projection of the map: "pca" or "umap", see :func:`ssl_diffusion.acquisition.pool_map.places_of`.

    Returns:
        Application whose `state.page` is the :class:`~ssl_diffusion.annotation.page.routes.Page`.

    Raises:
        SSLDError: If others could reach the host without a token and accounts, the token is short, or the accounts cannot be
            read.
    """
    guard = Guard(host, token, accounts)
    page = Page(job, Workbench(job, refit_every, map_method=map_method), blind, Pictures(job), job_name(job.path))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        page.bench.start()
        yield
        page.bench.stop()

    app = _application("ssld labeling page", lifespan=lifespan)
    _guarded(app, guard)
    return _with_page(app, page)


def make_jobs_app(
    jobs: Mapping[str, Job],
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    accounts: Accounts | None = None,
    blind: bool = False,
    refit_every: int | None = None,
    map_method: str = "pca",
    newcomers: Callable[[], Mapping[str, Job]] | None = None,
) -> FastAPI:
    """Make the application of several jobs: a start page, and the page of each job at `/job/NAME/`.

    Of a job whose page nobody has opened only the figures are read: its model is opened, and its fits are looked after, from
    the first visit on.

    Args:
        jobs: Jobs by name, see :func:`~ssl_diffusion.annotation.loop.several_jobs.find_jobs`.
        host: As in :func:`make_app`, like the other arguments, which hold for all jobs.
        token: See there.
        accounts: See there.
        blind: See there.
        refit_every: See there.
        map_method: See there.
        newcomers: Function that returns jobs that are not served yet, by name, which is called when somebody asks for the jobs;
            see :class:`~ssl_diffusion.annotation.loop.several_jobs.Newcomers`. None: there are none.

    Returns:
        Application whose `state.pages` are the pages by name.

    Raises:
        SSLDError: If others could reach the host without a token and accounts, the token is short, or the accounts cannot be
            read.
    """
    guard = Guard(host, token, accounts)
    apps, looking = _JobApps(), threading.Lock()

    def add(jobs: Mapping[str, Job]) -> None:
        for name, job in jobs.items():
            apps.add(Page(job, Workbench(job, refit_every, map_method=map_method), blind, Pictures(job), name, home="/"))

    def look() -> None:
        if newcomers is not None:
            with looking:
                add(newcomers())

    add(jobs)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        for page in apps.pages.values():
            page.bench.stop()

    app = _application("ssld start page", lifespan=lifespan)
    _guarded(app, guard)
    app.state.pages, app.state.look = apps.pages, look
    app.include_router(start)
    app.mount("/job/{name}", apps)
    return app


def on_ssld_error(_request: Request, error: Exception) -> JSONResponse:
    """The sentence of an error; its status is 400 unless :data:`_STATUS` says another."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
    return JSONResponse({"error": str(error)}, status)


def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Status 422, naming the fields at fault."""
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in error.errors())
    text = f"the request is not valid ({'; '.join(faults)})".encode(errors="backslashreplace").decode()
    return JSONResponse({"error": text}, 422)


class _JobApps:
    """The applications of several jobs, below the part of the path that names one."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self._apps: dict[str, FastAPI] = {}

    def add(self, page: Page) -> None:
        """Serve a job."""
        self._apps[page.name] = _with_page(_application("ssld labeling page"), page)
        self.pages[page.name] = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path_params"]["name"]
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
        elif name not in self._apps:
            await JSONResponse({"error": "there is no such job on this server"}, 404)(scope, receive, send)
        else:
            self.pages[name].bench.start()
            await self._apps[name](scope, receive, send)


def _application(title: str, **options: Any) -> FastAPI:
    app = FastAPI(title=title, dependencies=[Depends(check_role)], **_PAGE, **options)
    app.add_exception_handler(SSLDError, on_ssld_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    return app


def _guarded(app: FastAPI, guard: Guard) -> None:
    """Make an application the one that faces the network."""
    app.state.guard = guard
    app.middleware("http")(guard)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(sign_in)


def _with_page(app: FastAPI, page: Page) -> FastAPI:
    """The application, with the routes of a job."""
    app.state.page = page
    for router in (documents, api, pool, job_api, images):
        app.include_router(router)
    return app
