"""ML backend for Label Studio: predictions at once, labels and training in the background.

Label Studio waits for every response, webhooks while an annotator waits for theirs, and repeats none. So requests are answered
before any work is done, and events are only hints: labels are read from the project itself, after an event and twice a minute.
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

from ssl_diffusion.annotation.http_access import check_access, host_refusal
from ssl_diffusion.annotation.label_studio.client import LabelStudio, parse_interface
from ssl_diffusion.annotation.label_studio.sync import is_selected, order_of, prediction, pull, push
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.workbench import Workbench
from ssl_diffusion.annotation.store import leases
from ssl_diffusion.annotation.store.faults import StoreError
from ssl_diffusion.errors import SSLDError

__all__ = ["Backend", "make_backend"]

_log = logging.getLogger(__name__)
_POLL = 30.0  # seconds between readings of the project
_LARGEST = 256 * 2**20  # bytes of a request: one may hold a whole project with its images
_LABELS_CHANGED = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
)


class SetupRequest(BaseModel):
    """First request of Label Studio; its token is ignored."""

    project: str

    model_config = {"extra": "ignore"}


class PredictRequest(BaseModel):
    """Tasks to predict."""

    tasks: list[dict[str, Any]]
    label_config: str

    model_config = {"extra": "ignore"}


class Event(BaseModel):
    """Something that happened in a project."""

    action: str

    model_config = {"extra": "ignore"}


class Backend:
    """A job and a Label Studio project that follow each other: labels come in, the queue goes out.

    Args:
        job: The job.
        server: Label Studio.
        project: Number of the project.
        blind: Whether to hide the model's predictions.
        image_prefix: See :func:`~ssl_diffusion.annotation.label_studio.sync.push`.
        refit_every: See :class:`~ssl_diffusion.annotation.loop.workbench.Workbench`.
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
        """Open the model and start to follow the project."""
        self.bench.refresh_model()
        self.bench.start()
        self.bench.submit("labels", self.follow)
        self._thread.start()

    def stop(self) -> None:
        """Stop it; a fit is interrupted and can be resumed."""
        self._stop.set()
        self._thread.join()
        self.bench.stop()

    @property
    def version(self) -> str:
        """Version of the current predictions; it changes with the order of the queue."""
        return order_of(self.job).version

    def predict(self, tasks: list[dict[str, Any]], config: str) -> list[dict[str, Any]]:
        """Predictions of tasks, one each: the predicted class, and the place in the queue as a score.

        Samples of the queue are scored by their order; all others come after them.
        """
        several, order = self.job.store.multilabel, order_of(self.job)
        interface = parse_interface(config, f"project {self.project}", multilabel=several)
        ids = [str((task.get("data") or {}).get("ssld_id")) for task in tasks]
        found = {} if self.blind else self.bench.predicted_classes(ids)
        return [prediction(interface, order, id_, found.get(id_)) for id_ in ids]

    def on_event(self, action: str) -> None:
        """React to an event in the background."""
        if action == "START_TRAINING":
            self.bench.submit("train", self._train)
        elif action in _LABELS_CHANGED:
            self.bench.submit("labels", self.follow)

    def follow(self) -> None:
        """Pull the project's labels, and push the job's queue to it."""
        pulled = pull(self.job, self.server, self.project)
        if pulled.imported.labeled or pulled.withdrawn:
            self.bench.rerank()
        if not len(leases.pending(self.job.store, 1)):
            self.bench.next_round()
        order = order_of(self.job)
        if order.scores and not is_selected(self.server, self.project, order):
            push(self.job, self.server, self.project, image_prefix=self.image_prefix, blind=self.blind)

    def _train(self) -> None:
        self.follow()
        self.bench.fits.start()

    def _poll(self) -> None:
        while not self._stop.wait(_POLL):
            self.bench.submit("labels", self.follow)


def make_backend(backend: Backend, *, host: str = "127.0.0.1", token: str | None = None) -> FastAPI:
    """Make the application of a backend.

    Args:
        backend: Backend to serve.
        host: Address that it is served on.
        token: Password that Label Studio sends (HTTP Basic, any user name); None serves this machine only.

    Raises:
        SSLDError: If others could reach the host without a token, or the token is short.
    """
    check_access(host, token)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        backend.start()
        yield
        backend.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return _refusal(request, token) or await call_next(request)

    @app.exception_handler(SSLDError)
    async def on_ssld_error(_request: Request, error: SSLDError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503 if isinstance(error, StoreError) else 400)

    @app.get("/")
    @app.get("/health")
    def health() -> dict[str, Any]:
        busy = not backend.bench.idle(0)
        return {"status": "UP", "model_class": "ssld", "problem": backend.bench.problem, "busy": busy}

    @app.post("/setup")
    def setup(what: SetupRequest) -> dict[str, str]:
        if what.project.partition(".")[0] != str(backend.project):
            raise SSLDError(f"this is the model of project {backend.project}, not of {what.project.partition('.')[0]}")
        return {"model_version": backend.version}

    @app.post("/predict")
    def predict(what: PredictRequest) -> dict[str, Any]:
        return {"results": backend.predict(what.tasks, what.label_config)}

    @app.post("/webhook")
    def webhook(event: Event) -> dict[str, Any]:
        backend.on_event(event.action)
        return {}

    @app.get("/versions")
    def versions() -> dict[str, list[str]]:
        return {"versions": [backend.version]}

    return app


def _refusal(request: Request, token: str | None) -> Response | None:
    """Refusal of a request; None if it is accepted."""
    if (refusal := host_refusal(request, token is None)) is not None:
        return refusal
    if token is not None and not hmac.compare_digest(_password(request).encode(), token.encode()):
        return JSONResponse({"error": "wrong password"}, 401, {"WWW-Authenticate": "Basic"})
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > _LARGEST:
            return JSONResponse({"error": f"the request needs a Content-Length of at most {_LARGEST} bytes"}, 413)
        # A web page cannot send this without a preflight request, which is refused.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"error": "the request must be JSON"}, 415)
    return None


def _password(request: Request) -> str:
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
