"""Data sets of other programs: what is exported is imported again, and what is damaged is named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.annotation_jobs import make_job, truth
from support.commands import ok, refused

from ssl_diffusion.annotation.files.import_folders import labels_of_data_set
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

FORMS = ("folder", "yolo", "huggingface", "fiftyone")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Job:
    """Sixty labels, of which some are of the audit, and a class whose name no folder can have."""
    made = make_job(tmp_path_factory.mktemp("job"), digits_pool, [], "--audit", 10)
    made.store.add_classes(["a/b?"])
    ids = [f"{k:04d}.png" for k in range(60)]
    labels = {id_: truth(digits_pool, id_) for id_ in ids} | {"0003.png": "a/b?"}
    made.store.apply([Action("label", id_, Actor("ann"), label) for id_, label in labels.items()])
    return made


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Job:
    """The same images without labels."""
    made = make_job(tmp_path_factory.mktemp("empty"), digits_pool, [])
    made.store.add_classes(["a/b?"])
    return made


def given(job: Job) -> dict[str, str]:
    return {row["id"]: row["label"] for row in queries.listing(job.store, "labeled")}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_is_imported_again(job: Job, empty: Job, tmp_path: Path, form: str) -> None:
    if form == "huggingface":
        pytest.importorskip("pyarrow.parquet", reason="the package pyarrow is not installed (extra: parquet)")
    ok("loop", "export", job.path, "--format", form, "--out", tmp_path / "set")
    assert "60 labels" in ok("loop", "import", empty.path, tmp_path / "set", "--annotator", form, "--final").output
    assert given(empty) == given(job)
    empty.store.apply([Action("un-label", id_, Actor(form)) for id_ in given(empty)])
    assert not given(empty)


def test_cleanlab_gets_labels_and_probabilities_of_classifiers_that_have_not_seen_them(
    job: Job, empty: Job, tmp_path: Path
) -> None:
    assert "a/b? has 1" in refused("loop", "export", job.path, "--format", "cleanlab", "--out", tmp_path / "c")
    job.store.label("0003.png", "3", Actor("ann"))
    job.store.label("0004.png", "7", Actor("ann"))  # wrong, as it is a 4
    ok("loop", "export", job.path, "--format", "cleanlab", "--out", tmp_path / "c")
    labels, p = np.load(tmp_path / "c" / "labels.npy"), np.load(tmp_path / "c" / "pred_probs.npy")
    table = pd.read_csv(tmp_path / "c" / "samples.csv", dtype={"id": str, "label": str})
    names = json.loads((tmp_path / "c" / "classes.json").read_text())
    assert p.shape == (60, len(names))
    assert p.sum(axis=1) == pytest.approx(1)
    assert dict(table[["id", "label"]].to_numpy().tolist()) == given(job)
    assert [names[k] for k in labels] == table["label"].tolist()
    assert "60 labels" in ok("loop", "import", empty.path, tmp_path / "c", "--annotator", "cleanlab", "--final").output
    assert given(empty) == given(job)
    empty.store.apply([Action("un-label", id_, Actor("cleanlab")) for id_ in given(empty)])
    own = p[np.arange(60), labels]
    assert (p.argmax(axis=1) == labels).mean() > 0.3  # by chance a tenth
    assert own[table["id"] == "0004.png"][0] < np.median(own)


def test_images_under_other_names_are_found_by_their_content(empty: Job, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "train" / "7"
    folder.mkdir(parents=True)
    (folder / "renamed.png").write_bytes(empty.image_file(5).read_bytes())
    assert labels_of_data_set(empty, tmp_path / "set") == [("0005.png", "7", "train/7/renamed.png")]
    Image.new("L", (8, 8), 1).save(folder / "foreign.png")
    said = refused("loop", "import", empty.path, tmp_path / "set")
    assert "train/7/foreign.png is none of the images of the job" in said
    assert not given(empty)


def test_data_sets_that_are_none_are_named(empty: Job, tmp_path: Path) -> None:
    def said(path: Path) -> str:
        return refused("loop", "import", empty.path, path)

    assert "does not exist" in said(tmp_path / "nothing.parquet")
    (tmp_path / "no").mkdir()
    assert "no is a folder without labels to import" in said(tmp_path / "no")
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / "a.png")
    assert "lies in no class folder" in said(tmp_path / "flat")
    (tmp_path / "new" / "emu").mkdir(parents=True)
    (tmp_path / "new" / "emu" / "0001.png").write_bytes(empty.image_file(1).read_bytes())
    assert "'emu' is no class of the job" in said(tmp_path / "new")
    fiftyone = tmp_path / "fo"
    fiftyone.mkdir()
    for content, words in (
        ("[1]", "no object labels"),
        ("{", "not valid JSON"),
        ('{"classes": ["1"], "labels": {"0001": 3}}', "the name or number of one class, not 3"),
        ('{"classes": ["1"], "labels": {"0001": [0]}}', "the name or number of one class"),
        ('{"classes": ["1"], "labels": {"9999": 0}}', "none of the images"),
    ):
        (fiftyone / "labels.json").write_text(content)
        assert words in said(fiftyone)
    table = tmp_path / "cl" / "samples.csv"
    table.parent.mkdir()
    for content, words in (
        ("id,number\n0001.png,1\n", "has no column 'label'; its columns are 'id', 'number'"),
        ("id,label\n9999.png,1\n", "samples.csv, row 2 is none of the images"),
        ("id,label\n0001.png,\n", "cl is a folder without labels to import"),
        ("id,label\n0001.png,emu\n", "'emu' is no class of the job"),
    ):
        table.write_text(content)
        assert words in said(table.parent)
    (fiftyone / "labels.json").write_bytes(b'{"\xff"}')
    assert "not text in UTF-8" in said(fiftyone)


def test_parquet_of_others(empty: Job, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed (extra: parquet)")
    import pyarrow.parquet as pq

    file = tmp_path / "x.parquet"
    images = [{"bytes": empty.image_file(2).read_bytes(), "path": "z.png"}] * 3
    pq.write_table(pa.table({"image": images, "label": ["2", None, "2"]}), file)
    assert [found[:2] for found in labels_of_data_set(empty, file)] == [("0002.png", "2")] * 2
    pq.write_table(pa.table({"id": ["0002.png"], "label": [2]}), file)
    with pytest.raises(DataError, match="row 1: a label is the name or number of one class, not 2"):
        labels_of_data_set(empty, file)
    pq.write_table(pa.table({"name": ["0002.png"], "label": [2]}), file)
    with pytest.raises(DataError, match="needs the columns label and image"):
        labels_of_data_set(empty, file)
    file.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read"):
        labels_of_data_set(empty, file)
