"""Routes of a server as a whole, whatever it serves: logging in and out, and one's own password."""

import logging
import math
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic import ValidationError

from ssl_diffusion.annotation.http_access import Guard
from ssl_diffusion.annotation.page.permissions import Who
from ssl_diffusion.annotation.page.session_messages import LoginRequest, PasswordRequest
from ssl_diffusion.errors import SSLDError

__all__ = ["Guarded", "sign_in"]

_log = logging.getLogger(__name__)
_templates = Jinja2Templates(Path(__file__).parent / "templates")
_BODY: dict[str, Any] = {  # with accounts; with a token it is the form that a browser sends
    "requestBody": {"required": True, "content": {"application/json": {"schema": LoginRequest.model_json_schema()}}}
}


def _guard_of(request: Request) -> Guard:
    guard: Guard = request.app.state.guard
    return guard


Guarded = Annotated[Guard, Depends(_guard_of)]

sign_in = APIRouter()


@sign_in.get("/login")
def get_login(request: Request, guard: Guarded) -> Response:
    """The form that asks for the token, or for name and password."""
    return _form(request, guard)


@sign_in.post("/login", openapi_extra=_BODY)
async def log_in(request: Request, guard: Guarded) -> Response:
    """Check the token (a form), or the name and password of an account (JSON), and set the cookie."""
    if guard.sessions is not None:
        return await run_in_threadpool(_log_in_with_account, request, guard, await request.body())
    address, attempts = _address(request), guard.attempts
    if wait := math.ceil(attempts.wait(address)):
        return _form(request, guard, f"Too many wrong tokens: wait {wait} seconds.", 429, {"Retry-After": str(wait)})
    right = guard.log_in(parse_qs((await request.body()).decode(errors="replace")).get("token", [""])[0])
    attempts.note(address, right)
    if right:
        return guard.set_session_cookie(request, RedirectResponse("/", 303))
    _log.info("login with a wrong token")
    return _form(request, guard, "That is not the token.", 401)


def _log_in_with_account(request: Request, guard: Guard, body: bytes) -> Response:
    assert guard.sessions is not None
    try:
        what = LoginRequest.model_validate_json(body)
    except ValidationError:
        return JSONResponse({"error": "the request needs a name and a password"}, 422)
    address = _address(request)
    if (refusal := _too_soon(guard, address, what.name)) is not None:
        return refusal
    account = guard.sessions.accounts.check(what.name, what.password)
    guard.attempts.note(address, account is not None, what.name)
    if account is None:
        _log.info("login with a wrong name or password")
        return JSONResponse({"error": "that is no name with its password"}, 401)
    return guard.set_session_cookie(request, JSONResponse({}), account)


@sign_in.post("/logout")
def log_out(request: Request, guard: Guarded) -> Response:
    """End the session."""
    return guard.log_out(request, JSONResponse({}))


@sign_in.post("/password")
def change_password(what: PasswordRequest, request: Request, guard: Guarded, who: Who) -> Response:
    """Change the password of one's own account, which ends all of its sessions and begins one; the old one is needed."""
    if guard.sessions is None or who.name is None:
        raise SSLDError("this server has no accounts, and so no passwords")
    accounts, address = guard.sessions.accounts, _address(request)
    if (refusal := _too_soon(guard, address, who.name)) is not None:
        return refusal
    right = accounts.check(who.name, what.password) is not None
    guard.attempts.note(address, right, who.name)
    if not right:
        return JSONResponse({"error": "that is not the password until now"}, 400)
    accounts.set_password(who.name, what.new)
    account = accounts.find(who.name)
    return guard.set_session_cookie(request, JSONResponse({}), account)


def _too_soon(guard: Guard, address: str, name: str) -> Response | None:
    """Refusal of somebody who has given too many wrong passwords; None for all others."""
    if not (wait := math.ceil(guard.attempts.wait(address, name))):
        return None
    return JSONResponse({"error": f"too many wrong passwords: wait {wait} seconds"}, 429, {"Retry-After": str(wait)})


def _form(
    request: Request, guard: Guard, problem: str = "", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    values = {"problem": problem, "accounts": guard.sessions is not None}
    return _templates.TemplateResponse(request, "login.html", values, status_code=status, headers=headers)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
