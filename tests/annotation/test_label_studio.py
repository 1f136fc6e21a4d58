"""The Label Studio route against the real server, started by the test; run by

SSLD_LABEL_STUDIO=VENV/bin/label-studio pytest -m labelstudio
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.annotation_jobs import LEARNS, answer, asked, make_job, truth
from support.commands import ok, refused
from support.label_studio_server import (
    CONFIG,
    TOKEN,
    annotate,
    choice,
    eventually,
    free_port,
    label_studio_server,
    needs_server,
    new_project,
    next_task,
    wait_for,
)

from ssl_diffusion.annotation.label_studio.client import LabelStudio
from ssl_diffusion.annotation.label_studio.sync import order_of
from ssl_diffusion.annotation.loop.fits import fit_job
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError

pytestmark = [pytest.mark.labelstudio, needs_server, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio_server(tmp_path_factory.mktemp("label-studio")) as found:
        yield found


@pytest.fixture
def project(server: LabelStudio) -> int:
    return new_project(server)


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 8)


def options(server: LabelStudio, project: int) -> list[object]:
    return ["--label-studio", server.url, "--project", project, "--api-key", TOKEN]


def told(command: str, job: Job, server: LabelStudio, project: int, *more: object) -> dict[str, Any]:
    return dict(json.loads(ok("loop", command, job.path, *options(server, project), "--json", *more).stdout))


def test_tasks_come_in_the_order_of_the_round_and_labels_come_back(server: LabelStudio, project: int, job: Job) -> None:
    ids = asked(job)
    first = told("push", job, server, project)
    assert (first["new"], first["ordered"], first["notes"]) == (8, 8, [])
    again = json.loads(ok("loop", "push", job.path, "--api-key", TOKEN, "--json").stdout)  # where is remembered
    assert again == {**first, "new": 0}  # and nothing is doubled
    assert TOKEN not in (job.path / "label-studio.json").read_text()
    assert len(server.call("GET", "/api/predictions/", params={"project": project})) == 8
    served = []
    for k in range(6):
        task = next_task(server, project)
        served.append(task["data"]["ssld_id"])
        assert task["data"]["image"].startswith("data:image/png;base64,")
        annotate(server, task["id"], str(k) if k != 2 else None)
    assert served == ids[:6]
    assert told("pull", job, server, project) == {"labeled": 5, "skipped": 1, "withdrawn": 0}
    assert {row["id"]: row["label"] for row in queries.listing(job.store)} == {
        served[k]: (str(k) if k != 2 else None) for k in range(6)
    }
    assert told("pull", job, server, project) == {"labeled": 0, "skipped": 0, "withdrawn": 0}
    # Edits and deletions there are edits here.
    said = {task["data"]["ssld_id"]: task["annotations"][0]["id"] for task in server.annotated(project) if task["annotations"]}
    server.call("PATCH", f"/api/annotations/{said[served[0]]}/", {"result": [choice("9")]})
    server.call("DELETE", f"/api/annotations/{said[served[1]]}/")
    assert told("pull", job, server, project) == {"labeled": 1, "skipped": 0, "withdrawn": 1}
    labels = {row["id"]: row["label"] for row in queries.listing(job.store, "labeled")}
    assert labels[served[0]] == "9"
    assert served[1] not in labels
    queries.check(job.store)


def test_the_next_round_is_served_by_its_own_scores_and_open_tasks_can_still_be_answered(
    server: LabelStudio, project: int, job: Job
) -> None:
    asked(job)
    told("push", job, server, project)
    opened = next_task(server, project)
    (old,) = (p["id"] for p in opened["predictions"])
    later = asked(job, "--strategy", "random", "--seed", 5)
    told("push", job, server, project, "--blind")
    # Deleting the first round's predictions would make the server refuse this.
    annotate(server, opened["id"], "3", parent_prediction=old)
    order = [id_ for id_ in later if id_ != opened["data"]["ssld_id"]]
    for id_ in order[:3]:
        task = next_task(server, project)
        assert task["data"]["ssld_id"] == id_
        annotate(server, task["id"], "1")


def test_a_version_that_somebody_changes_is_set_again(server: LabelStudio, project: int, job: Job) -> None:
    ids = asked(job)
    version = told("push", job, server, project)["version"]
    server.call("PATCH", f"/api/projects/{project}", {"model_version": "", "sampling": "Sequential sampling"})
    assert told("push", job, server, project)["version"] == version
    assert server.project(project)["model_version"] == version
    assert next_task(server, project)["data"]["ssld_id"] == ids[0]


def test_what_is_there_twice_is_what_was_said_last_and_several_people_are_several_votes(
    server: LabelStudio, project: int, job: Job
) -> None:
    asked(job)
    told("push", job, server, project)
    task = next_task(server, project)
    first = annotate(server, task["id"], "1")
    annotate(server, task["id"], "2")
    told("pull", job, server, project)
    (row,) = queries.listing(job.store)
    assert (row["label"], list(row["votes"].values())) == ("2", ["2"])
    server.call("PATCH", f"/api/annotations/{first['id']}/", {"result": [choice("4")]})
    told("pull", job, server, project)
    assert queries.listing(job.store)[0]["label"] == "4"


def test_a_personal_access_token_is_exchanged(server: LabelStudio, project: int, job: Job) -> None:
    personal = server.call("POST", "/api/token/", {})["token"]
    with LabelStudio(server.url, personal) as other:
        assert other.project(project)["id"] == project


def test_a_wrong_token_or_project_or_interface_is_said(server: LabelStudio, project: int, job: Job) -> None:
    asked(job)
    wrong = [*options(server, project)[:-1], "f" * 40]
    message = refused("loop", "push", job.path, *wrong)
    assert "does not accept the token" in message
    assert "f" * 40 not in message
    assert "does not exist" in refused("loop", "push", job.path, *options(server, 9999))
    few = CONFIG.replace('<Choice value="7"/>', "")
    other = int(server.call("POST", "/api/projects/", {"title": "few", "label_config": few})["id"])
    assert "does not have '7'" in refused("loop", "push", job.path, *options(server, other))
    assert not list(server.tasks(other))


def test_classes_that_were_added_there_are_taken_when_asked_for(server: LabelStudio, job: Job) -> None:
    more = CONFIG.replace("</Choices>", '<Choice value="&lt;img onerror=x&gt;"/></Choices>')
    project = int(server.call("POST", "/api/projects/", {"title": "more", "label_config": more})["id"])
    asked(job)
    told("push", job, server, project)
    annotate(server, next_task(server, project)["id"], "<img onerror=x>")
    assert "--add-class" in refused("loop", "pull", job.path, *options(server, project))
    assert not queries.listing(job.store)
    told("pull", job, server, project, "--add-class")
    assert job.store.classes[-1] == "<img onerror=x>"


@pytest.mark.usefixtures("no_pictures")
def test_backend_predicts_follows_labels_and_trains(
    tmp_path: Path, server: LabelStudio, project: int, digits_pool: Pool, tiny: list[str]
) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 8, *LEARNS)
    asked(job, "--n", 30)
    answer(job, digits_pool)
    fit_job(job)
    asked(job)
    port, log = free_port(), tmp_path / "backend.txt"
    command = [sys.executable, "-P", "-c", "from ssl_diffusion.cli.main import run; run()", "loop", "backend", str(job.path)]
    command += ["--label-studio", server.url, "--project", str(project), "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, "LABEL_STUDIO_API_KEY": TOKEN}, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/health", process, log)
        # It pushes the queue by itself.
        eventually(lambda: server.project(project)["model_version"] not in (None, ""))
        made = server.call("POST", "/api/ml/", {"project": project, "url": url, "title": "ssld", "timeout": 10})
        version = server.project(project)["model_version"]
        assert server.call("GET", f"/api/ml/{made['id']}/versions")["versions"] == [version]
        # Tasks that are not in the queue are predicted when somebody asks, and come after it.
        (other,) = server.add_tasks(project, [{"image": "x", "ssld_id": "0080.png"}])
        (foreign,) = server.add_tasks(project, [{"image": "x"}])
        server.call(
            "POST",
            "/api/dm/actions",
            {"selectedItems": {"all": True, "excluded": []}},
            {"id": "retrieve_tasks_predictions", "project": project},
        )
        found = {int(p["task"]): p for p in server.call("GET", "/api/predictions/", params={"project": project})}
        assert {p["model_version"] for p in found.values()} == {version}
        assert found[other]["score"] == found[foreign]["score"] == 1.0
        assert found[other]["result"][0]["value"]["choices"][0] in job.store.classes
        assert found[foreign]["result"] == []
        # A label there is a label here a moment later, and the next task is what the job asks for next.
        first = job.store.ids[leases.pending(job.store)[0]]
        task = next_task(server, project)
        assert task["data"]["ssld_id"] == first
        began = time.monotonic()
        annotate(server, task["id"], truth(digits_pool, first))
        assert time.monotonic() - began < 20  # the answer waited for nothing
        eventually(lambda: first in {row["id"] for row in queries.listing(job.store, "labeled")}, 25)
        eventually(lambda: not httpx.get(f"{url}/health").json()["busy"], 25)  # the probe is fitted to it
        assert server.project(project)["model_version"] == order_of(job).version
        assert next_task(server, project)["data"]["ssld_id"] == job.store.ids[leases.pending(job.store)[0]]
        # Start training: a new model in the background.
        before = (job.path / "model.json").read_text()
        server.call("POST", f"/api/ml/{made['id']}/train", {})
        eventually(lambda: (job.path / "model.json").read_text() != before, 180)
        assert httpx.get(f"{url}/health").json()["problem"] == ""
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert TOKEN not in log.read_text()
    with pytest.raises(SSLDError, match="cannot be reached"):
        LabelStudio(url, TOKEN).project(1)
