"""Routes of the labeling page: HTML, JSON under `/api`, and images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from ssl_diffusion.annotation.accounts import may
from ssl_diffusion.annotation.http_access import Person
from ssl_diffusion.annotation.loop.explanations import Explanation, judge
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.job_classes import classes_and_keys
from ssl_diffusion.annotation.loop.workbench import PageState, Workbench
from ssl_diffusion.annotation.page.explanation_messages import ExplanationResponse, VerdictRequest, VerdictResponse
from ssl_diffusion.annotation.page.messages import (
    AnnotatorRequest,
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
    image_url,
)
from ssl_diffusion.annotation.page.permissions import VERBS, AlreadyLabeledError, Who, require
from ssl_diffusion.annotation.page.pictures import ImageChangedError, Pictures
from ssl_diffusion.annotation.page.session_messages import AccountMessage
from ssl_diffusion.annotation.store import leases, people, queries, verdicts
from ssl_diffusion.annotation.store.store import Actor, Verb
from ssl_diffusion.data.thumbnails import png_of
from ssl_diffusion.errors import DataError

__all__ = ["STATIC", "Page", "api", "documents", "images"]

_GRACE = 10.0  # seconds in which a tab that was left can come back, as on a reload
STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Page:
    """A job that is served.

    Attributes:
        job: The job.
        bench: Work behind the page.
        blind: Whether to hide the model's predictions and reasons.
        pictures: Image files of the job.
        name: Name of the job.
        home: Address of the page that lists all jobs of the server; empty for a job that is served alone.
    """

    job: Job
    bench: Workbench
    blind: bool
    pictures: Pictures
    name: str
    home: str = ""

    def sample(self, item: leases.LeasedSample | None, note: str | None = None) -> SampleResponse:
        """The response for a leased sample; the note replaces the reason for its choice."""
        return SampleResponse(sample=self.message(item, item.note if note is None else note) if item is not None else None)

    def message(self, item: leases.LeasedSample, note: str) -> SampleMessage:
        """A leased sample and the reason why it is shown."""
        digest = self.digest(item)
        reason = note.partition("; predicted ")[0]  # what the model said then; the panel beside says what it says now
        facts = {"image": image_url(item.id, digest), "digest": digest, "note": "" if self.blind else reason}
        return SampleMessage(id=item.id, until=item.until, status=item.status, **facts)

    def check_verb(self, verb: Verb, id_: str, who: Person) -> None:
        """Refuse a verb that the role of a person does not allow; one may always remove one's own flag."""
        own_flag = verb == "un-flag" and not may(who.role, VERBS[verb]) and people.last_flag(self.job.store, id_) == who.name
        if not own_flag:
            require(who, VERBS[verb], verb)
        if verb in ("label", "skip"):
            self.check_votes([id_], who)

    def check_votes(self, ids: list[str], who: Person) -> None:
        """Refuse votes of an annotator on samples that others have settled without them, or left disputed.

        Raises:
            AlreadyLabeledError: Names the first of the samples.
        """
        if may(who.role, "reviewer"):
            return
        for row in queries.listing(self.job.store, of=ids):
            if row["status"] in ("labeled", "skipped", "disputed") and who.name not in row["votes"]:
                raise AlreadyLabeledError(f"{row['id']} has been labeled by others: flag it, or comment, if you disagree")

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


# -- JSON -------------------------------------------------------------------------------------------------------------


@api.get("/session")
def get_session(page: Served, who: Who) -> SessionResponse:
    """What the page needs once."""
    classes, keys, numbers = classes_and_keys(page.job)
    return SessionResponse(
        csrf=who.csrf,
        account=AccountMessage.of(who),
        job=page.name,
        home=page.home,
        blind=page.blind,
        multilabel=page.job.store.multilabel,
        classes=classes,
        keys=keys,
        numbers=numbers,
    )


@api.get("/state")
def get_state(page: Served) -> PageState:
    """State of the job."""
    return page.bench.state()


@api.post("/next")
def next_sample(what: AnnotatorRequest, page: Served, who: Who) -> SampleResponse:
    """Lease the next sample."""
    name = who.signs(what.annotator)
    found = page.sample(page.bench.take(name, what.holder))
    if found.sample is not None:
        found.ahead = [image_url(item.id, page.digest(item)) for item in page.bench.ahead(name, what.holder)]
    return found


