"""What each role may do: one table of all routes, which is asked before any of them runs.

A route that the table lacks is the owners' alone. On a server without accounts everybody has the role of an owner.
"""

from typing import Annotated

from fastapi import Depends, Request

from ssl_diffusion.annotation.accounts import Role, may
from ssl_diffusion.annotation.http_access import Person
from ssl_diffusion.annotation.store.store import Verb
from ssl_diffusion.errors import SSLDError

__all__ = ["NEEDED", "OPEN", "VERBS", "AlreadyLabeledError", "NotAllowedError", "Who", "check_role", "require"]

# Routes before the log-in.
OPEN = {("GET", "/login"), ("POST", "/login")}

# The role that a route needs, by method and path; paths of a job are relative to its address.
NEEDED: dict[tuple[str, str], Role] = {
    ("GET", "/"): "annotator",
    ("POST", "/logout"): "annotator",
    ("POST", "/password"): "annotator",
    ("GET", "/api/openapi.json"): "annotator",
    # the start page
    ("GET", "/job/{name}"): "annotator",
    ("GET", "/api/jobs"): "annotator",
    # labeling
    ("GET", "/api/session"): "annotator",
    ("GET", "/api/state"): "annotator",
    ("POST", "/api/next"): "annotator",
    ("POST", "/api/release"): "annotator",
    ("POST", "/api/label"): "annotator",  # see VERBS
    ("POST", "/api/undo"): "annotator",
    ("POST", "/api/take"): "annotator",
    ("POST", "/api/sheet"): "annotator",
    ("POST", "/api/sheet/label"): "annotator",
    ("GET", "/api/explanation"): "annotator",
    ("POST", "/api/verdict"): "annotator",
    ("GET", "/api/examples"): "annotator",
    ("GET", "/image"): "annotator",
    ("GET", "/counterfactual"): "annotator",
    # the pool
    ("GET", "/api/map"): "annotator",
    ("GET", "/api/map/at"): "annotator",
    ("GET", "/api/search"): "annotator",
    ("POST", "/api/comment"): "annotator",
    ("GET", "/api/history"): "annotator",  # others' only for reviewers
    # looking again
    ("GET", "/api/review"): "reviewer",
    ("POST", "/api/suspicious"): "reviewer",
    ("POST", "/api/decide"): "reviewer",
    ("POST", "/api/classes"): "reviewer",
    # the job
    ("POST", "/api/class"): "owner",
    ("POST", "/api/example"): "owner",
    ("POST", "/api/fit"): "owner",
    ("POST", "/api/fit/stop"): "owner",
    ("GET", "/api/export"): "owner",
}

# The role that a verb of /api/label needs.
VERBS: dict[Verb, Role] = {
    "label": "annotator",
    "skip": "annotator",
    "un-label": "annotator",  # one's own vote
    "flag": "annotator",
    "comment": "annotator",
    "un-flag": "reviewer",
    "keep": "reviewer",
    "un-keep": "reviewer",
    "drop": "reviewer",
}


class NotAllowedError(SSLDError):
    """The role of the account does not allow this."""


class AlreadyLabeledError(SSLDError):
    """Others have labeled a sample, and the role of the account does not allow to contradict them."""


def _person_of(request: Request) -> Person:
    person: Person = request.state.person
    return person


Who = Annotated[Person, Depends(_person_of)]


def require(who: Person, role: Role, what: str) -> None:
    """Raise :class:`NotAllowedError` unless a person has a role, or one that may do more."""
    if not may(who.role, role):
        raise NotAllowedError(f"{what} needs the role {role}: {who.name} is {_a(who.role)}")


def check_role(request: Request) -> None:
    """Dependency of all routes: refuse what the role of a person does not allow."""
    key = (request.method, request.scope["route"].path)
    if key not in OPEN:
        require(request.state.person, NEEDED.get(key, "owner"), f"{key[0]} {key[1]}")


def _a(role: Role) -> str:
    return f"{'a' if role == 'reviewer' else 'an'} {role}"
