"""Routes of the labeling page: HTML, JSON under `/api`, and images."""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from ssl_diffusion.annotation.http_access import Guard
from ssl_diffusion.annotation.loop import job_classes
from ssl_diffusion.annotation.loop.explanations import Explanation, judge
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.job_classes import classes_and_keys
from ssl_diffusion.annotation.loop.workbench import PageState, Workbench
from ssl_diffusion.annotation.page.explanation_messages import ExplanationResponse
from ssl_diffusion.annotation.page.messages import (
    AnnotatorRequest,
    ClassChangeRequest,
    ClassesResponse,
    ClassRequest,
    FitResponse,
    LabelRequest,
    LabelResponse,
    ReleaseRequest,
    ReleaseResponse,
    SampleMessage,
    SampleResponse,
    SessionResponse,
    SheetLabelRequest,
    SheetLabelResponse,
    SheetRequest,
    SheetResponse,
    TakeRequest,
    UndoRequest,
    UndoResponse,
    VerdictRequest,
    VerdictResponse,
    image_url,
)
from ssl_diffusion.annotation.page.pictures import ImageChangedError, Pictures
from ssl_diffusion.annotation.store import class_changes, leases, verdicts
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.thumbnails import png_of
from ssl_diffusion.errors import DataError

__all__ = ["STATIC", "Page", "api", "documents", "images"]

_log = logging.getLogger(__name__)
_GRACE = 10.0  # seconds in which a tab that was left can come back, as on a reload
STATIC = Path(__file__).parent / "static"
_templates = Jinja2Templates(Path(__file__).parent / "templates")


@dataclass(frozen=True)
class Page:
    """A job that is served.

    Attributes:
        job: The job.
        bench: Work behind the page.
        guard: Access to the page.
        blind: Whether to hide the model's predictions and reasons.
        pictures: Image files of the job.
    """

    job: Job
    bench: Workbench
    guard: Guard
    blind: bool
    pictures: Pictures

    def sample(self, item: leases.LeasedSample | None, note: str | None = None) -> SampleResponse:
        """The response for a leased sample; the note replaces the reason for its choice."""
        return SampleResponse(sample=self.message(item, item.note if note is None else note) if item is not None else None)

    def message(self, item: leases.LeasedSample, note: str) -> SampleMessage:
        """A leased sample and the reason why it is shown."""
        digest = self.digest(item)
        reason = note.partition("; predicted ")[0]  # what the model said then; the panel beside says what it says now
        facts = {"image": image_url(item.id, digest), "digest": digest, "note": "" if self.blind else reason}
        return SampleMessage(id=item.id, until=item.until, status=item.status, **facts)

    def digest(self, item: leases.LeasedSample) -> str:
        """Digest of a sample's image file; empty if it cannot be read, which the request for the image explains."""
        try:
            return self.pictures.digest(item.position)
        except DataError:
            return ""


def _page_of(request: Request) -> Page:
    page: Page = request.app.state.page
    return page


Served = Annotated[Page, Depends(_page_of)]
Id = Annotated[str, Query(alias="id", max_length=1000)]

documents, api, images = APIRouter(), APIRouter(prefix="/api"), APIRouter()


# -- HTML -------------------------------------------------------------------------------------------------------------


@documents.get("/")
def get_page() -> FileResponse:
    """The page itself."""
    return FileResponse(STATIC / "index.html", media_type="text/html")


@documents.get("/login")
def get_login(request: Request) -> Response:
    """The form that asks for the token."""
    return _templates.TemplateResponse(request, "login.html", {"problem": ""})


@documents.post("/login")
async def log_in(request: Request, page: Served) -> Response:
    """Check the token and set the cookie."""
    address, attempts = request.client.host if request.client is not None else "", page.guard.attempts
    if wait := attempts.wait(address):
        problem = {"problem": f"Too many wrong tokens: wait {math.ceil(wait)} seconds."}
        headers = {"Retry-After": str(math.ceil(wait))}
        return _templates.TemplateResponse(request, "login.html", problem, status_code=429, headers=headers)
    right = page.guard.log_in(parse_qs((await request.body()).decode(errors="replace")).get("token", [""])[0])
    attempts.note(address, right)
    if right:
        return page.guard.set_session_cookie(RedirectResponse("/", 303))
    _log.info("login with a wrong token")
    return _templates.TemplateResponse(request, "login.html", {"problem": "That is not the token."}, status_code=401)


# -- JSON -------------------------------------------------------------------------------------------------------------


@api.get("/session")
def get_session(page: Served) -> SessionResponse:
    """What the page needs once."""
    name, (classes, keys) = page.job.path.resolve().name, classes_and_keys(page.job)
    several = page.job.store.multilabel
    return SessionResponse(csrf=page.guard.csrf, job=name, classes=classes, keys=keys, blind=page.blind, multilabel=several)


@api.get("/state")
def get_state(page: Served) -> PageState:
    """State of the job."""
    return page.bench.state()


@api.post("/next")
def next_sample(who: AnnotatorRequest, page: Served) -> SampleResponse:
    """Lease the next sample."""
    found = page.sample(page.bench.take(who.annotator, who.holder))
    if found.sample is not None:
        found.ahead = [image_url(item.id, page.digest(item)) for item in page.bench.ahead(who.annotator, who.holder)]
    return found


@api.post("/release")
def release(what: ReleaseRequest, page: Served) -> ReleaseResponse:
    """End the leases of a tab that is left, unless it comes back at once."""
    leases.release(page.job.store, what.holder, what.until, _GRACE)
    return ReleaseResponse()


