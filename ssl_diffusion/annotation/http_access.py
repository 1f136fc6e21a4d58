"""Access to the labeling page: from this machine, or with the token.

Every response has headers that keep other sites out of the page and scripts out of its text; requests for a foreign host name
(DNS rebinding) are refused; writes need a header that only the page itself can send; bodies have a limit and have to arrive in
time; whoever gives wrong tokens has to wait, longer each time.

Nothing here reads `request.url`: Starlette builds it from the Host header, so its path may differ from the one that is routed
(`Host: x/login?`, before 1.0.1), and its host is the socket's address if the header is malformed (since then).
"""

import asyncio
import hmac
import ipaddress
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.requests import ClientDisconnect

from ssl_diffusion.errors import SSLDError

__all__ = ["HEADERS", "Attempts", "Guard", "check_access", "host_refusal", "is_loopback"]

_COOKIE = "ssld"
_LARGEST = 64 * 1024  # bytes of a request body
_BODY_SECONDS = 10.0  # in which a body has to arrive
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
    """Whether a host name or address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None) -> None:
    """Check that a host may be served with this token, or without one.

    Args:
        host: Address that is served on.
        token: Token that others need; None serves this machine only.

    Raises:
        SSLDError: If others could reach the host without a token, or the token is short.
    """
    if token is None and not is_loopback(host):
        raise SSLDError(f"{host} can be reached by others: set a --token, or serve on 127.0.0.1")
    if token is not None and len(token) < 16:
        raise SSLDError("the token is too short and could be guessed: use 16 characters or more")


def host_refusal(request: Request, token: str | None) -> Response | None:
    """Refusal of a request because of its Host header; None if the header is accepted.

    Without a token only names of this machine are accepted; with one, any name that others know it by.

    Args:
        request: Request to check.
        token: Token that others need; None serves this machine only.

    Returns:
        None, status 400 (the Host header is missing, repeated or malformed), or 421 (it names another machine).
    """
    name = _host_of(request)
    if name is None:
        return _error(400, "the request needs exactly one Host header, of the form NAME or NAME:PORT")
    if token is None and not is_loopback(name):
        return _error(421, f"without a --token only this machine is served, not {name!r}")
    return None


def _host_of(request: Request) -> str | None:
    """Name or address in the Host header, in lower case, without brackets and port; None if missing, repeated or malformed."""
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


class Attempts:
    """Limit on attempts to log in from one address: after a few wrong ones each has to wait, twice as long as the one before.

    Other addresses do not wait, and none waits longer than a minute, so that nobody is locked out for long by a stranger.
    """

    FREE, LONGEST = 5, 60.0  # wrong attempts without a wait; seconds
    _KEPT = 1000  # addresses

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # wrong attempts, and time of the next one

    def wait(self, address: str) -> float:
        """Seconds that an address has to wait before its next attempt."""
        _, when = self._wrong.get(_network(address), (0, 0.0))
        return max(0.0, when - time.monotonic())

    def note(self, address: str, right: bool) -> None:
        """Note an attempt of an address."""
        network = _network(address)
        wrong, _ = self._wrong.pop(network, (0, 0.0))
        if not right:
            pause = 0.0 if wrong + 1 < self.FREE else min(self.LONGEST, 2.0 ** min(wrong + 1 - self.FREE, 30))
            self._wrong[network] = (wrong + 1, time.monotonic() + pause)
            while len(self._wrong) > self._KEPT:
                self._wrong.popitem(last=False)


def _network(address: str) -> str:
    """An address, or of IPv6 the network of 64 bits, all of which one host may use."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


class Guard:
    """Middleware that accepts or refuses requests.

    Args:
        host: Address that the server listens on.
        token: Token that others need; None serves this machine only.

    Raises:
        SSLDError: See :func:`check_access`.
    """

    def __init__(self, host: str, token: str | None) -> None:
        check_access(host, token)
        self._token = token
        self.attempts = Attempts()
        self.csrf = secrets.token_urlsafe(32)
        # The cookie is not the token: it is of no use elsewhere, and ends with the server.
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Refuse a request or pass it on."""
        response = self._refusal(request) or await _late(request) or await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def log_in(self, token: str) -> bool:
        """Whether a token is correct."""
        return self._token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    def set_session_cookie(self, response: Response) -> Response:
        """Add the cookie that shows a successful log-in."""
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
                return _error(411, "the request has no Content-Length")
            if int(length) > _LARGEST:
                return _error(413, f"the request is larger than {_LARGEST} bytes")
            if path == "/login":
                return None
            if not hmac.compare_digest(request.headers.get("x-csrf-token", "").encode(), self.csrf.encode()):
                return _error(403, "the request did not come from the page: reload it")
            if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return _error(415, "the request must be JSON")
        return None


async def _late(request: Request) -> Response | None:
    """Read the body of a request; a refusal if it does not arrive."""
    if request.method in ("GET", "HEAD"):
        return None
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            await request.body()
    except TimeoutError:
        return _error(408, f"the request did not arrive within {_BODY_SECONDS:g} seconds", {"Connection": "close"})
    except ClientDisconnect:  # nobody reads the response
        return _error(400, "the connection was closed before the request had arrived")
    return None


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, code, headers)
