"""Client for the part of Label Studio's REST API that is used here."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import httpx

from ssl_diffusion.annotation.store.labels import NamedLabel
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.settings import shown

__all__ = ["Interface", "LabelStudio", "parse_interface"]

_TIMEOUT = 60.0  # seconds
_PAGE = 500  # tasks of one request


@dataclass(frozen=True)
class Interface:
    """Labeling interface of a project.

    Attributes:
        image: Name of the Image tag.
        key: Key of the image in a task's data.
        choices: Name of the Choices tag.
        values: Choices.
    """

    image: str
    key: str
    choices: str
    values: tuple[str, ...]

    def result(self, label: NamedLabel) -> list[dict[str, Any]]:
        """Result of an annotation or a prediction of a class, or of a set of classes."""
        value = {"choices": [label] if isinstance(label, str) else list(label)}
        return [{"id": "label", "from_name": self.choices, "to_name": self.image, "type": "choices", "value": value}]


def parse_interface(config: str, name: str, *, multilabel: bool = False) -> Interface:
    """Read the labeling interface of a project.

    Args:
        config: Interface as XML.
        name: Name of the project, for messages.
        multilabel: Whether several choices must be allowed; otherwise they must not.

    Raises:
        SSLDError: If it does not have exactly one Choices of an Image, or one of the other kind.
    """
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise SSLDError(f"the labeling interface of {name} cannot be read: {error}") from None
    images = {tag.get("name"): tag for tag in root.iter("Image")}
    found = [tag for tag in root.iter("Choices") if tag.get("toName") in images]
    if len(found) != 1:
        raise SSLDError(f"the labeling interface of {name} has {len(found)} Choices of an Image, but needs exactly one")
    (choices,) = found
    image = images[choices.get("toName")]
    if multilabel and choices.get("choice", "single") != "multiple":
        raise SSLDError(f'the labeling interface of {name} allows one choice: set choice="multiple", as the job is multi-label')
    if not multilabel and choices.get("choice", "single") == "multiple":
        raise SSLDError(f'the labeling interface of {name} allows several choices: set choice="single"')
    values = tuple(tag.get("value", "") for tag in choices.iter("Choice"))
    key = (image.get("value") or "$image").removeprefix("$")
    return Interface(str(image.get("name")), key, str(choices.get("name")), values)


def _json(answer: httpx.Response, url: str) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError):
        raise SSLDError(f"{url} does not answer as Label Studio does: is the address right?") from None


class LabelStudio:
    """Connection to a server.

    Args:
        url: Address of the server.
        token: Personal access token or legacy token of a user. It is sent to the server only, and never shown.
        transport: Transport of the requests; None uses the network.

    Raises:
        SSLDError: If the address is none, or does not begin with http:// or https://, or the token cannot be one.
    """

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise SSLDError(f"{shown(url)} is not the address of a server: one begins with http:// or https://")
        try:
            host = httpx.URL(url).host
        except (httpx.InvalidURL, ValueError) as error:
            raise SSLDError(f"{shown(url)} is not the address of a server: {error}") from None
        if not host:
            raise SSLDError(f"{shown(url)} is not the address of a server: it names none")
        if not token.isascii() or not token.isprintable() or not token.strip():
            raise SSLDError("the token has characters that no token has: copy it from Account & Settings in Label Studio")
        self.url = url.rstrip("/")
        self._token = token
        # Personal access tokens are JSON Web Tokens; they are exchanged for one that lasts some minutes.
        self._header = "" if token.count(".") == 2 else f"Token {token}"
        # Redirects are not followed: they could carry the token elsewhere.
        self._client = httpx.Client(timeout=_TIMEOUT, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def call(self, method: str, path: str, body: Any = None, params: dict[str, Any] | None = None) -> Any:
        """Send a request and return the JSON of the response.

        Raises:
            SSLDError: If the server cannot be reached, refuses the token, or responds with an error.
        """
        fresh = not self._header
        if fresh:
            self._header = f"Bearer {self._access()}"
        answer = self._send(method, path, body, params, {"Authorization": self._header})
        if answer.status_code == 401 and self._header.startswith("Bearer ") and not fresh:
            self._header = ""
            return self.call(method, path, body, params)
        if answer.status_code == 401:
            raise self._refused()
        if answer.status_code == 404:
            raise SSLDError(f"{self.url}{path} does not exist: is the project's number right?")
        if not answer.is_success:
            raise SSLDError(f"{self.url} responded with status {answer.status_code} to {method} {path}: {answer.text[:300]}")
        return _json(answer, self.url) if answer.content else None

    def _access(self) -> str:
        answer = self._send("POST", "/api/token/refresh/", {"refresh": self._token}, None, {})
        if not answer.is_success:
            raise self._refused()
        found = _json(answer, self.url)
        if not isinstance(found, dict) or not isinstance(found.get("access"), str):
            raise SSLDError(f"{self.url} does not answer as Label Studio does: is the address right?")
        return str(found["access"])

    def _send(
        self, method: str, path: str, body: Any, params: dict[str, Any] | None, headers: dict[str, str]
    ) -> httpx.Response:
        try:
            return self._client.request(method, self.url + path, json=body, params=params, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SSLDError(f"{self.url} cannot be reached ({error}): is Label Studio running there?") from None

    def _refused(self) -> SSLDError:
        return SSLDError(f"{self.url} does not accept the token: copy it from Account & Settings")

    # -- projects and tasks -------------------------------------------------------------------------------------------

    def project(self, number: int) -> dict[str, Any]:
        """Settings of a project."""
        found: dict[str, Any] = self.call("GET", f"/api/projects/{number}")
        return found

    def tasks(self, number: int, fields: str = "id,data", order: str | None = None) -> Iterator[dict[str, Any]]:
        """All tasks of a project.

        Args:
            number: Number of the project.
            fields: Fields of the tasks to return, comma-separated.
            order: Column of the data manager to sort by, such as "tasks:predictions_score"; None keeps the server's order.
        """
        params = {"project": number, "page_size": _PAGE, "include": fields}
        if order is not None:
            params["query"] = json.dumps({"ordering": [order]})
        page, seen = 1, 0
        while True:
            part = self.call("GET", "/api/tasks", params=params | {"page": page})
            yield from part["tasks"]
            page, seen = page + 1, seen + len(part["tasks"])
            if seen >= part["total"] or not part["tasks"]:
                return

    def add_tasks(self, number: int, data: list[dict[str, Any]]) -> list[int]:
        """Add tasks to a project; returns their numbers, in order.

        Raises:
            SSLDError: If not all were accepted.
        """
        body = [{"data": each} for each in data]
        made = self.call("POST", f"/api/projects/{number}/import", body, {"return_task_ids": "true"})
        ids = [int(id_) for id_ in made.get("task_ids") or []]
        if len(ids) != len(data):
            raise SSLDError(f"{self.url} accepted {len(ids)} of {len(data)} tasks: push again")
        return ids

    def predicted(self, number: int, version: str) -> set[int]:
        """Numbers of the tasks that have a prediction of a version."""
        found = self.call("GET", "/api/predictions/", params={"project": number})
        return {int(p["task"]) for p in found if p["model_version"] == version}

    def add_predictions(self, number: int, predictions: list[dict[str, Any]]) -> None:
        """Add predictions to tasks of a project.

        Raises:
            SSLDError: If not all were accepted: the server silently leaves out those it considers invalid.
        """
        if not predictions:
            return
        done = self.call("POST", f"/api/projects/{number}/import/predictions", predictions)
        if done.get("created") != len(predictions):
            raise SSLDError(f"{self.url} accepted {done.get('created')} of {len(predictions)} predictions: push again")

    def annotated(self, number: int) -> list[dict[str, Any]]:
        """All tasks of a project with their annotations, including skips."""
        found: list[dict[str, Any]] = self.call(
            "GET", f"/api/projects/{number}/export", params={"exportType": "JSON", "download_all_tasks": "true"}
        )
        return found
