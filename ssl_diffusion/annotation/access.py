"""Who may use the labeling page: this machine, or whoever has the token.

Every answer carries headers that keep other sites out of the page and scripts out of its text; requests for a host that is not
ours (DNS rebinding) are refused; writes need a header that only our own page can send; bodies have a limit.

Nothing here reads `request.url`: Starlette puts it together from the Host header, so that its path need not be the one that is
routed (`Host: x/login?`, before 1.0.1), and its host is the socket's address where the header is malformed (since then).
"""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from ssl_diffusion.errors import SSLDError

__all__ = ["HEADERS", "Guard", "check_access", "host_refusal", "is_loopback"]

_COOKIE = "ssld"
_LARGEST = 64 * 1024  # bytes of a request
_OPEN = ("/login", "/static/style.css", "/static/icon.svg")
_HOST = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?))(?::(?P<port>[0-9]{1,5}))?"
)

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


def host_refusal(request: Request, token: str | None) -> Response | None:
    """Why a request is not answered because of the host that it asks for; None if it is.

    Without a token only names of this machine are answered, which is all that can be served then; with one, whatever name
    others know this machine by.

    Args:
        request: to be answered or refused.
        token: that others need; None is for this machine only.

    Returns:
        None, status 400 (the Host header is missing, doubled or malformed), or 421 (it names another machine).
    """
    name = _host_of(request)
    if name is None:
        return _error(400, "the request has no Host header, several, or one that is not NAME or NAME:PORT")
    if token is None and not is_loopback(name):
        return _error(421, f"only this machine is served without a --token, not {name!r}")
    return None


def _host_of(request: Request) -> str | None:
    """The name or address in the one Host header, in lower case, without brackets and port; None if there is no such."""
    values = [value for name, value in request.scope["headers"] if name == b"host"]
    found = _HOST.fullmatch(values[0]) if len(values) == 1 else None
    if found is None or (found["port"] is not None and not 1 <= int(found["port"]) <= 65535):
        return None
    if found["ipv6"] is None:
        return str(found["name"].decode().lower())
    try:
        return str(ipaddress.IPv6Address(found["ipv6"].decode()))
    except ValueError:
        return None


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
        if (refusal := host_refusal(request, self._token)) is not None:
            return refusal
        path = request.scope["path"]  # the one that is routed
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
