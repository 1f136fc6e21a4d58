"""Sessions of a server with accounts: who has logged in, until they log out, are idle for long, or lose their account."""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from ssl_diffusion.annotation.accounts import Account, Accounts, Secret

__all__ = ["Sessions"]


@dataclass(frozen=True)
class _Session:
    name: str
    secret: Secret  # of the account when it logged in
    began: float
    seen: float


class Sessions:
    """Sessions by the cookie that each has; they are kept in memory and end with the server.

    Args:
        accounts: Accounts that may log in.
    """

    IDLE, LONGEST = 12 * 3600.0, 7 * 24 * 3600.0  # seconds without a request; seconds in all
    _KEPT = 10_000

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()  # by the digest of the cookie
        self._lock = threading.Lock()

    def begin(self, account: Account) -> str:
        """Begin a session; returns its cookie."""
        cookie, now = secrets.token_urlsafe(32), time.monotonic()
        with self._lock:
            self._sessions[_digest(cookie)] = _Session(account.name, account.secret, now, now)
            while len(self._sessions) > self._KEPT:
                self._sessions.popitem(last=False)
        return cookie

    def end(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(cookie), None)

    def account_of(self, cookie: str) -> Account | None:
        """The account of a session, with the role that it has now; None if the session has ended.

        A session ends with its account, and when the password changes.

        Raises:
            StateError: If the accounts cannot be read.
        """
        key, now = _digest(cookie), time.monotonic()
        with self._lock:
            found = self._sessions.get(key)
        if found is None:
            return None
        account = self.accounts.find(found.name)
        late = now - found.seen > self.IDLE or now - found.began > self.LONGEST
        if account is None or account.secret != found.secret or late:
            self.end(cookie)
            return None
        with self._lock:
            if key in self._sessions:  # it may have ended meanwhile
                self._sessions[key] = replace(found, seen=now)
                self._sessions.move_to_end(key)
        return account


def _digest(cookie: str) -> bytes:
    """What a cookie is looked up by: a lookup by the cookie itself would take longer the more of it is right."""
    return hashlib.sha256(cookie.encode(errors="replace")).digest()