@api.post("/label")
def label(what: LabelRequest, page: Served) -> LabelResponse:
    """Apply a verb to a sample; a label must name the digest of its image."""
    if what.verb == "label":
        (position,) = page.job.store.positions([what.id]).tolist()
        page.pictures.check(position, what.digest)
    by = Actor(what.annotator, "page", what.seconds, what.token)
    return LabelResponse(status=page.bench.label(what.id, what.verb, by, what.label, what.holder))


@api.post("/undo")
def undo(what: UndoRequest, page: Served) -> UndoResponse:
    """Take an action back and lease its samples again; without samples if it does not stand any more."""
    items = page.bench.undo(what.annotator, what.holder, what.token)
    if len(items) > 1:
        return UndoResponse(sample=None, ids=[item.id for item in items])
    return UndoResponse(sample=page.sample(items[0] if items else None, "your last answer, withdrawn").sample)


@api.post("/take")
def take(what: TakeRequest, page: Served) -> SampleResponse:
    """Lease one sample, whoever else has it."""
    return page.sample(page.bench.review(what.id, what.annotator, what.holder), "under review")


@api.post("/sheet")
def sheet(what: SheetRequest, page: Served) -> SheetResponse:
    """Lease samples that can be labeled with one key; on a blind page without a suggestion."""
    wanted = what.wanted()
    if page.blind:
        wanted = replace(wanted, kind="similar" if wanted.kind == "class" else wanted.kind, label=None)
    found = page.bench.sheet(wanted, what.annotator, what.holder)
    samples = [page.message(item, "") for item in found.items]
    return SheetResponse(title=found.title, label=None if page.blind else found.label, samples=samples, left=found.left)


@api.post("/sheet/label")
def label_sheet(what: SheetLabelRequest, page: Served) -> SheetLabelResponse:
    """Give several samples one label; all, or none if an image is not the one that was shown."""
    ids = [sample.id for sample in what.samples]
    for position, sample in zip(page.job.store.positions(ids).tolist(), what.samples, strict=True):
        page.pictures.check(position, sample.digest)
    by = Actor(what.annotator, "page", what.seconds, what.token)
    return SheetLabelResponse(labeled=page.bench.label_sheet(ids, what.label, by))


@api.post("/fit")
def fit(page: Served) -> FitResponse:
    """Start a fit in the background."""
    return FitResponse(started=page.bench.fits.start())


@api.post("/classes")
def add_class(new: ClassRequest, page: Served) -> ClassesResponse:
    """Add a class, unless one exists that may be meant: the page asks, and says that it is sure."""
    found = None if new.sure else class_changes.similar(new.name, page.job.store.classes_in_use)
    if found is None:
        page.job.store.add_classes([new.name])
    classes, keys = classes_and_keys(page.job)
    return ClassesResponse(classes=classes, keys=keys, similar=found)


@api.post("/class")
def change_class(what: ClassChangeRequest, page: Served) -> ClassesResponse:
    """Rename, merge or remove a class, or choose its key."""
    job_classes.change_class(page.job, what.verb, what.name, what.to, what.annotator)
    if what.verb != "key":
        page.bench.submit("rerank", page.bench.rerank)
    classes, keys = classes_and_keys(page.job)
    return ClassesResponse(classes=classes, keys=keys)


@api.get("/explanation")
def explanation(id_: Id, page: Served, annotator: Annotated[str, Query(max_length=100)] = "") -> ExplanationResponse:
    """What the model says about a sample, and what the annotator has said of that; nothing on a blind page."""
    if page.blind:
        return ExplanationResponse.of(id_, Explanation())
    found = page.bench.explanation(id_)
    said = verdicts.verdicts(page.job.store, [id_]) if any(each.found.pictures for each in found.counterfactuals) else []
    return ExplanationResponse.of(id_, found, {each.digest: each.verdict for each in said if each.annotator == annotator})


@api.post("/verdict")
def judge_counterfactual(what: VerdictRequest, page: Served) -> VerdictResponse:
    """Record a verdict on a counterfactual; refused if it is not the one that was seen, since the model has changed."""
    found = [] if page.blind else page.bench.explanation(what.id).counterfactuals
    if what.k >= len(found) or not what.digest or found[what.k].found.digest != what.digest:
        raise ImageChangedError("the model has been replaced since: look at its new counterfactual")
    by = Actor(what.annotator, "page", what.seconds, what.token)
    return VerdictResponse(verdicts=judge(page.job, page.bench.pool.model, what.id, found[what.k], what.verdict, by))


# -- images -----------------------------------------------------------------------------------------------------------


@images.get("/image")
def image(
    id_: Id, page: Served, digest: Annotated[str, Query(max_length=64)] = "", size: Literal["whole", "page", "small"] = "page"
) -> Response:
    """Image of a sample, at most 320 pixels large, as large as a screen, or whole; with a digest only of that file."""
    (position,) = page.job.store.positions([id_]).tolist()  # ids are looked up: no path comes from outside
    content, kind = page.pictures.shown(position, digest, size)
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600" if digest else "no-cache"})


@images.get("/counterfactual")
def counterfactual(id_: Id, k: int, page: Served, picture: Annotated[str, Query(max_length=64)] = "sure") -> Response:
    """Picture of the k-th counterfactual of a sample, as PNG."""
    found = page.bench.counterfactuals(id_)
    if page.blind or not 0 <= k < len(found) or picture not in found[k].pictures:
        return JSONResponse({"error": "there is no such counterfactual"}, 404)
    return Response(png_of(found[k].pictures[picture]), media_type="image/png")
