"""Bodies of requests and responses about a server as a whole: who has logged in, and its jobs."""

from typing import Annotated

from pydantic import BaseModel, Field

from ssl_diffusion.annotation.accounts import Role
from ssl_diffusion.annotation.http_access import Person
from ssl_diffusion.annotation.loop.several_jobs import JobOverview

__all__ = ["AccountMessage", "JobMessage", "JobsResponse", "LoginRequest", "PasswordRequest", "ServerSession"]

_Password = Annotated[str, Field(max_length=1000)]


class LoginRequest(BaseModel):
    """The name and the password of an account."""

    name: str = Field(max_length=100)
    password: _Password


class PasswordRequest(BaseModel):
    """A new password for one's own account, and the one until now."""

    password: _Password
    new: _Password


class AccountMessage(BaseModel):
    """The account of who sends a request."""

    name: str
    role: Role

    @classmethod
    def of(cls, who: Person) -> "AccountMessage | None":
        """The account of a person; None on a server without accounts."""
        return cls(name=who.name, role=who.role) if who.name is not None else None


class ServerSession(BaseModel):
    """The secret that requests of the page carry, and the account; None on a server without accounts, where all may do all."""

    csrf: str
    account: AccountMessage | None


class JobMessage(BaseModel):
    """A job of the server: its address, which its own routes are relative to, and how far it is."""

    address: str
    overview: JobOverview


class JobsResponse(BaseModel):
    """The jobs of the server, in the order in which it was given them."""

    jobs: list[JobMessage]
