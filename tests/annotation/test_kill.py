"""kill -9 of the labeling page's server while several people label: every acknowledged label is there, none twice."""

import socket
import time
import urllib.request
from pathlib import Path

import pytest
from support.annotation_jobs import make_job
from support.annotators import Annotator
from support.commands import ok
from support.processes import start

from ssl_diffusion.annotation.loop.job import open_job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.data.pool import Pool

pytestmark = pytest.mark.slow


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
        people = [Annotator(port, f"p{attempt}-{i}") for i in range(4)]
        for person in people:
            person.start()
        while sum(len(person.acknowledged) for person in people) < 10:
            time.sleep(0.01)
        server.kill()
        server.join()
        for person in people:
            person.join(timeout=60)
            assert person.killed
            told |= {(id_, person.who["annotator"]): label for id_, label in person.acknowledged}
        job = open_job(job.path)
        queries.check(job.store)
        votes = {(row["id"], who): label for row in queries.listing(job.store) for who, label in row["votes"].items()}
        assert {key: votes.get(key) for key in told} == told
        # At most one label of each was on its way when the server died.
        assert len(votes) - len(told) <= 4 * (attempt + 1)
        assert len({id_ for id_, _ in votes}) == len(votes)  # nobody got what another had
        job.store.close()
