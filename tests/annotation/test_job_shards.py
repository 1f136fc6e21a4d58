"""A job whose images lie in shards: nothing is copied, and all that a job on image files does is done out of the shards."""

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from support.annotation_jobs import answer, asked, photos, truth
from support.commands import ok, refused
from support.shards import noise, png, write_parquet, write_tar

from ssl_diffusion.annotation.files.contents import Contents
from ssl_diffusion.annotation.files.import_folders import labels_of_data_set
from ssl_diffusion.annotation.label_studio.sync import _address
from ssl_diffusion.annotation.loop.current_model import present_model
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.job_check import collect_job
from ssl_diffusion.annotation.page.server import make_app
from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.pack import pack
from ssl_diffusion.errors import DataError
from ssl_diffusion.training.run_folder import RunFolder

N = 60


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny: list[str]) -> Job:
    """A job on sixty digits in three shards, one round of which is labeled, and a model fitted to them."""
    folder = tmp_path_factory.mktemp("shards")
    pack(list_folder(photos(folder / "photos", digits_pool, N)), folder / "shards", (1, 8, 8), per_shard=25)
    shutil.rmtree(folder / "photos")  # nothing may need them
    ok(
        "loop",
        "init",
        folder / "job",
        "--data",
        folder / "shards",
        "--classes",
        ",".join(digits_pool.classes),
        "--n",
        20,
        *tiny,
    )
    made = open_job(folder / "job")
    asked(made)
    answer(made, digits_pool)
    ok("loop", "fit", made.path)
    return open_job(made.path)


