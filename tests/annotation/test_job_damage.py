"""Damaged files in a job folder: made again, or one sentence; and what killed processes leave."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from support.annotation_jobs import make_job
from support.commands import ok, refused, ssld
from support.damage import DAMAGES, Damage, damages

from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.storage import HERE

FILES = ("job.toml", "images.npy", "images.json", "model.json", "models/001.json", "progress.csv", "watched.npy", "next.lock")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny: list[str]) -> Job:
    """A job with a model, as far as its files go; not to be changed."""
    job = make_job(tmp_path_factory.mktemp("job"), digits_pool, tiny)
    ok("loop", "next", job.path, "--n", 4)
    job.folder("models")
    (job.path / "model.json").write_text(json.dumps({"model": "001", "labels": None}))
    (job.path / "models" / "001.json").write_text(json.dumps({"labels": None, "n": 5}))
    np.save(job.path / "watched.npy", np.zeros(3, dtype=np.int64))
    job.store.close()
    return job


@pytest.fixture
def copy(job: Job, tmp_path: Path) -> Path:
    return Path(shutil.copytree(job.path, tmp_path / "job"))


def without_model(path: Path) -> Path:
    """The same job before its first fit."""
    (path / "model.json").unlink()
    return path


@pytest.mark.parametrize("damage", DAMAGES, ids=repr)
def test_images_are_made_again_from_their_files(copy: Path, job: Job, damage: Damage, caplog: pytest.LogCaptureFixture) -> None:
    damage.apply(copy / "images.npy")
    if damage.name == "a folder":
        assert "is a folder: remove it" in refused("loop", "next", without_model(copy))
        return
    assert np.array_equal(open_job(copy).images, job.images)
    assert "made again" in caplog.text
    assert np.array_equal(np.load(copy / "images.npy"), job.images)


def test_images_that_have_changed_or_are_gone_are_said(copy: Path, digits_pool: Pool) -> None:
    photos = copy.parent / "photos"
    shutil.copytree(open_job(copy).image_root, photos)
    ok("loop", "move", without_model(copy), "--data", photos)
    (copy / "images.npy").unlink()
    shutil.copy(photos / "0001.png", photos / "0000.png")
    assert "are no longer those that the job was made of" in refused("loop", "next", copy)
    (photos / "0000.png").unlink()
    assert "1 of 90 image files are missing" in refused("loop", "next", copy)
    assert not (copy / "images.npy").exists()


def test_images_or_a_store_of_another_job_are_said(copy: Path) -> None:
    images = np.load(copy / "images.npy")
    np.save(copy / "images.npy", images[:3])
    message = refused("loop", "next", without_model(copy))
    assert "has 3 images" in message
    assert "90 samples" in message


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("job.toml", "job = 5", "job is a section, not 5"),
        ("model.json", "", "is empty"),
        ("model.json", "[]", "is damaged"),
        ("model.json", "{}", "model: field required"),
        ("model.json", '{"model": "../../run"}', "no plain file name"),
        ("model.json", '{"model": "..", "labels": null}', "no plain file name"),
        ("model.json", '{"model": "777", "labels": null}', "777"),
        ("label-studio.json", '{"url": 5}', "remove it"),
    ],
)
def test_state_files_are_checked(copy: Path, name: str, text: str, said: str) -> None:
    (copy / name).write_text(text)
    command = ["pull", copy, "--api-key", "x"] if name == "label-studio.json" else ["status", copy]
    message = refused("loop", *command)
    assert name in message or "777" in message
    assert said in message


@pytest.mark.slow
@given(damage=damages())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_mended_or_one_sentence(job: Job, tmp_path: Path, name: str, damage: Damage) -> None:
    path = tmp_path / "job"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(job.path, path)
    if "model" not in name:
        without_model(path)
    damage.apply(path / name)
    result = ssld("loop", "status", path)
    assert result.exit_code in (0, 2), (result.output, result.exception)
    assert "Traceback" not in result.output
    assert result.exit_code == 0 or result.stderr.count("ssld: error: ") == 1


def test_what_a_killed_process_left_is_removed_and_nothing_else(job: Job, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, others = (
        f".tmp-{gone.pid}-{HERE}-0a1b2c3d",
        [f".tmp-{os.getpid()}-{HERE}-0a1b2c3d", f".tmp-{gone.pid}-00000000-0a1b2c3d"],
    )
    shutil.copytree(job.path, tmp_path / "job")
    without_model(tmp_path / "job")
    for name in (left, *others):  # of a process that is gone, of one that lives, of another machine
        (tmp_path / name).mkdir()
        (tmp_path / name / "images.npy").touch()
    ok("loop", "status", tmp_path / "job")
    assert {p.name for p in tmp_path.glob(".tmp-*")} == {*others}


def test_a_seed_that_no_generator_takes_is_said(copy: Path) -> None:
    assert "seed" in refused("loop", "next", without_model(copy), "--seed", 2**64)


def test_an_image_root_is_for_tables(tmp_path: Path, job: Job) -> None:
    arguments = ["loop", "init", tmp_path / "new", "--data", job.image_root, "--image-root", tmp_path]
    assert "--image-root is for a CSV file" in refused(*arguments)
    assert not (tmp_path / "new").exists()
