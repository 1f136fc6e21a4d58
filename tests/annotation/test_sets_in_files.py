"""Sets of classes in files of other programs: what holds them comes back as it was, what does not is refused."""

import json
from pathlib import Path

import httpx
import pytest
from support.commands import ok, refused
from support.sets import CLASSES, make_sets_job

from ssl_diffusion.annotation.files.folders import FOLDERS
from ssl_diffusion.annotation.label_studio.client import LabelStudio, parse_interface
from ssl_diffusion.annotation.label_studio.sync import Order, prediction, pull
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import class_changes, queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, SSLDError

INTERFACE = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="{}">'
    '<Choice value="zero"/><Choice value="one"/><Choice value="two"/></Choices></View>'
)


@pytest.fixture
def labeled(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    (tmp_path / "first").mkdir()
    job, truth = make_sets_job(tmp_path / "first", digits_pool, tiny)
    for id_ in list(truth)[:12]:
        job.label(id_, truth[id_], "ann")
    job.store.skip("012.png", Actor("ann"))
    assert {len(names) for names in truth.values()} == {0, 1, 2}
    return job


def said(job: Job) -> dict[str, tuple[str, ...] | None]:
    return {row["id"]: row["label"] for row in queries.listing(job.store)}


@pytest.mark.parametrize("form", ["csv", "jsonl", "label-studio", "prodigy", "huggingface"])
def test_sets_come_back_as_they_were(labeled: Job, form: str, tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    if form == "huggingface":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    out = tmp_path / {"csv": "a.csv", "label-studio": "a.json", "huggingface": "a"}.get(form, "a.jsonl")
    ok("loop", "export", labeled.path, "--format", form, "--out", out)
    (tmp_path / "other").mkdir()
    other, _ = make_sets_job(tmp_path / "other", digits_pool, tiny)
    assert ok("loop", "import", other.path, out).stdout.startswith("12 labels")
    assert said(other) == {id_: label for id_, label in said(labeled).items() if label is not None}


def test_coco_has_an_annotation_for_each_class_of_an_image(labeled: Job, tmp_path: Path) -> None:
    ok("loop", "export", labeled.path, "--format", "coco", "--out", tmp_path / "coco.json")
    found = json.loads((tmp_path / "coco.json").read_text("utf-8"))
    names = {each["id"]: each["name"] for each in found["categories"]}
    for image in found["images"]:
        own = [names[each["category_id"]] for each in found["annotations"] if each["image_id"] == image["id"]]
        assert tuple(own) == said(labeled)[image["file_name"]]
    assert len({each["id"] for each in found["annotations"]}) == len(found["annotations"])


@pytest.mark.parametrize("form", sorted({*FOLDERS} - {"huggingface"}))
def test_what_holds_one_class_an_image_is_refused(labeled: Job, form: str, tmp_path: Path) -> None:
    assert "one class an image" in refused("loop", "export", labeled.path, "--format", form, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "set" / "zero").mkdir(parents=True)
    (tmp_path / "set" / "zero" / "000.png").write_bytes((tmp_path / "first" / "photos" / "000.png").read_bytes())
    assert "one class an image" in refused("loop", "import", labeled.path, tmp_path / "set")


def test_a_table_says_what_was_skipped_and_by_whom(labeled: Job, tmp_path: Path) -> None:
    ok("loop", "export", labeled.path, "--status", "all", "--out", tmp_path / "all.csv")
    header, *lines = (tmp_path / "all.csv").read_text("utf-8").splitlines()
    assert header == "id,role,status,flagged,votes,zero,one,two"
    assert lines[12] == "012.png,pool,skipped,False,ann: skipped,,,"
    class_changes.rename(labeled.store, "two", "status", "ann")
    assert "a column 'status'" in refused("loop", "export", labeled.path, "--out", tmp_path / "again.csv")


def test_label_studio_allows_several_choices(labeled: Job) -> None:
    interface = parse_interface(INTERFACE.format("multiple"), "project 7", multilabel=True)
    with pytest.raises(SSLDError, match='set choice="multiple"'):
        parse_interface(INTERFACE.format("single"), "project 7", multilabel=True)
    order = Order("v", {"a": 0.5}, {}, {})
    assert prediction(interface, order, "a", ("one", "two"))["result"][0]["value"] == {"choices": ["one", "two"]}
    assert prediction(interface, order, "a", ())["result"] == []
    assert prediction(interface, order, "a", ("one", "hat"))["result"] == []
    tasks = [
        {"id": k, "data": {"ssld_id": id_}, "annotations": [{"completed_by": 1, "result": result}]}
        for k, (id_, result) in enumerate(
            {"000.png": interface.result(("two", "zero")), "001.png": [], "002.png": interface.result(("hat",))}.items()
        )
    ]
    with LabelStudio("http://teams.test/", "0" * 40, httpx.MockTransport(lambda _: httpx.Response(200, json=tasks))) as server:
        with pytest.raises(DataError, match="'hat' is no class"):
            pull(labeled, server, 7)
        tasks.pop()
        assert pull(labeled, server, 7).imported.labeled == 2
        assert pull(labeled, server, 7).imported.labeled == 0  # the order of a set does not matter
    votes = {row["id"]: row["votes"] for row in queries.listing(labeled.store)}
    assert votes["000.png"]["label-studio:1"] == ("zero", "two")
    assert votes["001.png"]["label-studio:1"] == ()
    assert {*CLASSES} == {*labeled.store.classes_in_use}