@api.post("/release")
def release(what: ReleaseRequest, page: Served) -> ReleaseResponse:
    """End the leases of a tab that is left, unless it comes back at once."""
    leases.release(page.job.store, what.holder, what.until, _GRACE)
    return ReleaseResponse()


@api.post("/label")
def label(what: LabelRequest, page: Served, who: Who) -> LabelResponse:
    """Apply a verb to a sample; a label must name the digest of its image, and settles a dispute if it is a reviewer's."""
    page.check_verb(what.verb, what.id, who)
    if what.verb == "label":
        (position,) = page.job.store.positions([what.id]).tolist()
        page.pictures.check(position, what.digest)
    by = Actor(who.signs(what.annotator), "page", what.seconds, what.token)
    settles = may(who.role, "reviewer")
    return LabelResponse(status=page.bench.label(what.id, what.verb, by, what.label, what.holder, settles=settles))


@api.post("/undo")
def undo(what: UndoRequest, page: Served, who: Who) -> UndoResponse:
    """Take an action back and lease its samples again; without samples if it does not stand any more."""
    items = page.bench.undo(who.signs(what.annotator), what.holder, what.token)
    if len(items) > 1:
        return UndoResponse(sample=None, ids=[item.id for item in items])
    return UndoResponse(sample=page.sample(items[0] if items else None, "your last answer, withdrawn").sample)


@api.post("/take")
def take(what: TakeRequest, page: Served, who: Who) -> SampleResponse:
    """Lease one sample, whoever else has it."""
    return page.sample(page.bench.review(what.id, who.signs(what.annotator), what.holder), "under review")


@api.post("/sheet")
def sheet(what: SheetRequest, page: Served, who: Who) -> SheetResponse:
    """Lease samples that can be labeled with one key; on a blind page without a suggestion."""
    wanted = what.wanted()
    if page.blind:
        wanted = replace(wanted, kind="similar" if wanted.kind == "class" else wanted.kind, label=None)
    found = page.bench.sheet(wanted, who.signs(what.annotator), what.holder)
    samples = [page.message(item, "") for item in found.items]
    return SheetResponse(title=found.title, label=None if page.blind else found.label, samples=samples, left=found.left)


@api.post("/sheet/label")
def label_sheet(what: SheetLabelRequest, page: Served, who: Who) -> SheetLabelResponse:
    """Give several samples one label; all, or none if an image is not the one that was shown."""
    ids = [sample.id for sample in what.samples]
    page.check_votes(ids, who)
    for position, sample in zip(page.job.store.positions(ids).tolist(), what.samples, strict=True):
        page.pictures.check(position, sample.digest)
    by = Actor(who.signs(what.annotator), "page", what.seconds, what.token)
    return SheetLabelResponse(labeled=page.bench.label_sheet(ids, what.label, by))


@api.get("/explanation")
def explanation(id_: Id, page: Served, who: Who, annotator: Annotated[str, Query(max_length=100)] = "") -> ExplanationResponse:
    """What the model says about a sample, and what the annotator has said of that; nothing on a blind page."""
    if page.blind:
        return ExplanationResponse.of(id_, Explanation())
    found = page.bench.explanation(id_)
    said = verdicts.verdicts(page.job.store, [id_]) if any(each.found.pictures for each in found.counterfactuals) else []
    own = {each.digest: each.verdict for each in said if each.annotator == who.signs(annotator)}
    return ExplanationResponse.of(id_, found, own)


@api.post("/verdict")
def judge_counterfactual(what: VerdictRequest, page: Served, who: Who) -> VerdictResponse:
    """Record a verdict on a counterfactual; refused if it is not the one that was seen, since the model has changed."""
    found = [] if page.blind else page.bench.explanation(what.id).counterfactuals
    if what.k >= len(found) or not what.digest or found[what.k].found.digest != what.digest:
        raise ImageChangedError("the model has been replaced since: look at its new counterfactual")
    by = Actor(who.signs(what.annotator), "page", what.seconds, what.token)
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
