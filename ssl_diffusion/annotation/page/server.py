"""The labeling page: its addresses, and what they answer (JSON; images as files)."""

import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from ssl_diffusion.annotation.access import Guard
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.workbench import Workbench
from ssl_diffusion.annotation.store import queries, queue
from ssl_diffusion.annotation.store.store import Actor, Verb
from ssl_diffusion.data.pictures import shown_image, to_pil
from ssl_diffusion.errors import SSLDError

__all__ = ["make_app"]

_log = logging.getLogger(__name__)
_PAGE = Path(__file__).parent / "static"
_NAME = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")


class Who(BaseModel):
    """Who asks, and from which tab."""

    annotator: str = _NAME
    holder: str = _NAME


class Saying(Who):
    """What an annotator says of a sample."""

    id: str = Field(min_length=1, max_length=1000)
    verb: Verb
    label: str | None = None
    final: bool = False
    seconds: float | None = Field(default=None, ge=0, le=86400)
    token: str = _NAME


class Taking(Who):
    """A sample to open, whoever else has it."""

    id: str = Field(min_length=1, max_length=1000)


class NewClass(BaseModel):
    """A class that is to be added."""

    name: str = _NAME


Id = Annotated[str, Query(alias="id", max_length=1000)]


def make_app(
    job: Job, *, host: str = "127.0.0.1", token: str | None = None, blind: bool = False, refit_every: int | None = None
) -> FastAPI:
    """The application of a job.

    Args:
        job: the job.
        host: that it is served on.
        token: that others than this machine need.
        blind: do not show what the model thinks.
        refit_every: see :class:`~ssl_diffusion.annotation.loop.workbench.Workbench`.

    Raises:
        SSLDError: see :class:`~ssl_diffusion.annotation.access.Guard`.
    """
    guard = Guard(host, token)
    bench = Workbench(job, refit_every)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        bench.start()
        yield
        bench.stop()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)
    app.mount("/static", StaticFiles(directory=_PAGE), name="static")

    @app.exception_handler(SSLDError)
    async def said_so(_request: Request, error: SSLDError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", media_type="text/html")

    @app.get("/login")
    def login() -> HTMLResponse:
        return HTMLResponse((_PAGE / "login.html").read_text(encoding="utf-8"))

    @app.post("/login")
    async def logged_in(request: Request) -> Response:
        given = parse_qs((await request.body()).decode(errors="replace")).get("token", [""])[0]
        if guard.log_in(given):
            return guard.welcome(RedirectResponse("/", 303))
        _log.info("a wrong token was given")
        text = (_PAGE / "login.html").read_text(encoding="utf-8").replace("<!-- wrong -->", "That is not the token.")
        return HTMLResponse(text, 401)

    @app.get("/api/session")
    def session() -> dict[str, Any]:
        return {"csrf": guard.csrf, "job": job.path.resolve().name, "classes": job.store.classes, "blind": blind}

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        found = bench.state()
        return {**found, "classes": job.store.classes}

    @app.post("/api/next")
    def next_(who: Who) -> dict[str, Any]:
        item = bench.take(who.annotator, who.holder)
        return {"sample": None if item is None else _sample(item.id, item.note, item.status)}

    @app.post("/api/say")
    def say(what: Saying) -> dict[str, Any]:
        by = Actor(what.annotator, "page", what.seconds, what.token)
        return {"status": bench.said(what.id, what.verb, by, what.label, final=what.final)}

    @app.post("/api/undo")
    def undo(who: Who) -> dict[str, Any]:
        id_ = bench.undo(who.annotator, who.holder)
        return {"sample": None if id_ is None else _sample(id_, "taken back", "open")}

    @app.post("/api/take")
    def take(what: Taking) -> dict[str, Any]:
        item = queue.take(job.store, what.id, what.annotator, what.holder)
        return {"sample": _sample(item.id, "under review", item.status)}

    @app.post("/api/fit")
    def fit() -> dict[str, Any]:
        return {"started": bench.fits.start()}

    @app.post("/api/classes")
    def add_class(new: NewClass) -> dict[str, Any]:
        job.store.add_classes([new.name])
        return {"classes": job.store.classes}

    @app.get("/api/review")
    def review() -> dict[str, Any]:
        disputed = queries.listing(job.store, "disputed")
        flagged = queries.listing(job.store, flagged=True)
        rows = {row["id"]: row for row in [*disputed, *flagged]}
        return {"samples": [row | {"image": f"/image?id={quote(row['id'], safe='')}"} for row in rows.values()]}

    @app.get("/api/thoughts")
    def thoughts(id_: Id) -> dict[str, Any]:
        found = [] if blind else bench.counterfactuals(id_)
        guesses = [] if blind else bench.guesses(id_)
        names = job.store.classes
        shown = [
            {"label": names[c.label], "distance": c.distance, "image": f"/counterfactual?id={quote(id_, safe='')}&k={k}"}
            for k, c in enumerate(found or [])
        ]
        return {
            "ready": found is not None,
            "guesses": [{"label": name, "p": p} for name, p in guesses],
            "counterfactuals": shown,
        }

    @app.get("/counterfactual")
    def counterfactual(id_: Id, k: int) -> Response:
        found = bench.counterfactuals(id_) or []
        if blind or not 0 <= k < len(found):
            return JSONResponse({"error": "there is no such counterfactual"}, 404)
        buffer = io.BytesIO()
        to_pil(found[k].image).save(buffer, format="PNG")
        return Response(buffer.getvalue(), media_type="image/png")

    @app.get("/image")
    def image(id_: Id) -> Response:
        (position,) = job.store.positions([id_]).tolist()  # ids are looked up: no path comes from outside
        content, kind = shown_image(job.image_file(position))
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    def _sample(id_: str, note: str, status: str) -> dict[str, Any]:
        return {
            "id": id_,
            "image": f"/image?id={quote(id_, safe='')}",
            "note": "" if blind else note,
            "status": status,
        }

    return app
