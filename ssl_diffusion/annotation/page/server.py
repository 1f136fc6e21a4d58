"""The application that serves the labeling page of a job."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from ssl_diffusion.annotation.http_access import Guard
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.workbench import Workbench
from ssl_diffusion.annotation.page.pictures import ImageChangedError, Pictures
from ssl_diffusion.annotation.page.pool_routes import pool
from ssl_diffusion.annotation.page.routes import STATIC, Page, api, documents, images
from ssl_diffusion.annotation.store.faults import StoreError
from ssl_diffusion.errors import SSLDError

__all__ = ["make_app"]


def make_app(
    job: Job,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    blind: bool = False,
    refit_every: int | None = None,
    map_method: str = "pca",
) -> FastAPI:
    """Make the application of a job.

    Args:
        job: Job to label.
        host: Address that it is served on.
        token: Token that log-ins need; None serves this machine only.
        blind: Whether to hide the model's predictions and reasons.
        refit_every: New labels after which a fit starts, see :class:`~ssl_diffusion.annotation.loop.workbench.Workbench`.

        map_method: Projection of the map: "pca" or "umap", see :func:`ssl_diffusion.acquisition.pool_map.places_of`.

    Returns:
        Application whose `state.page` is the :class:`~ssl_diffusion.annotation.page.routes.Page`.

    Raises:
        SSLDError: If others could reach the host without a token, or the token is short.
    """
    page = Page(job, Workbench(job, refit_every, map_method=map_method), Guard(host, token), blind, Pictures(job))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        page.bench.start()
        yield
        page.bench.stop()

    app = FastAPI(title="ssld labeling page", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.page = page
    app.middleware("http")(page.guard)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(SSLDError, on_ssld_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    for router in (documents, api, pool, images):
        app.include_router(router)
    return app


def on_ssld_error(_request: Request, error: Exception) -> JSONResponse:
    """Status 400, 409 if an image is not what it was, or 503 if the database fails; with the sentence of the error."""
    status = 409 if isinstance(error, ImageChangedError) else 503 if isinstance(error, StoreError) else 400
    return JSONResponse({"error": str(error)}, status)


def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Status 422, naming the fields at fault."""
    assert isinstance(error, RequestValidationError)
    faults = (f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}" for fault in error.errors())
    text = f"the request is not valid ({'; '.join(faults)})".encode(errors="backslashreplace").decode()
    return JSONResponse({"error": text}, 422)
