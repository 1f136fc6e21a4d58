"""Accounts of the people who use a server: a name, a role, and a password of which only a salted hash (scrypt) is kept.

They lie in a file that is given to the server (`ssld loop serve --accounts FILE`) and changed by `ssld loop accounts`; a server
that is running notices changes at once. Whatever is done to it, the file has an owner.
"""

import hashlib
import hmac
import os
import secrets
import threading
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock
from pydantic import Field, field_validator

from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.settings import State, parse_state
from ssl_diffusion.storage import atomic_write_text, cannot_write, read_regular

__all__ = ["ROLES", "Account", "Accounts", "Role", "may", "role_of"]

Role = Literal["annotator", "reviewer", "owner"]
"""What an account is for: each role may do what those before it may, and more."""
ROLES: tuple[Role, ...] = get_args(Role)

_COST = (2**15, 8, 3)  # of scrypt: n, r, p; 32 MiB and a fifth of a second for each attempt
_SHORTEST, _LONGEST = 12, 1000  # characters of a password
_LONGEST_NAME = 100


def may(role: Role, needed: Role) -> bool:
    """Whether a role may do what needs another."""
    return ROLES.index(role) >= ROLES.index(needed)


def role_of(name: str) -> Role:
    """The role with a name.

    Raises:
        SSLDError: If there is none.
    """
    for role in ROLES:
        if role == name:
            return role
    raise SSLDError(f"there is no role {shown(name)}; {nearest_names(name, ROLES)}")


class Secret(State):
    """Hash of a password with its salt, both in hexadecimal, and the cost of scrypt."""

    n: int = Field(ge=2, le=2**20)
    r: int = Field(ge=1, le=32)
    p: int = Field(ge=1, le=16)
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")


class Account(State):
    """An account.

    Attributes:
        name: Name, under which labels are recorded.
        role: Role of the person, which says what is allowed.
        secret: Hash of the password.
    """

    name: str = Field(min_length=1, max_length=_LONGEST_NAME)
    role: Role
    secret: Secret


class _File(State):
    """Content of the file."""

    accounts: tuple[Account, ...]

    @field_validator("accounts")
    @classmethod
    def _check(cls, accounts: tuple[Account, ...]) -> tuple[Account, ...]:
        if len({_alike(each.name) for each in accounts}) < len(accounts):
            raise ValueError("two accounts have the same name")
        if not any(each.role == "owner" for each in accounts):
            raise ValueError("no account is an owner's")
        return accounts


