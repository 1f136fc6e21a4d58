"""Large photos without a size: what commands say, what is written down, and what runs, jobs and studies made before keep."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import CPU, ok, refused

from ssl_diffusion.annotation.loop.job import open_job
from ssl_diffusion.annotation.page.pictures import Pictures
from ssl_diffusion.errors import RunError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.studies import runner
from ssl_diffusion.studies.attempts import StudyFolder
from ssl_diffusion.studies.settings import StudySettings
from ssl_diffusion.training.fit import resume_run
from ssl_diffusion.training.recipe import Recipe, load_recipe

SAID = "images are resized to 32 x 32 pixels: most have 36 x 40"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two classes with a test split, 40 x 36 pixels and some of another size."""
    folder = tmp_path_factory.mktemp("large") / "photos"
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                height, width = (50, 50) if i == 3 else (36, 40)
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def quick(tiny: list[str]) -> list[str]:
    """Options of a fit of one step each."""
    return [*tiny, "--set", "pretraining.steps=1", "--set", "training.steps=1", "--set", "model.stem=2"]


def data_of(path: Path) -> dict[str, object]:
    return dict(tomllib.loads(path.read_text(encoding="utf-8"))["data"])


@pytest.mark.usefixtures("no_pictures")
def test_a_run_says_and_keeps_the_size_that_was_chosen(large: Path, tmp_path: Path, quick: list[str]) -> None:
    run = tmp_path / "run"
    result = ok("fit", "--data", large, "--labeled", 4, "--out", run, *quick)
    assert SAID in result.stderr
    assert "images          32 x 32 pixels (see --size)" in result.stdout
    assert data_of(run / "recipe.toml")["size"] == 32
    assert json.loads((run / "pool.json").read_text())["image_shape"] == [3, 32, 32]
    assert load_run(run).image_shape == (3, 32, 32)
    assert json.loads(ok("evaluate", run, *CPU, "--json").stdout)["n"] == 4
    assert json.loads(ok("evaluate", run, "--data", large / "train", *CPU, "--json").stdout)["n"] == 8
    query = ok("query", run, "--n", 2, "--out", tmp_path / "query", *CPU, "--json")
    assert len(json.loads(query.stdout)["ids"]) == 2
    assert "changed since" not in query.stderr
    assert "other settings: data.size" in refused("fit", "--resume", run, "--size", "0")


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_an_earlier_version_resumes_at_the_size_of_its_files(large: Path, tmp_path: Path, quick: list[str]) -> None:
    run = tmp_path / "run"
    result = ok("fit", "--data", large, "--size", 0, "--out", run, *quick)
    assert SAID not in result.stderr
    assert data_of(run / "recipe.toml")["size"] == 0  # as earlier versions wrote where no size was given
    for name in ("metrics.json", "model.safetensors", "history.csv"):
        (run / name).unlink()
    resume_run(run)
    assert load_run(run).image_shape == (3, 36, 40)


def test_a_job_says_and_keeps_the_size_that_was_chosen(large: Path, tmp_path: Path) -> None:
    result = ok("loop", "init", tmp_path / "job", "--data", large)
    assert SAID in result.stderr
    line = "images          32 x 32 pixels for models (see --size of `loop init`); the page shows them as stored"
    assert line in result.stdout
    assert line in ok("loop", "status", tmp_path / "job").stdout
    job = open_job(tmp_path / "job")
    assert data_of(job.path / "job.toml")["size"] == 32
    assert job.images.shape == (12, 3, 32, 32)
    assert Pictures(job).shown(0)[0] == job.image_file(0).read_bytes()  # the original, at its own size
    assert job.image_file(0).suffix == ".png"


@pytest.mark.parametrize(("size", "shape"), [(0, (36, 40)), (16, (16, 16))])
def test_a_job_with_a_size_and_one_of_an_earlier_version_keep_theirs(
    large: Path, tmp_path: Path, size: int, shape: tuple[int, int]
) -> None:
    result = ok("loop", "init", tmp_path / "job", "--data", large, "--size", size)
    assert SAID not in result.stderr
    assert data_of(tmp_path / "job" / "job.toml")["size"] == size
    (tmp_path / "job" / "images.npy").unlink()  # made again from the files, at the size of the job
    assert open_job(tmp_path / "job").images.shape == (12, 3, *shape)
    status = json.loads(ok("loop", "status", tmp_path / "job", "--json").stdout)
    assert status["image_size"] == list(shape)


def test_a_size_in_the_recipe_is_that_of_the_job(large: Path, tmp_path: Path) -> None:
    recipe = load_recipe("images").with_overrides(["data.size=24"])
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    ok("loop", "init", tmp_path / "job", "--data", large, "--recipe", tmp_path / "mine.toml")
    assert open_job(tmp_path / "job").images.shape == (12, 3, 24, 24)


def test_a_study_keeps_its_size(large: Path, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise RunError("stopped before the first trial")

    monkeypatch.setattr(runner, "prepare", stop)
    recipe = tiny_recipe.with_overrides(["data.dataset=", f"data.path={large}"])
    settings = StudySettings(recipe=recipe.with_overrides(["data.size=-1"]), strategies=("random",), budgets=(2, 4), seeds=1)
    with pytest.raises(RunError, match="stopped"):
        runner.run_study(settings, tmp_path / "new")
    assert StudyFolder(tmp_path / "new").settings().recipe.data.size == 32

    shutil.copytree(tmp_path / "new", tmp_path / "old")
    old = settings.replace(recipe=recipe.with_overrides(["data.size=0"]))
    (tmp_path / "old" / "study.toml").write_text(old.to_toml(), encoding="utf-8")
    for folder, size in (("new", 32), ("old", 0)):
        with pytest.raises(RunError, match="stopped"):
            runner.run_study(settings, tmp_path / folder, resume=True)
        assert StudyFolder(tmp_path / folder).settings().recipe.data.size == size
    with pytest.raises(RunError, match=r"other settings: data\.size"):
        runner.run_study(settings.replace(recipe=recipe.with_overrides(["data.size=8"])), tmp_path / "old", resume=True)
