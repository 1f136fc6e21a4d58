"""A job from Python: by its own verbs, and by those of a page that is served elsewhere."""

from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import make_job, truth

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.sheets import Wanted
from ssl_diffusion.annotation.page.client import RemoteJob
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError

TOKEN = "a token that is long enough"


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 6)


@pytest.mark.usefixtures("no_pictures")
def test_a_job_from_a_notebook(job: Job, digits_pool: Pool) -> None:
    chosen = job.next(8)
    assert chosen.batch is not None
    assert len(chosen.batch) == 8
    for id_ in chosen.batch.ids:
        assert job.label(str(id_), truth(digits_pool, str(id_)), "ada").status == "labeled"
    assert job.status().counts["labeled"] == 8
    assert job.fit() == "001"
    assert job.status().model == "joint model 001"


def test_a_page_elsewhere_has_the_same_verbs(job: Job, digits_pool: Pool) -> None:
    with TestClient(make_app(job, host="0.0.0.0", token=TOKEN), base_url="http://elsewhere.example") as client:
        with pytest.raises(SSLDError, match="log in first"):
            RemoteJob("", "ada", client=client)
        with pytest.raises(SSLDError, match="not the token"):
            RemoteJob("", "ada", "another token, a wrong one", client=client)
        remote = RemoteJob("", "ada", TOKEN, client=client)
        assert remote.classes == list(job.store.classes)
        sample = remote.next()
        if sample is None:
            assert client.app.state.page.bench.idle(60)  # type: ignore[attr-defined]
            sample = remote.next()
        assert sample is not None
        assert remote.image(sample) == job.image_file(int(job.store.positions([sample["id"]])[0])).read_bytes()
        assert remote.label(sample, truth(digits_pool, sample["id"]), seconds=1.5) == "labeled"
        with pytest.raises(SSLDError, match="no class 'emu'"):
            remote.label(sample, "emu")
        other = remote.next()
        assert other is not None
        assert remote.skip(other) == "skipped"
        sheet = remote.sheet(Wanted("similar", n=5))
        assert remote.label_sheet(sheet["samples"], "3") == 5
        assert [each["id"] for each in remote.search("is:skipped")] == [other["id"]]
        assert remote.status()["counts"]["labeled"] == 6
        paths = client.get("/api/openapi.json").json()["paths"]
        assert {"/api/next", "/api/label", "/api/sheet", "/api/verdict", "/api/search", "/api/history"} <= {*paths}
        remote.close()
    assert {row["votes"].get("ada") for row in queries.listing(job.store, "labeled")} >= {"3"}


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(SSLDError, match="ssld loop serve"):
        RemoteJob("http://127.0.0.1:9", "ada", client=httpx.Client(base_url="http://127.0.0.1:9", timeout=2))
