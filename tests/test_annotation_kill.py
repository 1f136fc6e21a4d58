"""kill -9 of the labeling page's server while several people label: every acknowledged label is there, none twice."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from annotation_jobs import make_job
from commands import ok
from processes import start

from ssl_diffusion.annotation import views
from ssl_diffusion.annotation.job import open_job
from ssl_diffusion.pool import Pool

pytestmark = pytest.mark.slow


class Annotator(threading.Thread):
    """Labels what it gets until the server is gone; notes what was acknowledged."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self.url, self.who = url, {"annotator": name, "holder": name}
        self.acknowledged: list[tuple[str, str]] = []

    def call(self, path: str, body: dict[str, Any] | None, csrf: str = "") -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-CSRF-Token": csrf}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=30) as answer:
            return dict(json.load(answer))

    def run(self) -> None:
        try:
            csrf = self.call("api/session", None)["csrf"]
            while True:
                sample = self.call("api/next", self.who, csrf)["sample"]
                if sample is None:
                    time.sleep(0.02)
                    continue
                label = str(len(self.acknowledged) % 10)
                body = {**self.who, "id": sample["id"], "verb": "label", "label": label, "token": str(uuid.uuid4())}
                self.call("api/say", body, csrf)
                self.acknowledged.append((sample["id"], label))
        except (OSError, HTTPException, ValueError, urllib.error.URLError):
            return  # killed


def test_every_acknowledged_label_survives(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 90, "--strategy", "random")
    ok("loop", "next", job.path)
    job.store.close()
    told: dict[tuple[str, str], str] = {}
    for attempt in range(4):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        server = start(["loop", "serve", str(job.path), "--port", str(port), "--no-open"], tmp_path / "server.log")
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        people = [Annotator(url, f"p{attempt}-{i}") for i in range(4)]
        for person in people:
            person.start()
        while sum(len(person.acknowledged) for person in people) < 10:
            time.sleep(0.01)
        server.kill()
        server.join()
        for person in people:
            person.join(timeout=60)
            told |= {(id_, person.who["annotator"]): label for id_, label in person.acknowledged}
        job = open_job(job.path)
        views.check(job.store)
        votes = {(row["id"], who): label for row in views.listing(job.store) for who, label in row["votes"].items()}
        assert {key: votes.get(key) for key in told} == told
        # At most one label of each was on its way when the server died.
        assert len(votes) - len(told) <= 4 * (attempt + 1)
        assert len({id_ for id_, _ in votes}) == len(votes)  # nobody got what another had
        job.store.close()
