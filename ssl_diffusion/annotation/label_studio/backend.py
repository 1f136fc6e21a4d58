"""Label Studio's model server (ML backend): predictions at once, labels and training in the background.

Label Studio waits for every answer, webhooks while an annotator waits for theirs, and repeats none. So nothing is done before
answering, and what events say is taken for a hint only: labels are read from the project itself, then and twice a minute.
"""

import base64
import binascii
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ssl_diffusion.annotation.access import check_access, host_refusal
from ssl_diffusion.annotation.label_studio.client import LabelStudio, parse_interface
from ssl_diffusion.annotation.label_studio.sync import is_selected, order_of, prediction, pull, push
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.workbench import Workbench
from ssl_diffusion.annotation.store import queue
from ssl_diffusion.errors import SSLDError

__all__ = ["Backend", "make_backend"]

_log = logging.getLogger(__name__)
_POLL = 30.0  # seconds
_LARGEST = 256 * 2**20  # bytes of a request: a whole project, images in it, can be asked for in one
_LABELS_CHANGED = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
)


class Setup(BaseModel):
    """What Label Studio sends to begin with; its token is not looked at."""

    project: str

    model_config = {"extra": "ignore"}


class Asking(BaseModel):
    """Tasks to be predicted."""

    tasks: list[dict[str, Any]]
    label_config: str

    model_config = {"extra": "ignore"}


class Event(BaseModel):
    """What has happened."""

    action: str

    model_config = {"extra": "ignore"}


class Backend:
    """A job that follows a project, and which the project follows.

    Args:
        job: the job.
        server: of Label Studio.
        project: number of the project.
        blind: do not say what the model thinks.
        image_prefix: see :func:`~ssl_diffusion.annotation.label_studio.sync.push`.
        refit_every: see :class:`~ssl_diffusion.annotation.loop.workbench.Workbench`.
    """

    def __init__(
        self,
        job: Job,
        server: LabelStudio,
        project: int,
        *,
        blind: bool = False,
        image_prefix: str | None = None,
        refit_every: int | None = None,
    ) -> None:
        self.job, self.server, self.project = job, server, project
        self.blind, self.image_prefix = blind, image_prefix
        self.bench = Workbench(job, refit_every)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="label-studio", daemon=True)

    def start(self) -> None:
        """Load the model and begin to follow the project."""
        self.bench.look()
        self.bench.start()
        self._thread.start()

    def stop(self) -> None:
        """End it; a fit is interrupted and can be continued."""
        self._stop.set()
        self._thread.join()
        self.bench.stop()

    @property
    def version(self) -> str:
        """Of the present predictions: another one whenever the order of the queue is."""
        return order_of(self.job).version

    def predict(self, tasks: list[dict[str, Any]], config: str) -> list[dict[str, Any]]:
        """Predictions of tasks, one each: the class that the model thinks of, and the place in the queue.

        Samples of the queue have the scores of their order; all others come after them.
        """
        interface, order = parse_interface(config, f"project {self.project}"), order_of(self.job)
        asked = [str((task.get("data") or {}).get("ssld_id")) for task in tasks]
        found = {} if self.blind else self.bench.classes_of(asked)
        return [prediction(interface, order, id_, found.get(id_)) for id_ in asked]

    def hear(self, action: str) -> None:
        """What to do about an event; it is done in the background."""
        if action == "START_TRAINING":
            self.bench.soon("train", self._train)
        elif action in _LABELS_CHANGED:
            self.bench.soon("labels", self.follow)

    def follow(self) -> None:
        """Take over the project's labels, and make the job's queue its queue."""
        pulled = pull(self.job, self.server, self.project)
        if pulled.imported.labeled or pulled.taken_back:
            self.bench.rerank()
        if not len(queue.pending(self.job.store, 1)):
            self.bench.round()
        order = order_of(self.job)
        if order.scores and not is_selected(self.server, self.project, order):
            push(self.job, self.server, self.project, image_prefix=self.image_prefix, blind=self.blind)

    def _train(self) -> None:
        self.follow()
        self.bench.fits.start()

    def _poll(self) -> None:
        while True:
            self.bench.soon("labels", self.follow)
            if self._stop.wait(_POLL):
                return


def make_backend(backend: Backend, *, host: str = "127.0.0.1", token: str | None = None) -> FastAPI:
    """The application of a backend.

    Args:
        backend: what it serves.
        host: that it is served on.
        token: password that Label Studio sends (HTTP Basic, any user name); other hosts need one.

    Raises:
        SSLDError: if another host is served without a token, or the token is short.
    """
    check_access(host, token)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        backend.stop()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return _refusal(request, token) or await call_next(request)

    @app.exception_handler(SSLDError)
    async def said_so(_request: Request, error: SSLDError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.get("/")
    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "ssld", "problem": backend.bench.problem}

    @app.post("/setup")
    def setup(what: Setup) -> dict[str, str]:
        if what.project.partition(".")[0] != str(backend.project):
            raise SSLDError(f"this is the model of project {backend.project}, not of {what.project.partition('.')[0]}")
        return {"model_version": backend.version}

    @app.post("/predict")
    def predict(asked: Asking) -> dict[str, Any]:
        return {"results": backend.predict(asked.tasks, asked.label_config)}

    @app.post("/webhook")
    def webhook(event: Event) -> dict[str, Any]:
        backend.hear(event.action)
        return {}

    @app.get("/versions")
    def versions() -> dict[str, list[str]]:
        return {"versions": [backend.version]}

    return app


def _refusal(request: Request, token: str | None) -> Response | None:
    """Why a request is not answered; None if it is."""
    if (refusal := host_refusal(request, token)) is not None:
        return refusal
    if token is not None and not hmac.compare_digest(_password(request).encode(), token.encode()):
        return JSONResponse({"error": "wrong password"}, 401, {"WWW-Authenticate": "Basic"})
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > _LARGEST:
            return JSONResponse({"error": f"a request says how long it is, {_LARGEST} bytes at most"}, 413)
        # Web pages cannot send this without asking first, which is refused.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"error": "requests are JSON"}, 415)
    return None


def _password(request: Request) -> str:
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
