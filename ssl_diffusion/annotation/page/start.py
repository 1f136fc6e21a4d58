"""Routes of the start page: the jobs of a server, and how far each of them is."""

from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse

from ssl_diffusion.annotation.loop.several_jobs import overview
from ssl_diffusion.annotation.page.permissions import Who
from ssl_diffusion.annotation.page.routes import STATIC, Page
from ssl_diffusion.annotation.page.session_messages import AccountMessage, JobMessage, JobsResponse, ServerSession

__all__ = ["job_address", "start"]

start = APIRouter()


def job_address(name: str) -> str:
    """Address of a job on its server."""
    return f"/job/{quote(name, safe='')}/"


@start.get("/")
def get_start() -> FileResponse:
    """The start page itself."""
    return FileResponse(STATIC / "start.html", media_type="text/html")


@start.get("/job/{name}")
def get_job(name: str) -> RedirectResponse:
    """The way to the page of a job, whose address ends in a slash."""
    return RedirectResponse(job_address(name), 308)


@start.get("/api/session")
def get_server_session(who: Who) -> ServerSession:
    """What the start page needs once."""
    return ServerSession(csrf=who.csrf, account=AccountMessage.of(who))


@start.get("/api/jobs")
def get_jobs(request: Request) -> JobsResponse:
    """The jobs, and how far each of them is; jobs that are new in a folder are served from now on."""
    request.app.state.look()
    pages: dict[str, Page] = request.app.state.pages
    there = list(pages.items())
    return JobsResponse(jobs=[JobMessage(address=job_address(name), overview=overview(page.job, name)) for name, page in there])
