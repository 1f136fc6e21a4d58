"""Push, pull and the model server against a Label Studio made of dictionaries, which can have faults.

The real one is in test_label_studio.py.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.annotation_jobs import answer, asked, make_job, truth
from support.commands import refused
from support.label_studio_server import CONFIG, choice

from ssl_diffusion.annotation.label_studio.backend import Backend, make_backend
from ssl_diffusion.annotation.label_studio.client import LabelStudio, parse_interface
from ssl_diffusion.annotation.label_studio.sync import order_of, pull, push, remember, remembered
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import shown_image
from ssl_diffusion.errors import DataError, SSLDError

PROJECT = 7
TOKEN = "a secret of a user"


class Fake:
    """As much of Label Studio as is spoken to, and faults to order."""

    def __init__(self) -> None:
        self.settings = {"id": PROJECT, "label_config": CONFIG, "model_version": "", "sampling": "", "maximum_annotations": 1}
        self.tasks: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.loses_predictions = 0
        self.loses_tasks = 0
        self.keeps_version = False
        self.scores_are: Callable[[float], float] = lambda score: score
        self.access = ""
        self.calls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = urlsplit(str(request.url)).path
        query = {k: v[0] for k, v in parse_qs(urlsplit(str(request.url)).query).items()}
        body = json.loads(request.content) if request.content else None
        self.calls.append(f"{request.method} {path}")
        if path == "/api/token/refresh/":
            self.access = f"access {len(self.calls)}"
            return httpx.Response(200, json={"access": self.access})
        if request.headers["authorization"] not in (f"Token {TOKEN}", f"Bearer {self.access}"):
            return httpx.Response(401, json={"detail": "no"})
        answers: dict[str, Callable[[], Any]] = {
            f"GET /api/projects/{PROJECT}": lambda: self.settings,
            f"PATCH /api/projects/{PROJECT}": lambda: self.settings.update({} if self.keeps_version else body),
            "GET /api/tasks": lambda: self.page(query),
            "GET /api/predictions/": lambda: self.predictions,
            f"POST /api/projects/{PROJECT}/import": lambda: self.add(body),
            f"POST /api/projects/{PROJECT}/import/predictions": lambda: self.predict(body),
            f"GET /api/projects/{PROJECT}/export": lambda: self.tasks,
        }
        found = answers.get(f"{request.method} {path}")
        return httpx.Response(404) if found is None else httpx.Response(200, json=found())

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        tasks = list(self.tasks)
        if "query" in query:
            scores = {p["task"]: p["score"] for p in self.predictions if p["model_version"] == self.settings["model_version"]}
            tasks.sort(key=lambda task: self.scores_are(scores.get(task["id"], -1.0)))
        size, page = int(query["page_size"]), int(query["page"])
        return {"total": len(tasks), "tasks": tasks[(page - 1) * size : page * size]}

    def add(self, body: list[dict[str, Any]]) -> dict[str, Any]:
        taken = body[: len(body) - self.loses_tasks]
        first = len(self.tasks) + 100
        self.tasks += [{"id": first + i, "annotations": [], **task} for i, task in enumerate(taken)]
        return {"task_ids": [first + i for i in range(len(taken))], "task_count": len(taken)}

    def predict(self, body: list[dict[str, Any]]) -> dict[str, Any]:
        taken = body[: len(body) - self.loses_predictions]
        self.predictions += taken
        return {"created": len(taken)}

    def say(self, id_: str, label: str | None, who: int = 1, at: str = "2026-01-01") -> dict[str, Any]:
        (task,) = (task for task in self.tasks if task["data"].get("ssld_id") == id_)
        said = {
            "completed_by": who,
            "was_cancelled": label is None,
            "result": [choice(label)] if label else [],
            "updated_at": at,
        }
        task["annotations"].append(said)
        return said


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def server(fake: Fake) -> LabelStudio:
    return LabelStudio("http://teams.test/", TOKEN, httpx.MockTransport(fake))


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 6)


def test_push_makes_tasks_once_with_scores_in_the_order_of_asking(job: Job, server: LabelStudio, fake: Fake) -> None:
    ids = asked(job)
    done = push(job, server, PROJECT)
    assert (done.new, done.ordered) == (6, 6)
    assert [task["data"]["ssld_id"] for task in fake.tasks] == ids
    assert [p["score"] for p in fake.predictions] == pytest.approx([(k + 0.5) / 6 for k in range(6)])
    assert {p["model_version"] for p in fake.predictions} == {done.version} == {fake.settings["model_version"]}
    assert fake.settings["sampling"] == "Uncertainty sampling"
    again = push(job, server, PROJECT)
    assert (again.new, again.version, len(fake.tasks), len(fake.predictions)) == (0, done.version, 6, 6)
    # What was labeled meanwhile neither changes the version nor the scores of the others.
    fake.say(ids[0], "3")
    pull(job, server, PROJECT)
    assert order_of(job).version == done.version
    assert next(iter(order_of(job).scores.values())) == pytest.approx(1.5 / 6)
    asked(job, "--strategy", "random", "--seed", 9)
    assert order_of(job).version != done.version


def test_images_are_in_the_tasks_or_where_the_prefix_says(job: Job, server: LabelStudio, fake: Fake) -> None:
    ids = asked(job)
    push(job, server, PROJECT, image_prefix="/data/local-files/?d=my%20photos/")
    assert fake.tasks[0]["data"]["image"] == f"/data/local-files/?d=my%20photos/{ids[0]}"
    fake.tasks.clear()
    fake.predictions.clear()
    push(job, server, PROJECT, blind=True)
    kind, _, content = fake.tasks[0]["data"]["image"].partition(",")
    assert kind == "data:image/png;base64"
    (position,) = job.store.positions([ids[0]]).tolist()
    assert base64.b64decode(content) == job.image_file(position).read_bytes()
    assert all(task["data"]["why"] == "" for task in fake.tasks)
    assert all(p["result"] == [] for p in fake.predictions)


def test_large_images_and_other_formats_are_sent_as_small_jpegs(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "a.png")
    Image.new("L", (20, 10)).save(tmp_path / "b.tif")
    for name, size in (("a.png", (1024, 512)), ("b.tif", (20, 10))):
        content, kind = shown_image(tmp_path / name, side=1024)
        (tmp_path / "out.jpg").write_bytes(content)
        with Image.open(tmp_path / "out.jpg") as opened:
            assert (kind, opened.format, opened.size) == ("image/jpeg", "JPEG", size)
    assert shown_image(tmp_path / "a.png")[1] == "image/png"


def test_what_the_server_leaves_out_silently_is_said_and_mended_by_another_push(
    job: Job, server: LabelStudio, fake: Fake
) -> None:
    asked(job)
    fake.loses_predictions = 1
    with pytest.raises(SSLDError, match="accepted 5 of 6 predictions"):
        push(job, server, PROJECT)
    fake.loses_predictions, fake.loses_tasks = 0, 0
    assert push(job, server, PROJECT).ordered == 6
    assert len(fake.predictions) == 6
    asked(job, "--strategy", "random", "--seed", 3)
    fake.loses_tasks = 1
    with pytest.raises(SSLDError, match="tasks: push again"):
        push(job, server, PROJECT)


def test_an_order_that_does_not_hold_is_said(job: Job, server: LabelStudio, fake: Fake) -> None:
    asked(job)
    fake.keeps_version = True
    with pytest.raises(SSLDError, match="does not serve its tasks in the order"):
        push(job, server, PROJECT)
    fake.keeps_version, fake.scores_are = False, lambda score: -score
    with pytest.raises(SSLDError, match="does not serve its tasks in the order"):
        push(job, server, PROJECT)
    fake.scores_are = lambda score: score
    fake.settings["maximum_annotations"] = 2
    assert "2 annotations per task" in push(job, server, PROJECT).notes[0]


def test_pull_reconciles(job: Job, server: LabelStudio, fake: Fake) -> None:
    a, b, c, *_ = asked(job)
    push(job, server, PROJECT)
    fake.tasks.append({"id": 1, "data": {"image": "of somebody else"}, "annotations": [{"result": [choice("9")]}]})
    first = fake.say(a, "1")
    fake.say(b, None)
    fake.say(c, "2", who=1)
    fake.say(c, "3", who=2)
    found = pull(job, server, PROJECT)
    assert (found.imported.labeled, found.imported.skipped, found.withdrawn) == (3, 1, 0)
    stands = {row["id"]: (row["status"], row["label"]) for row in queries.listing(job.store)}
    assert stands == {a: ("labeled", "1"), b: ("skipped", None), c: ("disputed", None)}
    events = len(queries.history(job.store))
    pull(job, server, PROJECT)
    assert len(queries.history(job.store)) == events
    # The same person twice: what was said last, in whatever order it is listed.
    fake.tasks[0]["annotations"].insert(0, {**first, "result": [choice("5")], "updated_at": "2026-02-01"})
    pull(job, server, PROJECT)
    assert {row["id"]: row["label"] for row in queries.listing(job.store)}[a] == "5"
    # Deleted there is taken back here; a label of the page is not.
    job.store.label(b, "4", Actor("ann", "page"))
    for task in fake.tasks[:3]:
        task["annotations"] = []
    assert pull(job, server, PROJECT).withdrawn == 4
    assert {row["id"]: row["label"] for row in queries.listing(job.store, "labeled")} == {b: "4"}
    queries.check(job.store)


def test_nothing_is_taken_over_if_something_cannot_be(job: Job, server: LabelStudio, fake: Fake) -> None:
    a, b, *_ = asked(job)
    push(job, server, PROJECT)
    fake.say(a, "1")
    fake.say(b, "zebra")
    with pytest.raises(DataError, match="'zebra' is no class"):
        pull(job, server, PROJECT)
    assert not queries.listing(job.store)
    assert pull(job, server, PROJECT, add_class=True).imported.new_classes == ("zebra",)
    fake.tasks[0]["data"]["ssld_id"] = "elsewhere.png"
    with pytest.raises(DataError, match=r"'elsewhere\.png' is not in the job"):
        pull(job, server, PROJECT)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View><Image", "cannot be read"),
        ("<View/>", "has 0 Choices of an Image"),
        ('<View><Text name="t" value="$t"/><Choices name="c" toName="t"/></View>', "has 0 Choices of an Image"),
        ('<View><Image name="i"/><Choices name="c" toName="i" choice="multiple"/></View>', "allows several choices"),
    ],
)
def test_interfaces_that_cannot_hold_labels_are_refused(config: str, said: str) -> None:
    with pytest.raises(SSLDError, match=said):
        parse_interface(config, "project 7")


def test_names_of_the_interface_are_used() -> None:
    config = (
        '<View><Image name="photo" value="$url"/><Choices name="kind" toName="photo"><Choice value="a&amp;b"/></Choices></View>'
    )
    found = parse_interface(config, "x")
    assert (found.image, found.key, found.choices, found.values) == ("photo", "url", "kind", ("a&b",))
    assert found.result("a&b")[0]["from_name"] == "kind"


def test_a_class_that_the_interface_lacks_is_said_before_anything_is_pushed(job: Job, server: LabelStudio, fake: Fake) -> None:
    asked(job)
    job.store.add_classes(["other"])
    with pytest.raises(SSLDError, match="does not have 'other'"):
        push(job, server, PROJECT)
    assert not fake.tasks


def test_tokens(fake: Fake) -> None:
    transport = httpx.MockTransport(fake)
    personal = LabelStudio("http://teams.test", "head.body.signature", transport)
    assert personal.project(PROJECT)["id"] == PROJECT
    fake.access = "expired meanwhile"
    assert personal.project(PROJECT)["id"] == PROJECT
    with pytest.raises(SSLDError, match="does not accept the token") as error:
        LabelStudio("http://teams.test", "wrong", transport).project(PROJECT)
    assert "wrong" not in str(error.value)
    with pytest.raises(SSLDError, match="does not exist"):
        LabelStudio("http://teams.test", TOKEN, transport).project(8)


def test_a_server_that_is_not_there_is_said(job: Job) -> None:
    asked(job)
    gone = ["--label-studio", "http://127.0.0.1:1", "--project", 1, "--api-key", TOKEN]
    for command in ("push", "pull", "backend"):
        message = refused("loop", command, job.path, *gone)
        assert "cannot be reached" in message
        assert TOKEN not in message
    gone[1] = "ftp://x"
    assert "begins with http" in refused("loop", "pull", job.path, *gone)


def test_the_project_is_asked_for_once(job: Job) -> None:
    asked(job)
    for command in ("push", "pull", "backend"):
        assert "has no Label Studio project yet" in refused("loop", command, job.path, "--api-key", TOKEN)
    remember(job, "http://127.0.0.1:1", 7)
    assert remembered(job) == ("http://127.0.0.1:1", 7)
    assert "http://127.0.0.1:1 cannot be reached" in refused("loop", "pull", job.path, "--api-key", TOKEN)
    (job.path / "label-studio.json").write_text("[]")
    message = refused("loop", "pull", job.path, "--api-key", TOKEN)
    assert "label-studio.json is damaged" in message
    assert "remove it" in message


def test_nothing_to_push_is_said(job: Job) -> None:
    assert "nothing to push" in refused(
        "loop", "push", job.path, "--label-studio", "http://127.0.0.1:1", "--project", 1, "--api-key", TOKEN
    )


# -- the model server -------------------------------------------------------------------------------------------------


@pytest.fixture
def backend(job: Job, server: LabelStudio, digits_pool: Pool) -> Backend:
    """A job that knows some labels, and follows a project."""
    asked(job, "--n", 30)
    answer(job, digits_pool)
    asked(job)
    return Backend(job, server, PROJECT)


@pytest.fixture
def model(backend: Backend) -> Iterator[TestClient]:
    """The server of this job, once it has pushed the queue."""
    with TestClient(make_backend(backend), base_url="http://127.0.0.1:9090") as client:
        assert backend.bench.idle(60)
        yield client


def test_model_answers_with_one_prediction_a_task(model: TestClient, job: Job, fake: Fake) -> None:
    assert model.get("/health").json()["status"] == "UP"
    assert fake.settings["model_version"] == order_of(job).version
    version = model.post("/setup", json={"project": f"{PROJECT}.1700000000", "schema": CONFIG, "access_token": "x"}).json()
    assert version == {"model_version": order_of(job).version}
    assert model.get("/versions").json() == {"versions": [order_of(job).version]}
    (waiting, *_), scores = list(order_of(job).scores), order_of(job).scores
    tasks = [{"id": k, "data": {"ssld_id": id_}} for k, id_ in enumerate((waiting, "0080.png", "unknown.png"))]
    tasks.append({"id": 9, "data": {}})
    results = model.post("/predict", json={"tasks": tasks, "label_config": CONFIG, "params": {}}).json()["results"]
    assert [r["score"] for r in results] == [scores[waiting], 1.0, 1.0, 1.0]
    assert [len(r["result"]) for r in results] == [1, 1, 0, 0]
    assert results[0]["result"][0]["value"]["choices"][0] in job.store.classes
    assert {r["model_version"] for r in results} == {order_of(job).version}


def test_events_bring_labels_and_a_new_order_and_an_empty_queue_a_new_round(
    model: TestClient, backend: Backend, job: Job, fake: Fake, digits_pool: Pool
) -> None:
    ids = list(order_of(job).scores)
    for id_ in ids[:-1]:
        fake.say(id_, truth(digits_pool, id_))
    assert model.post("/webhook", json={"action": "PROJECT_UPDATED", "project": {}}).status_code == 200
    model.post("/webhook", json={"action": "ANNOTATION_CREATED", "task": {}, "annotation": {}})
    assert backend.bench.idle(60)
    assert list(order_of(job).scores) == ids[-1:]
    fake.say(ids[-1], None)
    model.post("/webhook", json={"action": "ANNOTATION_CREATED"})
    assert backend.bench.idle(60)
    assert len(order_of(job).scores) == 6
    assert fake.settings["model_version"] == order_of(job).version
    assert not set(ids) & set(order_of(job).scores)


def test_a_label_that_cannot_be_imported_is_shown_as_a_problem(
    model: TestClient, backend: Backend, job: Job, fake: Fake
) -> None:
    fake.say(next(iter(order_of(job).scores)), "zebra")
    model.post("/webhook", json={"action": "ANNOTATION_CREATED"})
    assert backend.bench.idle(60)
    assert "zebra" in model.get("/health").json()["problem"]


def test_training_is_started_by_the_button(model: TestClient, backend: Backend) -> None:
    assert backend.bench.fits.process is None
    model.post("/webhook", json={"action": "START_TRAINING", "project": {}})
    assert backend.bench.idle(60)
    assert backend.bench.fits.process is not None


def test_model_refuses_strangers(job: Job, server: LabelStudio) -> None:
    backend = Backend(job, server, PROJECT)
    with pytest.raises(SSLDError, match="can be reached by others"):
        make_backend(backend, host="0.0.0.0")
    with pytest.raises(SSLDError, match="16 characters"):
        make_backend(backend, token="short")
    here = TestClient(make_backend(backend))
    assert here.get("/health", headers={"host": "evil.test"}).status_code == 421
    ask = {"headers": {"host": "localhost"}}
    assert here.post("/webhook", content="{}", headers={"host": "localhost", "content-type": "text/plain"}).status_code == 415
    assert here.post("/setup", json={"project": "8.1"}, **ask).json() == {"error": "this is the model of project 7, not of 8"}
    assert here.post("/predict", json={"tasks": "all"}, **ask).status_code == 422
    secret = "a token that is long enough"
    open_ = TestClient(make_backend(backend, host="0.0.0.0", token=secret), headers={"host": "model.test"})
    assert open_.get("/health").status_code == 401
    assert open_.get("/health", auth=("ssld", "wrong")).status_code == 401
    assert open_.get("/health", headers={"authorization": "Basic ///"}).status_code == 401
    assert open_.get("/health", auth=("ssld", secret)).json()["status"] == "UP"
