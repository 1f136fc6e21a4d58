"""Exports that are folders, as other programs read them."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.annotation_jobs import make_job, truth
from support.commands import ok, refused

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import class_changes
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.annotation.store.verdicts import Verdict, add_verdict
from ssl_diffusion.data.pool import Pool

ANN = Actor("ann")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Job:
    """Thirty labels, five of them of the audit; a class that was merged; two verdicts."""
    folder = tmp_path_factory.mktemp("job")
    made = make_job(folder, digits_pool, [], "--audit", 10)
    ids = [*made.store.ids[made.store.of_role("pool")][:25], *made.store.ids[made.store.of_role("audit")][:5]]
    made.store.apply([Action("label", str(id_), ANN, truth(digits_pool, str(id_))) for id_ in ids])
    class_changes.merge(made.store, "9", "7", "ann")
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 9).save(buffer, format="PNG")
    for verdict, digest in (("true", "aa"), ("false", "bb"), ("none", "cc"), ("withdrawn", "dd")):
        add_verdict(made.store, Verdict("0001.png", verdict, "4", "6", "001", buffer.getvalue(), digest), ANN)  # type: ignore[arg-type]
    return made


def labels(job: Job) -> dict[str, str]:
    table = job.path.parent / "labels.csv"
    ok("loop", "export", job.path, "--out", table, "--overwrite")
    return dict(pd.read_csv(table, dtype=str)[["id", "label"]].to_numpy().tolist())


def test_yolo(job: Job, tmp_path: Path) -> None:
    ok("loop", "export", job.path, "--format", "yolo", "--out", tmp_path / "yolo")
    found = {path.name: path.parts[-3:-1] for path in (tmp_path / "yolo").rglob("*.png")}
    audit = set(job.store.ids[job.store.of_role("audit")].tolist())
    assert found == {id_: ("val" if id_ in audit else "train", label) for id_, label in labels(job).items()}


def test_hugging_face(job: Job, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the package pyarrow is not installed (extra: parquet)")
    ok("loop", "export", job.path, "--format", "huggingface", "--out", tmp_path / "hf")
    files = sorted(path.name for path in (tmp_path / "hf" / "data").iterdir())
    assert files == ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    seen = {}
    for file in files:
        table = pq.read_table(tmp_path / "hf" / "data" / file)
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        names = features["label"]["names"]
        assert names == list(job.store.classes_in_use)
        for row in table.to_pylist():
            seen[row["id"]] = names[row["label"]]
            assert row["image"]["bytes"] == job.image_file(int(job.store.positions([row["id"]])[0])).read_bytes()
    assert seen == labels(job)


def test_fiftyone(job: Job, tmp_path: Path) -> None:
    ok("loop", "export", job.path, "--format", "fiftyone", "--out", tmp_path / "fo")
    found = json.loads((tmp_path / "fo" / "labels.json").read_text())
    assert {f"{stem}.png": found["classes"][k] for stem, k in found["labels"].items()} == labels(job)
    assert {path.name for path in (tmp_path / "fo" / "data").iterdir()} == set(labels(job))


def test_verdicts(job: Job, tmp_path: Path) -> None:
    ok("loop", "export", job.path, "--format", "verdicts", "--out", tmp_path / "v")
    table = pd.read_csv(tmp_path / "v" / "verdicts.csv", dtype=str, keep_default_na=False)
    assert table[["verdict", "label", "file"]].to_numpy().tolist() == [
        ["true", "6", "aa.png"],
        ["false", "4", "bb.png"],
        ["none", "", "cc.png"],
    ]
    assert Image.open(tmp_path / "v" / "aa.png").size == (8, 8)
    assert "no format" in refused("loop", "export", job.path, "--format", "yoloo")
