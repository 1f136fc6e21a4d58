"""Label files of strangers: every level is checked, a fault names its row and field, and nothing of the file is imported."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from support.annotation_jobs import make_job
from support.commands import ok, refused, ssld
from support.damage import DAMAGES, Damage, damages, json_damages

from ssl_diffusion.annotation.files.exports import export_labels
from ssl_diffusion.annotation.files.imports import import_labels, read_labels
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.statements import is_storable
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), digits_pool, tiny)


@pytest.fixture
def job(shared: Job) -> Iterator[Job]:
    """The job; a test that is to import nothing is checked."""
    events, classes = queries.history(shared.store), shared.store.classes
    yield shared
    assert queries.history(shared.store) == events
    assert shared.store.classes == classes


def task(**changes: Any) -> list[dict[str, Any]]:
    result = {"type": "choices", "value": {"choices": ["3"]}}
    annotation = {"completed_by": 7, "result": [result]}
    return [{"id": 12, "data": {"ssld_id": "0000.png"}, "annotations": [annotation]} | changes]


def annotation(**changes: Any) -> list[dict[str, Any]]:
    return task(annotations=[{"completed_by": 7, "result": [{"value": {"choices": ["3"]}}]} | changes])


LINE = {"id": "0000.png", "label": "3"}
ANSWER = {"answer": "accept", "accept": ["3"], "meta": {"id": "0000.png"}}
FAULTS: list[tuple[str, Any, str]] = [
    ("json", task(annotations=5), "task 12: annotations: input should be a valid list, not 5"),
    ("json", task(annotations=[5]), "task 12: annotations[0]"),
    ("json", annotation(result=5), "task 12: annotations[0].result: "),
    ("json", annotation(result=[5]), "task 12: annotations[0].result[0]"),
    ("json", annotation(result=[{"value": "x"}]), "annotations[0].result[0].value"),
    ("json", annotation(result=[{"value": {"choices": 5}}]), "annotations[0].result[0].value.choices: "),
    ("json", annotation(result=[{"value": {"choices": [["a"]]}}]), "value.choices[0]: "),
    ("json", annotation(completed_by=[1]), "annotations[0].completed_by"),
    ("json", annotation(completed_by={"email": "\ud800"}), "annotations[0].completed_by"),
    ("json", annotation(was_cancelled="no"), "annotations[0].was_cancelled"),
    ("json", task(data=5), "task 12: data: "),
    ("json", task(data={"ssld_id": ["x"]}), "task 12: data.ssld_id: "),
    ("json", task(id=[1]), "task 1: id"),
    ("json", [5], "task 1"),
    ("jsonl", ANSWER | {"meta": 5}, "line 1: meta: "),
    ("jsonl", ANSWER | {"meta": "x"}, "line 1: meta: "),
    ("jsonl", ANSWER | {"meta": {"id": None}}, "line 1: meta.id: "),
    ("jsonl", ANSWER | {"accept": 5}, "line 1: accept: "),
    ("jsonl", ANSWER | {"accept": [True]}, "line 1: accept[0]: "),
    ("jsonl", ANSWER | {"answer": 5}, "line 1: answer: "),
    ("jsonl", LINE | {"id": ["x"]}, "line 1: id: "),
    ("jsonl", LINE | {"id": "\ud800"}, "line 1: id: "),
    ("jsonl", LINE | {"label": {"a": 1}}, "line 1: label: "),
    ("jsonl", LINE | {"label": "\ud800"}, "line 1: label: "),
    ("jsonl", LINE | {"label": True}, "line 1: label: "),
    ("jsonl", LINE | {"annotator": "\ud800"}, "line 1: annotator: "),
    ("jsonl", LINE | {"annotator": "a\0b"}, "line 1: annotator: "),
    ("jsonl", LINE | {"annotator": 1.5}, "line 1: annotator: "),
    ("jsonl", LINE | {"label": float("nan")}, "NaN is not JSON"),
    ("jsonl", LINE | {"label": "x" * 20_000}, "is longer than 10000 characters"),
]


@pytest.mark.parametrize(("suffix", "content", "said"), FAULTS, ids=[f"{i}" for i in range(len(FAULTS))])
def test_a_fault_at_any_level_names_its_place(job: Job, tmp_path: Path, suffix: str, content: Any, said: str) -> None:
    path = tmp_path / f"labels.{suffix}"
    path.write_text(json.dumps(content))
    message = refused("loop", "import", job.path, path, "--add-class")
    assert said in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b'{"id": ' + b"[" * 100_000, "line 1 is nested too deeply"),
        ("a.jsonl", b'{"id": "0000.png", "label": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        ("a.json", '[{"id": 1}]'.encode("utf-16"), "is not text in UTF-8"),
        ("a.jsonl", b'{"id": "0000.png", "label": "\xff"}', "is not text in UTF-8"),
        ("a.csv", b"id,label\n0000.png," + b"x" * 200_000, "field larger than field limit"),
        ("a.csv", b"id,label,annotator\n0000.png,3,a\0b\n", "row 2: annotator: "),
        ("a.csv", b"id,label\n0000.png,\xe9\n", "is not UTF-8"),
        ("a.csv", "id,label\n0000.png,3\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_files_that_are_no_text_of_labels(job: Job, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused("loop", "import", job.path, tmp_path / name)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d.name not in ("half", "twice", "zeros")], ids=repr)
def test_things_that_are_no_files_of_labels(job: Job, tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "labels.json"
    path.write_text("")
    damage.apply(path)
    if damage.name == "a list":  # an export without tasks
        assert "0 labels" in ok("loop", "import", job.path, path).stdout
    else:
        assert "labels.json" in refused("loop", "import", job.path, path)


@given(damage=damages() | json_damages())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_to_an_export_is_read_or_one_sentence(tmp_path: Path, damage: Damage) -> None:
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "labels.json"
    path.write_text(json.dumps(task()))
    damage.apply(path)
    with suppress(SSLDError):  # whatever else is raised is a fault
        for record in read_labels(path, "me"):
            assert record.label is None or is_storable(record.id + record.label + record.annotator)


def test_classes_are_not_added_without_their_labels(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise SSLDError("the second half failed")

    monkeypatch.setattr("ssl_diffusion.annotation.store.statements.write_status", fail)
    path = tmp_path / "labels.csv"
    path.write_text("id,label\n0000.png,zebra\n")
    assert "the second half failed" in refused("loop", "import", job.path, path, "--add-class")


def test_numbers_are_names(shared: Job, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "0040.png", "label": 0, "annotator": 17}\n')
    assert import_labels(shared, path).labeled == 1
    votes = {row["id"]: row["votes"] for row in queries.listing(shared.store)}
    assert votes["0040.png"] == {"17": "0"}


# -- folders ----------------------------------------------------------------------------------------------------------


def test_ids_and_classes_that_would_share_a_name_are_kept_apart(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    ids = ["a/b.png", "a__b.png", "A__B.png", "c.png", "d.png", "e.png"]
    for i, id_ in enumerate(ids):
        Image.fromarray(digits_pool.images[i, 0]).save(photos / id_)
    labels = dict(zip(ids, ["a/b", "a/b", "a/b", "a_b", "A_B", "a:b"], strict=True))
    options = ["--data", photos, "--set", "model.stem=1", *tiny]
    jobs = []
    for name in ("one", "two"):
        ok("loop", "init", tmp_path / name, *options, "--classes", "a/b,a_b,A_B,a:b")
        jobs.append(tmp_path / name)
    job = open_job(jobs[0])
    for id_, label in labels.items():
        job.store.label(id_, label, Actor("ann"), final=True)  # the folder "a" is a label already
    assert export_labels(job, tmp_path / "out", "folder") == len(ids)
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert len({file.casefold() for file in files}) == len(ids)
    assert len({file.split("/")[0].casefold() for file in files}) == 4
    assert "A_B/d.png" in files  # a class keeps its name where a folder may have it
    for line in (tmp_path / "out" / "labels.csv").read_text().splitlines()[1:]:
        id_, file, _ = line.split(",")
        assert (tmp_path / "out" / file).read_bytes() == (photos / id_).read_bytes()
    ok("loop", "import", jobs[1], tmp_path / "out" / "labels.csv", "--final")
    assert {row["id"]: row["label"] for row in queries.listing(open_job(jobs[1]).store)} == labels


def test_a_damaged_image_is_named_in_a_coco_export(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny)
    job.store.label("0000.png", "3", Actor("ann"))
    job.image_file(0).write_bytes(b"no image")
    message = refused("loop", "export", job.path, "--format", "coco", "--out", tmp_path / "labels.json")
    assert "0000.png is not an image that can be read" in message
    assert not (tmp_path / "labels.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--api-key", "\u043a\u043b\u044e\u0447", "has characters that no token has"),
        ("--label-studio", "http://[::1", "is not the address"),
    ],
)
def test_tokens_and_addresses_that_are_none(shared: Job, option: str, value: str, said: str) -> None:
    arguments = {"--api-key": "secret", "--label-studio": "http://127.0.0.1:1", "--project": 1} | {option: value}
    words = [word for pair in arguments.items() for word in pair]
    for command in ("push", "pull"):
        message = refused("loop", command, shared.path, *words)
        assert said in message
    assert ssld("loop", "status", shared.path).exit_code == 0
