"""Labels in and out of an annotation job: every format, all or nothing, and complaints that name the row."""

import json
from pathlib import Path

import pandas as pd
import pytest
from support.annotation_jobs import make_job, truth
from support.commands import ok, refused

from ssl_diffusion.annotation.files.exports import EXPORTS
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.folders import load_folder
from ssl_diffusion.data.pool import Pool

CLASSES = 10


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny)


@pytest.fixture
def labeled(job: Job, digits_pool: Pool) -> Job:
    for i in range(12):
        job.store.label(f"{i:04d}.png", truth(digits_pool, f"{i:04d}.png"), Actor("ann"))
    job.store.skip("0012.png", Actor("ann"))
    job.store.flag("0003.png", Actor("bob"))
    return job


def said(job: Job) -> dict[str, str | None]:
    return {row["id"]: row["label"] for row in queries.listing(job.store) if row["status"] != "open"}


@pytest.mark.parametrize("form", sorted({*EXPORTS} - {"coco", "folder"}))
def test_what_is_exported_can_be_imported_elsewhere(
    labeled: Job, form: str, tmp_path: Path, digits_pool: Pool, tiny: list[str]
) -> None:
    out = tmp_path / ("labels.json" if form == "label-studio" else "labels.csv" if form == "csv" else "labels.jsonl")
    assert ok("loop", "export", labeled.path, "--format", form, "--out", out).stdout.startswith("12 samples")
    if form == "label-studio":
        tasks = json.loads(out.read_text())
        assert tasks[0]["data"] == {"image": "/data/local-files/?d=0000.png", "ssld_id": "0000.png"}
    (tmp_path / "other").mkdir()
    other = make_job(tmp_path / "other", digits_pool, tiny)
    ok("loop", "import", other.path, out)
    assert said(other) == {id_: label for id_, label in said(labeled).items() if label is not None}


def test_a_folder_a_class_is_read_by_fit(labeled: Job, tmp_path: Path) -> None:
    labeled.store.add_classes(["a/b: c?"])
    labeled.store.label("0020.png", "a/b: c?", Actor("ann"))
    ok("loop", "export", labeled.path, "--format", "folder", "--out", tmp_path / "out")
    pool = load_folder(tmp_path / "out")
    assert len(pool) == 13
    assert "a_b_ c_" in pool.classes
    table = pd.read_csv(tmp_path / "out" / "labels.csv", dtype=str)
    assert dict(zip(table["id"], table["label"], strict=True))["0020.png"] == "a/b: c?"
    assert "choose another --out" in refused("loop", "export", labeled.path, "--format", "folder", "--out", tmp_path)


def test_coco_has_images_categories_and_one_annotation_each(labeled: Job, tmp_path: Path, digits_pool: Pool) -> None:
    ok("loop", "export", labeled.path, "--format", "coco", "--out", tmp_path / "coco.json")
    found = json.loads((tmp_path / "coco.json").read_text())
    assert [c["name"] for c in found["categories"]] == list(digits_pool.classes)
    assert [i["file_name"] for i in found["images"]] == [f"{i:04d}.png" for i in range(12)]
    names = {c["id"]: c["name"] for c in found["categories"]}
    for image, annotation in zip(found["images"], found["annotations"], strict=True):
        assert annotation["image_id"] == image["id"]
        assert annotation["bbox"] == [0, 0, 8, 8]
        assert names[annotation["category_id"]] == truth(digits_pool, image["file_name"])


