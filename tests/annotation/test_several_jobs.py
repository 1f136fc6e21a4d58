"""Several jobs on one server: which folders hold them, the start page's figures, and that none touches another."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.annotation_jobs import N, asked, make_job, truth
from support.commands import refused

from ssl_diffusion.annotation.loop.fit_state import reporting
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.several_jobs import Newcomers, find_jobs, overview
from ssl_diffusion.annotation.page.client import RemoteJob
from ssl_diffusion.annotation.page.server import make_jobs_app
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError, SSLDError
from ssl_diffusion.progress import ProgressUpdate

HERE = "http://127.0.0.1:8700"
TOKEN = "a token that is long enough"


@pytest.fixture
def jobs(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> dict[str, Job]:
    """Two jobs in a folder, one of which has a name that is no part of an address as it is."""
    for name in ("first", "the {second} & 50 % Übung?"):
        (tmp_path / "made").mkdir()
        made = make_job(tmp_path / "made", digits_pool, tiny, "--n", 5)
        (tmp_path / "jobs").mkdir(exist_ok=True)
        made.store.close()
        made.path.rename(tmp_path / "jobs" / name)
        (tmp_path / "made").rename(tmp_path / f"photos of {name[:3]}")
        settings = tmp_path / "jobs" / name / "job.toml"
        text = settings.read_text(encoding="utf-8").replace(str(tmp_path / "made"), str(tmp_path / f"photos of {name[:3]}"))
        settings.write_text(text, encoding="utf-8")
    return {name: open_job(path) for name, path in find_jobs([tmp_path / "jobs"]).items()}


@pytest.fixture
def client(jobs: dict[str, Job]) -> Iterator[TestClient]:
    with TestClient(make_jobs_app(jobs), base_url=HERE) as client:
        client.headers["X-CSRF-Token"] = client.get("/api/session").json()["csrf"]
        yield client


def test_a_folder_stands_for_the_jobs_in_it(jobs: dict[str, Job], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    first, second = jobs
    assert list(find_jobs([folder])) == ["first", "the {second} & 50 % Übung?"]
    assert list(find_jobs([folder / second, folder / first])) == [second, first]
    assert list(find_jobs([folder / first])) == [first]
    with pytest.raises(RunError, match=r"first is named twice: leave it out once"):
        find_jobs([folder, tmp_path / "jobs" / ".." / "jobs" / first])
    (tmp_path / "others" / "first").mkdir(parents=True)
    (tmp_path / "others" / "first" / "job.toml").touch()
    with pytest.raises(RunError, match=r"first and .*first are both called 'first': give one of the folders another name"):
        find_jobs([folder, tmp_path / "others"])
    with pytest.raises(RunError, match=r"photos is not a job folder .* and contains none: create one with: ssld loop init"):
        find_jobs([tmp_path / "photos of fir" / "photos"])


def test_the_command_says_what_cannot_be_served(jobs: dict[str, Job], tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    assert "is named twice" in refused("loop", "serve", folder / "first", folder, "--no-open")
    assert "contains none" in refused("loop", "serve", tmp_path, "--no-open")
    assert "is not a job folder" in refused("loop", "serve", folder, tmp_path / "nowhere", "--no-open")
    with jobs["first"].alone("serve"):
        assert "first is in use: serve by process" in refused("loop", "serve", folder, "--no-open")
    assert "--token" in refused("loop", "serve", folder, "--host", "0.0.0.0", "--no-open")


def test_a_job_that_is_made_in_the_folder_is_served_without_a_new_start(
    jobs: dict[str, Job], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "jobs"
    jobs["first"].path.rename(tmp_path / "elsewhere")
    known = {name: job for name, job in jobs.items() if name != "first"}
    with (
        ExitStack() as locks,
        TestClient(
            make_jobs_app(known, newcomers=Newcomers([folder, tmp_path / "elsewhere"], known, locks)), base_url=HERE
        ) as client,
    ):

        def served() -> list[str]:
            return [each["overview"]["name"] for each in client.get("/api/jobs").json()["jobs"]]

        assert served() == list(known)
        assert client.get("/job/first/api/session").status_code == 404
        (folder / "broken").mkdir()
        (folder / "broken" / "job.toml").write_text("[job]\nbatch = 'many'\n")
        (tmp_path / "elsewhere").rename(folder / "first")
        with open_job(folder / "first").alone("serve"):  # another server has it
            assert served() == list(known)
        assert served() == [*known, "first"]
        assert served() == [*known, "first"]
        assert client.get("/job/first/api/session").json()["job"] == "first"
        with pytest.raises(RunError, match="is in use: serve"), open_job(folder / "first").alone("serve"):
            pass
        assert [
            record.message.partition(" is not served")[0] for record in caplog.records if "is not served" in record.message
        ] == [
            str(folder / "broken"),
            str(folder / "first"),
        ]


def test_how_far_jobs_are(client: TestClient, jobs: dict[str, Job], digits_pool: Pool) -> None:
    first, second = (each["overview"] for each in client.get("/api/jobs").json()["jobs"])
    assert (first["name"], first["samples"], first["labeled"], first["classes"]) == ("first", N, 0, 10)
    assert (first["accuracy"], first["last_at"], first["model"], first["fit"]["state"]) == (None, None, "", "none")
    job = jobs["first"]
    ids = asked(job)
    for id_ in ids[:3]:
        job.store.label(id_, truth(digits_pool, id_), Actor("ada"))
    job.store.label(ids[3], "3", Actor("ada"))
    job.store.label(ids[3], "4", Actor("bob"))
    job.store.flag(ids[4], Actor("cleo"))
    with job.alone("fit"), reporting(job, None) as progress:
        progress(ProgressUpdate("pretraining", 400, 1000))
        (found, other) = (each["overview"] for each in client.get("/api/jobs").json()["jobs"])
    assert (found["labeled"], found["waiting"], found["to_review"]) == (3, 2, 2)  # the tie waits for a third vote, too
    assert (found["last_by"], found["fit"]["state"], found["fit"]["task"]) == ("cleo", "running", "pretraining")
    assert found["last_at"] == pytest.approx(queries.history(job.store)[-1]["at"])
    assert other == second


def test_the_accuracy_is_that_before_the_last_round(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--n", 10, "--audit", 8)
    for i in range(40):
        job.store.label(f"{i:04d}.png", truth(digits_pool, f"{i:04d}.png"), Actor("bob"))
    asked(job)
    found = overview(job)
    assert found.accuracy is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert found.measured_at == len(queries.labels(job.store, "pool")[0])


def test_a_job_whose_store_fails_does_not_take_the_others_along(client: TestClient, jobs: dict[str, Job]) -> None:
    jobs["first"].store.close()
    for file in jobs["first"].path.glob("job.db*"):
        file.unlink()
    found, other = (each["overview"] for each in client.get("/api/jobs").json()["jobs"])
    assert "job.db" in found["problem"]
    assert (found["name"], other["problem"], other["samples"]) == ("first", "", N)


def test_each_job_has_a_page_of_its_own(client: TestClient, jobs: dict[str, Job], digits_pool: Pool) -> None:
    addresses = [each["address"] for each in client.get("/api/jobs").json()["jobs"]]
    assert addresses == ["/job/first/", "/job/the%20%7Bsecond%7D%20%26%2050%20%25%20%C3%9Cbung%3F/"]
    for address, (name, job) in zip(addresses, jobs.items(), strict=True):
        facts = client.get(f"{address}api/session").json()
        assert (facts["job"], facts["home"]) == (name, "/")
        assert "<title>ssld: label</title>" in client.get(address).text
        assert client.get(address.rstrip("/"), follow_redirects=False).headers["location"] == address
        with RemoteJob("", "ada", client=_at(client, address)) as remote:
            sample = remote.next()
            if sample is None:
                assert client.app.state.pages[name].bench.idle(60)  # type: ignore[attr-defined]
                sample = remote.next()
            assert sample is not None
            assert remote.image(sample) == job.image_file(int(job.store.positions([sample["id"]])[0])).read_bytes()
            assert remote.label(sample, truth(digits_pool, sample["id"])) == "labeled"
    assert [queries.counts(job.store)["labeled"] for job in jobs.values()] == [1, 1]
    for path in ("/job/third/api/session", "/job/first/nothing", "/job//api/session", "/api/state", "/image?id=0000.png"):
        assert client.get(path).status_code == 404, path
    described = client.get("/job/first/api/openapi.json").json()["paths"]
    assert {"/api/next", "/api/label", "/image"} <= {*described}
    assert {"/api/jobs", "/api/session"} <= {*client.get("/api/openapi.json").json()["paths"]}


def _at(client: TestClient, address: str) -> TestClient:
    """The same server at another address."""
    return TestClient(client.app, base_url=f"{HERE}{address}")


def test_jobs_that_nobody_opens_rest(client: TestClient) -> None:
    client.get("/api/jobs")
    pages = client.app.state.pages  # type: ignore[attr-defined]
    assert [page.bench.started for page in pages.values()] == [False, False]
    client.get("/job/first/api/state")
    assert [page.bench.started for page in pages.values()] == [True, False]


def test_writes_to_a_job_need_the_page(client: TestClient, jobs: dict[str, Job]) -> None:
    stranger = TestClient(client.app, base_url=HERE)
    for path in ("/job/first/api/fit", "/job/first/api/classes"):
        assert stranger.post(path, json={"name": "pwned"}).status_code == 403
    assert TestClient(client.app, base_url="http://evil.example").get("/job/first/api/session").status_code == 421
    assert len(jobs["first"].store.classes) == 10


def test_the_token_opens_all_jobs(jobs: dict[str, Job]) -> None:
    app = make_jobs_app(jobs, host="0.0.0.0", token=TOKEN)
    with TestClient(app, base_url="http://team.example", follow_redirects=False) as client:
        for path in ("/", "/job/first/", "/job/first"):
            assert client.get(path).headers["location"] == "/login"
        for path in ("/api/jobs", "/job/first/api/session", "/job/first/image?id=0000.png", "/static/start.js"):
            assert client.get(path).status_code == 401, path
        with pytest.raises(SSLDError, match="not the token"):
            RemoteJob("", "ada", "another token, a wrong one", client=_team(app))
        remote = RemoteJob("", "ada", TOKEN, client=_team(app))
        assert remote.name == "first"
        remote.close()


def _team(app: object) -> TestClient:
    return TestClient(app, base_url="http://team.example/job/first/")  # type: ignore[arg-type]
