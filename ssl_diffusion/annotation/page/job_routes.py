"""Routes of the labeling page that change or export the job as a whole: fits, classes, and the labels as a file."""

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Response

from ssl_diffusion.annotation.files.exports import default_output, export_text
from ssl_diffusion.annotation.loop import job_classes
from ssl_diffusion.annotation.loop.class_examples import examples_of_classes
from ssl_diffusion.annotation.loop.job_classes import classes_and_keys
from ssl_diffusion.annotation.page.messages import (
    ClassChangeRequest,
    ClassesResponse,
    ClassRequest,
    ExampleMessage,
    ExampleRequest,
    ExamplesResponse,
    FitResponse,
    StopResponse,
    image_url,
)
from ssl_diffusion.annotation.page.permissions import Who
from ssl_diffusion.annotation.page.routes import Page, Served
from ssl_diffusion.annotation.store import class_changes, class_examples
from ssl_diffusion.errors import RunError

__all__ = ["job_api"]

job_api = APIRouter(prefix="/api")


@job_api.post("/fit")
def fit(page: Served) -> FitResponse:
    """Start a fit in the background."""
    return FitResponse(started=page.bench.fits.start())


@job_api.post("/fit/stop")
def stop_fit(page: Served) -> StopResponse:
    """Stop the fit that this server has started, as Ctrl-C does; those of others are stopped where they were started."""
    if page.bench.fits.stop():
        return StopResponse(stopped=True)
    state = page.bench.fits.state()
    if state.state == "running":
        raise RunError(f"the fit was not started by this server, but by {state.process}: stop it there")
    return StopResponse(stopped=False)


@job_api.get("/export")
def export(page: Served, form: Annotated[Literal["csv", "jsonl", "coco"], Query(alias="format")] = "csv") -> Response:
    """The labels as a file; formats with images are written by `ssld loop export`."""
    name = f"{page.name} {default_output(form).name}"
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    kind = {"csv": "text/csv", "jsonl": "application/jsonl", "coco": "application/json"}[form]
    return Response(export_text(page.job, form), media_type=kind, headers=headers)


@job_api.post("/classes")
def add_class(new: ClassRequest, page: Served) -> ClassesResponse:
    """Add a class, unless one exists that may be meant: the page asks, and says that it is sure."""
    found = None if new.sure else class_changes.similar(new.name, page.job.store.classes_in_use)
    if found is None:
        page.job.store.add_classes([new.name])
    classes, keys, numbers = classes_and_keys(page.job)
    return ClassesResponse(classes=classes, keys=keys, numbers=numbers, similar=found)


@job_api.post("/class")
def change_class(what: ClassChangeRequest, page: Served, who: Who) -> ClassesResponse:
    """Rename, merge or remove a class, or choose its key or its target."""
    job_classes.change_class(page.job, what.verb, what.name, what.to, who.signs(what.annotator))
    if what.verb not in ("key", "target"):
        page.bench.submit("rerank", page.bench.rerank)
    classes, keys, numbers = classes_and_keys(page.job)
    return ClassesResponse(classes=classes, keys=keys, numbers=numbers)


@job_api.get("/examples")
def get_examples(page: Served) -> ExamplesResponse:
    """Labeled images that show what the classes look like; on a blind page the model has no say in which."""
    return _examples(page)


@job_api.post("/example")
def choose_example(what: ExampleRequest, page: Served) -> ExamplesResponse:
    """Choose a labeled image to show what its class looks like, or end that."""
    change = class_examples.choose if what.on else class_examples.unchoose
    change(page.job.store, what.id, what.name)
    return _examples(page)


def _examples(page: Page) -> ExamplesResponse:
    found = examples_of_classes(page.job, None if page.blind else page.bench.pool.probabilities())
    return ExamplesResponse(
        examples={
            name: [ExampleMessage(id=each.id, image=image_url(each.id), chosen=each.chosen) for each in images]
            for name, images in found.items()
        }
    )
