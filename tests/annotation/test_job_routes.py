"""What the page offers for a job as a whole: stopping a fit, and the labels as a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import make_job, truth
from support.commands import ok

from ssl_diffusion.annotation.files.exports import export_text
from ssl_diffusion.annotation.loop.fit_state import reporting
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 10)


def test_a_fit_of_this_server_is_stopped_and_others_are_not(client: TestClient, job: Job) -> None:
    assert client.post("/api/fit/stop", json={}).json() == {"stopped": False}
    fits = client.app.state.page.bench.fits  # type: ignore[attr-defined]
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); print(1, flush=True); time.sleep(600)"
    )
    fits.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with fits.process.stdout as ready:
        assert ready.readline() == b"1\n"
    assert client.post("/api/fit/stop", json={}).json() == {"stopped": True}
    assert fits.process.poll() is not None
    elsewhere = open_job(job.path)
    with elsewhere.alone("fit"), reporting(elsewhere, None):
        answer = client.post("/api/fit/stop", json={})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("the fit was not started by this server, but by process ")


@pytest.mark.parametrize(("form", "kind"), [("csv", "text/csv"), ("jsonl", "application/jsonl"), ("coco", "application/json")])
def test_the_labels_are_the_file_that_the_command_writes(
    client: TestClient, job: Job, digits_pool: Pool, form: str, kind: str, tmp_path: Path
) -> None:
    nothing = client.get("/api/export", params={"format": form})
    assert (nothing.status_code, "has no samples that are labeled" in nothing.json()["error"]) == (400, True)
    for i in range(3):
        job.store.label(f"{i:04d}.png", truth(digits_pool, f"{i:04d}.png"), Actor("ada"))
    answer = client.get("/api/export", params={"format": form})
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''job%20labels.")
    ok("loop", "export", job.path, "--format", form, "--out", tmp_path / "written")
    assert answer.text == (tmp_path / "written").read_text(encoding="utf-8")
    assert client.get("/api/export", params={"format": "yolo"}).status_code == 422


def test_text_is_exported_in_formats_of_one_file_only(job: Job, digits_pool: Pool) -> None:
    job.store.label("0000.png", "3", Actor("ada"))
    assert json.loads(export_text(job, "jsonl"))["label"] == "3"
    with pytest.raises(SSLDError, match="no format 'yolo'"):
        export_text(job, "yolo")
    with pytest.raises(SSLDError, match="no status 'lost'"):
        export_text(job, status="lost")