@pytest.fixture
def client(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The page of the job, which searches no counterfactuals."""
    monkeypatch.setattr("ssl_diffusion.annotation.loop.workbench._AHEAD", 0)
    monkeypatch.setattr("ssl_diffusion.annotation.loop.counterfactuals._TARGETS", 0)
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        yield client


def shown(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def test_no_image_is_copied(job: Job, digits_pool: Pool) -> None:
    assert not {"images.npy", "images.json"} & {path.name for path in job.path.iterdir()}
    assert job.store.ids.tolist() == [f"{i:04d}.png" for i in range(N)]
    assert job.images.shape == (N, 1, 8, 8)
    rows = np.array([40, 3, 3])
    np.testing.assert_array_equal(job.images[rows], digits_pool.images[rows])
    np.testing.assert_array_equal(job.images[20:30], digits_pool.images[20:30])
    np.testing.assert_array_equal(job.images[7], digits_pool.images[7])


def test_its_fits_read_the_shards_and_so_do_their_runs(job: Job) -> None:
    assert present_model(job).name == "001"
    folder = RunFolder(job.path / "models" / "001")
    pool = load_pool(folder.recipe().data)
    assert folder.changes(pool) == []
    assert len(folder.used_ids()) == 20 == pool.has_label.sum()
    assert len(pd.read_csv(job.path / "models" / "001.csv")) == 20  # and not a row for every image
    assert len(asked(job)) == 20


def test_the_page_serves_images_by_id_out_of_the_shard(job: Job, client: TestClient, digits_pool: Pool) -> None:
    found = client.get("/image", params={"id": "0042.png"})
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    np.testing.assert_array_equal(shown(found.content), digits_pool.images[42, 0])
    asked(job, "--n", 3)  # not left to the page, whose thread may have much to do
    headers = {"X-CSRF-Token": client.get("/api/session").json()["csrf"]}
    who = {"annotator": "ann", "holder": "tab"}
    sample = client.post("/api/next", json=who, headers=headers).json()["sample"]
    assert shown(client.get(sample["image"]).content).shape == (8, 8)
    said = {"id": sample["id"], "verb": "label", "label": truth(digits_pool, sample["id"]), "token": "1", **who}
    wrong = client.post("/api/label", json=said | {"digest": "0" * 32}, headers=headers)
    assert (wrong.status_code, "not the one that was shown" in wrong.text) == (409, True)
    assert client.post("/api/label", json=said | {"digest": sample["digest"]}, headers=headers).json()["status"] == "labeled"


def test_exports_hold_the_images(job: Job, digits_pool: Pool, tmp_path: Path) -> None:
    def export(form: str) -> Path:
        ok("loop", "export", job.path, "--format", form, "--out", tmp_path / form)
        return tmp_path / form

    labels = pd.read_csv(export("folder") / "labels.csv", dtype=str)
    for id_, file in zip(labels["id"], labels["file"], strict=True):
        assert file.endswith(f"{id_}")  # which has the ending already
        np.testing.assert_array_equal(shown((tmp_path / "folder" / file).read_bytes()), digits_pool.images[int(id_[:4]), 0])
    table = pq.read_table(export("huggingface") / "data" / "train-00000-of-00001.parquet")
    assert shown(table["image"][0].as_py()["bytes"]).shape == (8, 8)
    coco = json.loads(export("coco").read_text())
    assert {(image["width"], image["height"]) for image in coco["images"]} == {(8, 8)}
    line = json.loads(export("prodigy").read_text().splitlines()[0])
    kind, _, content = line["image"].partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(shown(base64.b64decode(content)), digits_pool.images[int(line["meta"]["id"][:4]), 0])
    assert _address(job, "0042.png", None).startswith("data:image/png;base64,")
    assert json.loads(export("label-studio").read_text())[0]["data"]["image"].startswith("data:image/png;base64,")
    into = ("--format", "yolo", "--out", job.path.parent / "shards" / "yolo")
    assert "which holds the images that are read" in refused("loop", "export", job.path, *into)


def test_a_check_reads_the_shards_of_a_job_of_which_little_is_labeled(job: Job, digits_pool: Pool) -> None:
    found = collect_job(job, levels=0)
    np.testing.assert_array_equal(found.pool.images, digits_pool.images[:N])
    assert len(found.seen.digests) == N > found.pool.has_label.sum() >= 20
    assert not found.pool.is_test.any()


def test_shards_may_move_and_others_are_refused_by_name(job: Job, tmp_path: Path) -> None:
    mine, shards = tmp_path / "job", tmp_path / "shards"
    shutil.copytree(job.path, mine)
    shutil.copytree(job.path.parent / "shards", shards)
    assert f"read from {shards}" in ok("loop", "move", mine, "--data", shards).stdout
    moved = open_job(mine)
    assert moved.inputs == [shards]
    shutil.copy(shards / "shard-00000.parquet", shards / "shard-00001.parquet")
    with pytest.raises(DataError, match=r"shard-00001.parquet has changed since"):  # while it is in use
        moved.images[[30]]
    message = refused("loop", "next", mine)
    assert "1 of 3 shards has another content" in message
    assert "shard-00001.parquet): put them back" in message
    assert "another content" in refused("loop", "move", job.path, "--data", shards)
    shutil.rmtree(shards)
    assert f"if they were moved, say where they are: ssld loop move {mine}" in refused("loop", "next", mine)


@pytest.mark.parametrize(("write", "first"), [(write_parquet, "é0"), (write_tar, "a/0")])
def test_image_files_in_shards_are_shown_as_they_are(tmp_path: Path, write: object, first: str) -> None:
    ok("loop", "init", tmp_path / "job", "--data", write(tmp_path / "s"), "--set", "model.stem=1")
    job = open_job(tmp_path / "job")
    assert job.store.ids[0] == first
    with TestClient(make_app(job), base_url="http://127.0.0.1:8700") as client:
        found = client.get("/image", params={"id": first})
    assert (found.content, found.headers["content-type"]) == (png(noise(1)[0]), "image/png")
    ok("loop", "export", job.path, "--format", "folder", "--out", tmp_path / "out")
    files = pd.read_csv(tmp_path / "out" / "labels.csv", dtype=str)["file"]
    assert files.str.endswith(".png").all()
    assert "label" in ok("loop", "status", job.path).stdout


def test_bad_images_in_shards_are_left_out_of_a_job(tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "s").mkdir()
    files = [png(x) for x in noise(5)]
    files[1] = b"no image"
    pq.write_table(pa.table({"id": list("abcde"), "image": files}), tmp_path / "s" / "a.parquet")
    init = ("loop", "init", tmp_path / "job", "--data", tmp_path / "s", "--set", "model.stem=1")
    ok(*init, "--skip-bad")
    job = open_job(tmp_path / "job")
    assert job.store.ids.tolist() == list("acde")
    wanted = noise(5).transpose(0, 3, 1, 2)[[0, 2, 3, 4]]
    np.testing.assert_array_equal(job.images[:], wanted)
    np.testing.assert_array_equal(job.open_images("c"), wanted)


def into_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """A data set of one class, "7", of some files."""
    for name, content in files.items():
        (folder / "7").mkdir(parents=True, exist_ok=True)
        (folder / "7" / name).write_bytes(content)
    return folder


def test_labels_of_a_folder_are_found_by_the_pixels_that_are_packed(job: Job, digits_pool: Pool, tmp_path: Path) -> None:
    content = [png(digits_pool.images[i, 0]) for i in range(N)]
    found = labels_of_data_set(job, into_folder(tmp_path / "set", {"other.png": content[41]}))
    assert [each[:2] for each in found] == [("0041.png", "7")]
    # A name that fits is believed unless the pixels say otherwise; those of a file of another size say nothing.
    large = png(digits_pool.images[6, 0].repeat(3, axis=0).repeat(3, axis=1))
    assert [Contents(job).may_be("0005.png", x) for x in (content[5], content[6], large)] == [True, False, True]
    foreign = into_folder(tmp_path / "foreign", {"new.png": png(np.full((8, 8), 7, dtype=np.uint8))})
    with pytest.raises(DataError, match="none of the images of the job, neither by its name nor by its content"):
        labels_of_data_set(job, foreign)
    with pytest.raises(DataError, match="none of the images of the job"):
        labels_of_data_set(job, into_folder(tmp_path / "broken", {"new.png": b"no image"}))


@pytest.mark.parametrize("write", [write_parquet, write_tar])
def test_labels_of_a_folder_are_found_by_the_files_in_shards(write: Callable[[Path], Path], tmp_path: Path) -> None:
    ok("loop", "init", tmp_path / "job", "--data", write(tmp_path / "shards"), "--classes", "7,8", "--set", "model.stem=1")
    made = open_job(tmp_path / "job")
    files = {f"renamed-{i}.png": png(noise(10)[i]) for i in (9, 0, 4)}
    found = labels_of_data_set(made, into_folder(tmp_path / "set", files))
    expected = {name: str(made.store.ids[int(name[8:-4])]) for name in files}
    assert {place[2:]: id_ for id_, _, place in found} == expected


def test_what_is_exported_from_shards_is_imported_again(job: Job, tmp_path: Path) -> None:
    ok("loop", "export", job.path, "--format", "yolo", "--out", tmp_path / "yolo")
    files = sorted((tmp_path / "yolo").rglob("*.png"))
    expected = {file.name: file.parent.name for file in files}
    for k, file in enumerate(files):
        file.rename(file.with_name(f"renamed-{k}.png"))
    found = labels_of_data_set(job, tmp_path / "yolo")
    assert {id_: label for id_, label, _ in found} == expected
