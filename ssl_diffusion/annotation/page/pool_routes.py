"""Routes of the labeling page that show the whole pool: its map."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from ssl_diffusion.annotation.loop.pool_map import map_points
from ssl_diffusion.annotation.page.messages import FoundSample, image_url
from ssl_diffusion.annotation.page.routes import Served
from ssl_diffusion.errors import DataError

__all__ = ["pool"]

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
