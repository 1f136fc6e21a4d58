"""Access to the labeling page: from this machine, with the token, or with an account.

Without either, only this machine is served. With the token, one secret for all, everybody may do everything, under the name
that they give. With accounts everybody logs in with a name and a password, has the name of the account, and may do what its
role allows (:mod:`ssl_diffusion.annotation.page.permissions`). A server has the token or accounts, not both.

Every response has headers that keep other sites out of the page and scripts out of its text; requests for a foreign host name
(DNS rebinding) are refused; writes need a header that only the page itself can send; bodies have a limit and have to arrive in
time; whoever gives wrong tokens or passwords has to wait, longer each time.

Nothing here reads `request.url`: Starlette builds it from the Host header, so its path may differ from the one that is routed
(`Host: x/login?`, before 1.0.1), and its host is the socket's address if the header is malformed (since then).
"""

import asyncio
import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.requests import ClientDisconnect

from ssl_diffusion.annotation.accounts import Account, Accounts, Role
from ssl_diffusion.annotation.sessions import Sessions
from ssl_diffusion.errors import SSLDError, StateError

__all__ = ["HEADERS", "Attempts", "Guard", "Person", "check_access", "host_refusal", "is_loopback"]

_log = logging.getLogger(__name__)

_COOKIE = "ssld"
_LARGEST = 64 * 1024  # bytes of a request body
_BODY_SECONDS = 10.0  # in which a body has to arrive
_OPEN = ("/login", "/static/login.js", "/static/style.css", "/static/icon.svg")
_PAGE = re.compile(r"/|/job/[^/]+/?")  # what a person opens, and is led from to the log-in
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
        raise SSLDError(
            f"{host} can be reached by others: set a --token (the labeling page also takes --accounts), or serve on 127.0.0.1"
        )
    if token is not None and len(token) < 16:
        raise SSLDError("the token is too short and could be guessed: use 16 characters or more")


def host_refusal(request: Request, local: bool) -> Response | None:
    """Refusal of a request because of its Host header; None if the header is accepted.

    Args:
        request: Request to check.
        local: Whether only names of this machine are accepted, as without a token and accounts; else any name that others know
            it by.

    Returns:
        None, status 400 (the Host header is missing, repeated or malformed), or 421 (it names another machine).
    """
    name = _host_of(request)
    if name is None:
        return _error(400, "the request needs exactly one Host header, of the form NAME or NAME:PORT")
    if local and not is_loopback(name):
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

    Other addresses do not wait, and none waits longer than a minute, so that nobody is locked out for long by a stranger. With
    accounts the attempts of an address on each name are counted by themselves: who may log in as one cannot start the count of
    another again.
    """

    FREE, LONGEST = 5, 60.0  # wrong attempts without a wait; seconds
    _KEPT = 1000  # addresses, with the names that they tried

    def __init__(self) -> None:
        # Wrong attempts, and time of the next one.
        self._wrong: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def wait(self, address: str, name: str = "") -> float:
        """Seconds that an address has to wait before its next attempt."""
        _, when = self._wrong.get((_network(address), name), (0, 0.0))
        return max(0.0, when - time.monotonic())

    def note(self, address: str, right: bool, name: str = "") -> None:
        """Note an attempt of an address."""
        network = (_network(address), name)
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


@dataclass(frozen=True)
class Person:
    """Who sends a request.

    Attributes:
        name: Name of the account; None on a server without accounts, where people give names.
        role: Role of the account; without accounts that of an owner, who may do everything.
        csrf: Secret that the person's writes have to carry.
    """

    name: str | None
    role: Role
    csrf: str

    def signs(self, name: str) -> str:
        """The name that is recorded: that of the account, whatever name was given."""
        return name if self.name is None else self.name


class Guard:
    """Middleware that accepts or refuses requests, and says who sends them (`request.state.person`).

    Args:
        host: Address that the server listens on.
        token: Token that others need; None without one.
        accounts: Accounts that others need; None without any. With neither, this machine only is served.

    Raises:
        SSLDError: If there are both a token and accounts, or the accounts cannot be read; see also :func:`check_access`.
    """

    def __init__(self, host: str, token: str | None, accounts: Accounts | None = None) -> None:
        if accounts is None:
            check_access(host, token)
        elif token is not None:
            raise SSLDError("give either --token (or SSLD_TOKEN), one secret for all, or --accounts, not both")
        else:
            accounts.all()
        self._token = token
        self.sessions = Sessions(accounts) if accounts is not None else None
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

    def set_session_cookie(self, request: Request, response: Response, account: Account | None = None) -> Response:
        """Add the cookie that shows a successful log-in, with the token or with an account."""
        cookie = self._session if self.sessions is None or account is None else self.sessions.begin(account)
        secure = request.scope["scheme"] == "https"  # of a proxy in front, too, if it says so
        response.set_cookie(_COOKIE, cookie, httponly=True, samesite="strict", secure=secure, path="/")
        return response

    def log_out(self, request: Request, response: Response) -> Response:
        """End the session of a request."""
        if self.sessions is not None:
            self.sessions.end(request.cookies.get(_COOKIE, ""))
        response.delete_cookie(_COOKIE, httponly=True, samesite="strict", path="/")
        return response

    def _person(self, request: Request) -> Person | None:
        """Who sends a request; None for somebody who has yet to log in."""
        cookie = request.cookies.get(_COOKIE, "")
        if self.sessions is not None:
            account = self.sessions.account_of(cookie)
            if account is None:
                return None
            csrf = hmac.new(self.csrf.encode(), cookie.encode(errors="replace"), "sha256").hexdigest()
            return Person(account.name, account.role, csrf)
        if self._token is not None and not hmac.compare_digest(cookie.encode(), self._session.encode()):
            return None
        return Person(None, "owner", self.csrf)

    def _refusal(self, request: Request) -> Response | None:
        local = self._token is None and self.sessions is None
        if (refusal := host_refusal(request, local)) is not None:
            return refusal
        path = request.scope["path"]  # the one that is routed
        try:
            request.state.person = person = self._person(request)
        except StateError as error:
            _log.error("%s", error)
            return _error(503, "the accounts of this server cannot be read: its owner has to look at them")
        if person is None and path not in _OPEN:
            return RedirectResponse("/login", 303) if _PAGE.fullmatch(path) else _error(401, "log in first")
        if request.method not in ("GET", "HEAD"):
            length = request.headers.get("content-length", "")
            if not length.isdigit():
                return _error(411, "the request has no Content-Length")
            if int(length) > _LARGEST:
                return _error(413, f"the request is larger than {_LARGEST} bytes")
            if path == "/login" and self.sessions is None:
                return None
            # The log-in has no secret yet, and is safe by its type: other sites may not send JSON without asking first.
            sent = request.headers.get("x-csrf-token", "").encode()
            if path != "/login" and (person is None or not hmac.compare_digest(sent, person.csrf.encode())):
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