class Accounts:
    """The accounts in a file.

    Args:
        path: File (JSON); it need not exist before the first account is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[tuple[int, ...], tuple[Account, ...]] | None = None  # the file's stamp, and what it held then
        self._checking = threading.Lock()  # one hash at a time: no flood of attempts takes the memory or all cores

    def all(self) -> tuple[Account, ...]:
        """All accounts, in the order in which they were added.

        Raises:
            StateError: If the file is missing or damaged.
        """
        stamp: tuple[int, ...] = ()
        with suppress(OSError):  # reading it says what is wrong
            facts = self.path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        known = self._known
        if known is None or not stamp or known[0] != stamp:
            first = f"add an owner with: ssld loop accounts add {self.path} NAME --role owner"
            data = read_regular(self.path, remedy=first)
            remedy = "put back a copy of it, or make another file"
            self._known = known = (stamp, parse_state(data, _File, self.path, remedy=remedy).accounts)
        return known[1]

    def find(self, name: str) -> Account | None:
        """The account with a name; None if there is none."""
        return next((each for each in self.all() if each.name == name), None)

    def check(self, name: str, password: str) -> Account | None:
        """The account with a name if the password is its own; else None, which takes as long for names that there are not.

        Args:
            name: Name that was given.
            password: Password that was given.
        """
        account = self.find(name)
        expected = account.secret if account is not None else _NOBODY
        with self._checking:
            right = hmac.compare_digest(_hash(password, expected), bytes.fromhex(expected.hash))
        return account if right else None

    def add(self, name: str, role: Role, password: str) -> Account:
        """Add an account.

        Args:
            name: Name, at most 100 characters; different from all others in more than case.
            role: Role of the account; the first has to be an owner's.
            password: Password, at least 12 characters.

        Raises:
            SSLDError: If the name is taken or cannot be used, the password is too short, or the file would have no owner.
        """
        _check_name(name)
        made = Account(name=name, role=role, secret=_secret(password))

        def change(before: tuple[Account, ...]) -> tuple[Account, ...]:
            self._check_free(before, name, role)
            return (*before, made)

        self._change(change, new=True)
        return made

    def check_new(self, name: str, role: Role) -> None:
        """Raise what :meth:`add` would raise whatever the password is."""
        _check_name(name)
        self._check_free(self.all() if os.path.lexists(self.path) else (), name, role)

    def check_known(self, name: str) -> None:
        """Raise :class:`SSLDError` if there is no account with a name."""
        self._known_name(self.all(), name)

    def remove(self, name: str) -> None:
        """Remove an account; whoever is logged in with it is logged out.

        Raises:
            SSLDError: If there is no such account, or it is the last owner's.
        """
        self._change(lambda before: _with_owner(_without(before, self._known_name(before, name)), "remove", name))

    def set_role(self, name: str, role: Role) -> None:
        """Change the role of an account, from the next request on.

        Raises:
            SSLDError: If there is no such account, or the file would have no owner.
        """
        self._replace(name, lambda account: account.model_copy(update={"role": role}))

    def set_password(self, name: str, password: str) -> None:
        """Change the password of an account; whoever is logged in with it is logged out.

        Raises:
            SSLDError: If there is no such account, or the password is too short.
        """
        secret = _secret(password)
        self._replace(name, lambda account: account.model_copy(update={"secret": secret}))

    def _replace(self, name: str, change: Callable[[Account], Account]) -> None:
        def changed(before: tuple[Account, ...]) -> tuple[Account, ...]:
            known = self._known_name(before, name)
            after = tuple(change(each) if each.name == known else each for each in before)
            return _with_owner(after, "change the role of", name)

        self._change(changed)

    def _check_free(self, accounts: Sequence[Account], name: str, role: Role) -> None:
        if other := next((each for each in accounts if _alike(each.name) == _alike(name)), None):
            raise SSLDError(f"{self.path} has an account {shown(other.name)} already: choose another name")
        if not accounts and role != "owner":
            raise SSLDError(f"the first account of {self.path} has to be an owner's: add it with --role owner")

    def _known_name(self, accounts: Sequence[Account], name: str) -> str:
        names = [each.name for each in accounts]
        if name not in names:
            raise SSLDError(f"{self.path} has no account {shown(name)}; {nearest_names(name, names)}")
        return name

    def _change(self, change: Callable[[tuple[Account, ...]], tuple[Account, ...]], *, new: bool = False) -> None:
        """Replace the accounts by what a function makes of them, one process at a time."""
        if not new:
            self.all()  # where there is no file, nothing is left beside it
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            with FileLock(lock, timeout=10):
                before = () if new and not os.path.lexists(self.path) else self.all()
                after = _File(accounts=change(before))
                atomic_write_text(self.path, after.model_dump_json(indent=1) + "\n", mode=0o600)
        except OSError as error:  # also that of a lock that another process keeps
            raise cannot_write(self.path, error) from None


def _without(accounts: Sequence[Account], name: str) -> tuple[Account, ...]:
    return tuple(each for each in accounts if each.name != name)


def _with_owner(accounts: tuple[Account, ...], what: str, name: str) -> tuple[Account, ...]:
    if not any(each.role == "owner" for each in accounts):
        raise SSLDError(f"cannot {what} {shown(name)}, the last owner: make somebody else an owner first")
    return accounts


def _alike(name: str) -> str:
    """What two names have in common that people could take for one another."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= _LONGEST_NAME or name != name.strip() or not name.isprintable():
        raise SSLDError(f"{shown(name)} cannot be the name of an account: 1 to {_LONGEST_NAME} characters that can be printed")


def _secret(password: str) -> Secret:
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise SSLDError(f"a password has {_SHORTEST} to {_LONGEST} characters: this one has {len(password)}")
    n, r, p = _COST
    empty = Secret(n=n, r=r, p=p, salt=secrets.token_hex(16), hash="0" * 64)
    return empty.model_copy(update={"hash": _hash(password, empty).hex()})


def _hash(password: str, like: Secret) -> bytes:
    text = unicodedata.normalize("NFC", password).encode(errors="surrogatepass")
    memory = 256 * like.n * like.r + 2**20  # twice what it needs
    return hashlib.scrypt(text, salt=bytes.fromhex(like.salt), n=like.n, r=like.r, p=like.p, maxmem=memory, dklen=32)


# What the password of a name that there is not is compared with; nothing has this hash.
_NOBODY = Secret(n=_COST[0], r=_COST[1], p=_COST[2], salt="0" * 32, hash="0" * 64)
