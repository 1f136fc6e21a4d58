"""A client of a labeling page that is served somewhere: the same verbs as those of a job, by its JSON (`/api/openapi.json`)."""

import re
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

from ssl_diffusion.annotation.loop.sheets import Wanted
from ssl_diffusion.errors import SSLDError

__all__ = ["RemoteJob"]


class RemoteJob:
    """A job that `ssld loop serve` serves.

    Args:
        url: Address of the page; with several jobs on a server that of one of them, such as `http://127.0.0.1:8700/job/birds`.
        annotator: Name of the annotator; on a server with accounts that of the account.
        token: Token of the server; None for a page of this machine, which needs none.
        password: Password of the account, on a server with accounts.
        client: Client that sends the requests; None makes one.

    Raises:
        SSLDError: If the server cannot be reached, or refuses the token or the password.

    Example:
        >>> with RemoteJob("http://127.0.0.1:8700", "ada") as job:  # doctest: +SKIP
        ...     sample = job.next()
        ...     job.label(sample, "cat")
    """

    def __init__(
        self,
        url: str,
        annotator: str,
        token: str | None = None,
        *,
        password: str | None = None,
        client: httpx.Client | None = None,
    ) -> None:
        self._client = client or httpx.Client(base_url=url, timeout=60.0, follow_redirects=True)
        self.who = {"annotator": annotator, "holder": f"client {uuid.uuid4().hex}"}
        if token is not None:
            self._answer(self._request("POST", self._login(), data={"token": token}))
        elif password is not None:
            self._answer(self._request("POST", self._login(), json={"name": annotator, "password": password}))
        facts = self._get("/api/session")
        self._client.headers["X-CSRF-Token"] = facts["csrf"]
        self.name: str = facts["job"]

    def __enter__(self) -> "RemoteJob":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give leased samples back and close the connection."""
        self._post("/api/release", self.who | {"until": 1e12})
        self._client.close()

    @property
    def classes(self) -> list[str]:
        """Names of the classes in use."""
        return list(self._get("/api/session")["classes"])

    def next(self) -> dict[str, Any] | None:
        """Lease the next sample: id, image (its address), digest, note, status; None while there is none."""
        found = self._post("/api/next", self.who)["sample"]
        return dict(found) if found is not None else None

    def image(self, sample: dict[str, Any]) -> bytes:
        """Content of the image of a sample."""
        return self._answer(self._request("GET", str(sample["image"]))).content

    def label(self, sample: dict[str, Any], label: str | Sequence[str], *, seconds: float | None = None) -> str:
        """Label a leased sample with a class or, in a multi-label job, with a set of classes, also of none; returns its status.

        Raises:
            SSLDError: If there is no such class, or the image has changed since the sample was leased.
        """
        given = label if isinstance(label, str) else list(label)
        return self._say(sample, "label", label=given, digest=sample["digest"], seconds=seconds)

    def skip(self, sample: dict[str, Any]) -> str:
        """Vote for no class; returns the status of the sample."""
        return self._say(sample, "skip")

    def sheet(self, wanted: Wanted | None = None) -> dict[str, Any]:
        """Lease similar samples: title, label (the suggested class or None), samples, left."""
        asked = wanted or Wanted()
        facts = {"kind": asked.kind, "n": asked.n, "label": asked.label, "sure": asked.sure, "id": asked.id}
        more = {"points": list(asked.points), "ids": list(asked.ids), "without": list(asked.without)}
        return self._post("/api/sheet", self.who | facts | more)

    def label_sheet(self, samples: list[dict[str, Any]], label: str) -> int:
        """Give several samples of a sheet one label, as one action; returns how many are labeled now."""
        seen = [{"id": sample["id"], "digest": sample["digest"]} for sample in samples]
        body = self.who | {"samples": seen, "label": label, "token": uuid.uuid4().hex}
        return int(self._post("/api/sheet/label", body)["labeled"])

    def search(self, text: str, n: int = 60) -> list[dict[str, Any]]:
        """Samples that fit words and conditions, see :func:`ssl_diffusion.annotation.loop.search.search`; at most n."""
        return list(self._get("/api/search", {"q": text, "n": n})["samples"])

    def set_target(self, name: str, target: int | None) -> None:
        """Set the number of labels that are wanted of a class: 0 for any, None for the number in the job's settings."""
        body = self.who | {"verb": "target", "name": name, "to": "" if target is None else str(target)}
        self._post("/api/class", body)

    def examples(self) -> dict[str, list[dict[str, Any]]]:
        """Labeled images that show what the classes look like, by class name: id, image (its address), chosen."""
        return dict(self._get("/api/examples")["examples"])

    def choose_example(self, id_: str, name: str, *, on: bool = True) -> None:
        """Make a labeled image an example of its class, or end that.

        Raises:
            SSLDError: If the image is not labeled, or has another class.
        """
        self._post("/api/example", {"id": id_, "name": name, "on": on})

    def fit(self) -> bool:
        """Start a fit in the background; returns whether it was started: one may be running."""
        return bool(self._post("/api/fit", {})["started"])

    def status(self) -> dict[str, Any]:
        """State of the job, see :class:`~ssl_diffusion.annotation.loop.status.JobStatus`."""
        return dict(self._get("/api/state")["status"])

    def _login(self) -> str:
        """Address of the log-in: that of the server, of which a job may be a part."""
        base = self._client.base_url
        return str(base.copy_with(raw_path=re.sub(rb"job/[^/]+/$", b"", base.raw_path) + b"login"))

    def _say(self, sample: dict[str, Any], verb: str, **more: Any) -> str:
        body = self.who | {"id": sample["id"], "verb": verb, "token": uuid.uuid4().hex} | more
        return str(self._post("/api/label", body)["status"])

    def _get(self, path: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return dict(self._answer(self._request("GET", path, params=parameters)).json())

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._answer(self._request("POST", path, json=body)).json())

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise SSLDError(f"{self._client.base_url} cannot be reached ({error}): is `ssld loop serve` running?") from None

    @staticmethod
    def _answer(response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            said = response.json()["error"]
        except (ValueError, KeyError):
            said = "that is not the token" if response.status_code == 401 else f"the server responded {response.status_code}"
        raise SSLDError(said)
