"""Who may use the labeling page: this machine, or whoever has the token.

Every answer carries headers that keep other sites out of the page and scripts out of its text; requests for a host that is not
ours (DNS rebinding) are refused; writes need a header that only our own page can send; bodies have a limit.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from ssl_diffusion.errors import SSLDError

__all__ = ["HEADERS", "Guard", "check_access", "is_loopback"]

_COOKIE = "ssld"
_LARGEST = 64 * 1024  # bytes of a request
_OPEN = ("/login", "/static/style.css", "/static/icon.svg")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Next = Callable[[Request], Awaitable[Response]]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None) -> None:
    """Whether a host may be served with a token, or without one.

    Raises:
        SSLDError: if another host is served without a token, or the token is short.
    """
    if token is None and not is_loopback(host):
        raise SSLDError(f"{host} can be reached by others: give them a --token, or serve on 127.0.0.1")
    if token is not None and len(token) < 16:
        raise SSLDError("a token has 16 characters or more: the shorter ones can be guessed")


class Guard:
    """Middleware that lets requests through, or not.

    Args:
        host: that the server listens on.
        token: that others need; None is for this machine only.

    Raises:
        SSLDError: see :func:`check_access`.
    """

    def __init__(self, host: str, token: str | None) -> None:
        check_access(host, token)
        self._token = token
        self.csrf = secrets.token_urlsafe(32)
        # The cookie is not the token: whoever sees it cannot log in elsewhere, and it ends with the server.
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Check a request and answer it."""
        refusal = self._refusal(request)
        response = refusal if refusal is not None else await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def log_in(self, token: str) -> bool:
        """Whether a token is the right one."""
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def welcome(self, response: Response) -> Response:
        """Add the cookie of somebody who is logged in."""
        response.set_cookie(_COOKIE, self._session, httponly=True, samesite="strict", path="/")
        return response

    def _refusal(self, request: Request) -> Response | None:
        name = (request.url.hostname or "").strip("[]")
        # Of a page that is open to others we do not know by what name they reach it: there the token decides.
        if self._token is None and not is_loopback(name):
            return _error(421, f"this page is for this machine only, not for {name!r}")
        path = request.url.path
        cookie = request.cookies.get(_COOKIE, "").encode()
        if self._token is not None and path not in _OPEN and not hmac.compare_digest(cookie, self._session.encode()):
            return RedirectResponse("/login", 303) if path == "/" else _error(401, "log in first")
        if request.method not in ("GET", "HEAD"):
            length = request.headers.get("content-length", "")
            if not length.isdigit():
                return _error(411, "the length of the request is missing")
            if int(length) > _LARGEST:
                return _error(413, f"a request has {_LARGEST} bytes at most")
            if path == "/login":
                return None
            if not hmac.compare_digest(request.headers.get("x-csrf-token", "").encode(), self.csrf.encode()):
                return _error(403, "the request did not come from the page: load it again")
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return _error(415, "requests are JSON")
        return None


def _error(code: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, code)
