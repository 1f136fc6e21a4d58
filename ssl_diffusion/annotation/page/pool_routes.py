"""Routes of the labeling page that show the whole pool: its map, search, what is to be looked at again, and history."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from ssl_diffusion.annotation.accounts import may
from ssl_diffusion.annotation.loop.pool_map import map_points
from ssl_diffusion.annotation.loop.search import search
from ssl_diffusion.annotation.loop.suspicious import COPY
from ssl_diffusion.annotation.page.messages import (
    CommentRequest,
    DecisionRequest,
    EventMessage,
    FitResponse,
    FoundSample,
    HistoryResponse,
    LabelResponse,
    ReleaseResponse,
    ReviewedSample,
    ReviewResponse,
    SearchResponse,
    image_url,
)
from ssl_diffusion.annotation.page.permissions import Who
from ssl_diffusion.annotation.page.routes import Page, Served
from ssl_diffusion.annotation.store import people, queries, review
from ssl_diffusion.annotation.store.labels import named
from ssl_diffusion.annotation.store.pool_rows import read_rows
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.errors import DataError

__all__ = ["pool"]

_REVIEWED = 60  # samples on the page at once

pool = APIRouter(prefix="/api")


@pool.get("/map")
def get_map(page: Served) -> Response:
    """Every sample at its place in a plane, see :meth:`~ssl_diffusion.annotation.loop.pool_map.MapPoints.to_bytes`."""
    found = map_points(page.job, page.bench.pool, blind=page.blind)
    if found is None:
        return JSONResponse({"error": "there is no map yet: the model is being opened"}, 425)
    return Response(found.to_bytes(), media_type="application/octet-stream")


@pool.get("/map/at")
def get_point(k: Annotated[int, Query(ge=0)], page: Served) -> FoundSample:
    """The sample of the k-th point of the map."""
    if k >= len(page.job.store.ids):
        raise DataError(f"the map has no point {k}")
    id_ = str(page.job.store.ids[k])
    return FoundSample(id=id_, image=image_url(id_))


@pool.get("/search")
def find(
    q: Annotated[str, Query(max_length=500)],
    page: Served,
    n: Annotated[int, Query(ge=1, le=500)] = 60,
    start: Annotated[int, Query(ge=0)] = 0,
) -> SearchResponse:
    """Samples that fit words and conditions, see :func:`ssl_diffusion.annotation.loop.search.search`."""
    positions = search(page.job, page.bench.pool, q, blind=page.blind)
    rows, ids, names = read_rows(page.job.store), page.job.store.ids, page.job.store.classes
    samples = [
        FoundSample(
            id=str(ids[i]),
            image=image_url(str(ids[i])),
            label=named(rows.sets.get(i, int(rows.label[i]) if rows.label[i] >= 0 else None), names),
            flagged=bool(rows.flagged[i]),
            free=bool(rows.free[i]),
        )
        for i in positions[start : start + n].tolist()
    ]
    return SearchResponse(samples=samples, total=len(positions))


@pool.get("/review")
def get_review(page: Served, kind: Literal["disputed", "suspicious"] = "disputed") -> ReviewResponse:
    """Disputed and flagged samples, or those that a check doubts."""
    store = page.job.store
    seen = review.last_event(store)  # first, so that nothing said meanwhile is taken for seen
    rows = [*queries.listing(store, "disputed"), *queries.listing(store, flagged=True)]
    if kind == "disputed":
        by_id = {row["id"]: _reviewed(page, row) for row in rows}
        return ReviewResponse(samples=list(by_id.values())[:_REVIEWED], seen=seen)
    items = review.open_items(store, _REVIEWED)
    known = {row["id"]: row for row in queries.listing(store, of=[item.id for item in items])}
    untouched: dict[str, Any] = {"role": "pool", "status": "open", "label": None, "flagged": False, "votes": {}}
    found: dict[str, ReviewedSample] = {}
    for item in items:
        facts = {"kind": item.kind, "note": item.note, "suggested": None if page.blind else item.suggested}
        row = {"id": item.id, **known.get(item.id, untouched), **facts}
        if item.kind == "duplicate" and item.note.startswith(COPY):
            row["beside"] = image_url(item.note.removeprefix(COPY))
        found.setdefault(item.id, _reviewed(page, row))
    return ReviewResponse(samples=list(found.values()), seen=seen)


@pool.post("/suspicious")
def look_for_suspicious(page: Served) -> FitResponse:
    """Look in the background for labels that are probably wrong."""
    page.bench.submit("suspicious", page.bench.find_suspicious)
    return FitResponse(started=True)


@pool.post("/decide")
def decide(what: DecisionRequest, page: Served, who: Who) -> LabelResponse:
    """Keep a label, change it for all annotators, or drop the sample; refused if somebody has decided since it was seen."""
    by = Actor(who.signs(what.annotator), "page", None, what.token)
    if what.decision != "change":
        return LabelResponse(status=page.bench.apply(Action(what.decision, what.id, by, seen=what.seen)))
    (position,) = page.job.store.positions([what.id]).tolist()
    page.pictures.check(position, what.digest)
    return LabelResponse(status=page.bench.apply(Action("label", what.id, by, what.label, final=True, seen=what.seen)))


@pool.post("/comment")
def comment(what: CommentRequest, page: Served, who: Who) -> ReleaseResponse:
    """Say something about a sample."""
    by = Actor(who.signs(what.annotator), "page", None, what.token)
    page.job.store.apply([Action("comment", what.id, by, text=what.text.strip())])
    return ReleaseResponse()


@pool.get("/history")
def get_history(
    page: Served,
    who: Who,
    id_: Annotated[str | None, Query(alias="id", max_length=1000)] = None,
    annotator: Annotated[str | None, Query(max_length=100)] = None,
    before: Annotated[int | None, Query(ge=0)] = None,
) -> HistoryResponse:
    """What people did, to all samples or to one, and what is known of the annotators; annotators are told of themselves."""
    everything = may(who.role, "reviewer")
    if not everything and not id_:
        annotator = who.name
    events = people.latest_events(page.job.store, id_=id_ or None, annotator=annotator or None, before=before)
    facts = people.annotators(page.job.store) if before is None and not id_ else []
    facts = [each for each in facts if everything or each.name == who.name]
    return HistoryResponse(events=[EventMessage(**event) for event in events], annotators=facts)


def _reviewed(page: Page, row: dict[str, Any]) -> ReviewedSample:
    (position,) = page.job.store.positions([row["id"]]).tolist()
    try:
        digest = page.pictures.digest(position)
    except DataError:  # the request for the image says why
        digest = ""
    return ReviewedSample(**row, image=image_url(row["id"], digest), digest=digest)