def test_other_states_can_be_listed(labeled: Job, tmp_path: Path) -> None:
    ok("loop", "export", labeled.path, "--status", "skipped", "--out", tmp_path / "skipped.csv")
    assert pd.read_csv(tmp_path / "skipped.csv")["id"].tolist() == ["0012.png"]
    ok("loop", "export", labeled.path, "--status", "flagged", "--format", "jsonl", "--out", tmp_path / "flagged.jsonl")
    row = json.loads((tmp_path / "flagged.jsonl").read_text())
    assert (row["id"], row["flagged"], row["votes"]) == ("0003.png", True, {"ann": row["label"]})
    assert "as csv or jsonl" in refused("loop", "export", labeled.path, "--status", "skipped", "--format", "coco")
    assert "nothing was written" in refused("loop", "export", labeled.path, "--status", "disputed", "--out", tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()
    assert "did you mean csv" in refused("loop", "export", labeled.path, "--format", "cvs")
    assert "--overwrite" in refused("loop", "export", labeled.path, "--out", tmp_path / "skipped.csv")


def test_prodigy_and_label_studio_skips_are_skips(job: Job, tmp_path: Path) -> None:
    lines = [
        {"image": "x", "accept": ["3"], "answer": "accept", "meta": {"id": "0000.png"}, "_annotator_id": "eve"},
        {"image": "x", "accept": [], "answer": "reject", "meta": {"id": "0001.png"}},
        {"image": "x", "label": "4", "answer": "accept", "meta": {"id": "0002.png"}},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "2 labels and 1 skips" in ok("loop", "import", job.path, tmp_path / "p.jsonl").stdout
    choices = lambda *names: [{"type": "choices", "value": {"choices": list(names)}}]  # noqa: E731
    tasks = [
        {"id": 1, "data": {"ssld_id": "0005.png"}, "annotations": [{"result": choices("5"), "completed_by": 7}]},
        {"id": 2, "data": {"ssld_id": "0006.png"}, "annotations": [{"result": [], "was_cancelled": True, "completed_by": 7}]},
        {"id": 3, "data": {"ssld_id": "0007.png"}, "annotations": [{"result": []}], "predictions": [{"result": choices("1")}]},
    ]
    (tmp_path / "ls.json").write_text(json.dumps(tasks))
    assert "1 labels and 1 skips" in ok("loop", "import", job.path, tmp_path / "ls.json").stdout
    votes = {row["id"]: row["votes"] for row in queries.listing(job.store)}
    assert votes["0000.png"] == {"eve": "3"}
    assert votes["0005.png"] == {"label-studio:7": "5"}
    assert votes["0006.png"] == {"label-studio:7": None}
    assert "0007.png" not in votes  # a prediction is no label
    tasks[0]["annotations"][0]["result"] = choices("5", "6")  # type: ignore[index]
    (tmp_path / "ls.json").write_text(json.dumps(tasks))
    assert "has 2 choices" in refused("loop", "import", job.path, tmp_path / "ls.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,label\n0000.png,3\nx.png,4\n", r"'x.png' is not in the job (row 3)"),
        ("a.csv", "id,label\n0000.png,3\n0001.png,cat\n", "'cat' is no class of the job (the job has 0, 1"),
        ("a.csv", "id,label\n0000.png,3\n0000.png,4\n", "0000.png is '3' (row 2) and '4' (row 3)"),
        ("a.csv", "name,what\n0000.png,3\n", "needs the columns id and label; it has name, what"),
        ("a.jsonl", '{"id": "0000.png", "label": "3"}\n{"id": \n', "is not valid JSON"),
        ("a.jsonl", '{"id": "0000.png"}\n', "line 1 needs id and label; it has id"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
        ("a.jsonl", '{"answer": "accept", "accept": ["3"]}\n', "has no meta.id"),
        ("a.json", '{"id": 3}', "is a list of tasks"),
        ("a.json", '[{"id": 3, "data": {"image": "x"}}]', "task 3 has no ssld_id"),
        ("a.txt", b"\xff\xfe".decode("latin1"), "is not valid JSON"),
        ("missing.csv", None, "missing.csv"),
    ],
)
def test_a_file_with_a_fault_changes_nothing(job: Job, tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert message in refused("loop", "import", job.path, tmp_path / name)
    assert queries.history(job.store) == []
    assert len(job.store.classes) == CLASSES


def test_new_classes_when_they_are_wanted_and_labels_that_settle(job: Job, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("id;label;annotator\n0000.png;cat;ann\n0001.png;3;bob\n0002.png;;ann\n")
    assert "new classes cat" in ok("loop", "import", job.path, table, "--add-class").stdout
    assert job.store.classes[-1] == "cat"
    assert said(job) == {"0000.png": "cat", "0001.png": "3"}
    table.write_text("id,label\n0001.png,4\n")
    ok("loop", "import", job.path, table, "--annotator", "chief", "--final")
    assert said(job)["0001.png"] == "4"
    assert queries.listing(job.store)[1]["votes"] == {"bob": "3", "chief": "4"}
