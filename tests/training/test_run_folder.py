"""The run folder: what stands in it, when it may be replaced, and what a crash in the middle leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.jobs import FINISHED_RUN

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.marks import ShardMark
from ssl_diffusion.errors import CheckpointError, DataError, Interrupted, RunError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.fit import FitOptions, fit_run, resume_run
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.run_folder import RunFolder, default_run_name, load_metrics
from ssl_diffusion.training.settings import TrainingSettings


class Crash(BaseException):
    """Like a process that dies: nothing catches it."""


def create(folder: RunFolder, recipe: Recipe, pool: Pool, seed: int = 0) -> LabeledSet:
    labeled = choose_labeled(pool, 6, seed=seed)
    folder.create(recipe, pool, labeled, pool.fingerprint())
    return labeled


def test_names_of_runs() -> None:
    assert default_run_name("fashion-mnist", 4000, TrainingSettings()) == "fashion-mnist-4000-s0"
    assert default_run_name("digits", 40, TrainingSettings(objective="labels-only", seed=3)) == "digits-40-labels-only-s3"
    assert default_run_name("digits", 0, TrainingSettings(objective="denoise-only", seed=1)) == "digits-denoise-only-s1"
    assert default_run_name("digits", 40, TrainingSettings(consistency="match")) == "digits-40-match-s0"


def test_created_folder_gives_back_what_went_in(tmp_path: Path, tiny_recipe: Recipe, small_pool: Pool) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    skipping = replace(small_pool, skipped=[("bad.png", "zero bytes")])
    labeled = create(folder, tiny_recipe, skipping)
    assert folder.recipe() == tiny_recipe
    assert folder.labeled(small_pool) == labeled
    folder.check_pool(small_pool, small_pool.fingerprint())
    assert not folder.finished
    assert (folder.path / "skipped.csv").read_text().splitlines() == ["id,reason", "bad.png,zero bytes"]
    names = {p.name for p in folder.path.iterdir()}
    assert names == {".ssld-run", "labeled.csv", "pool.json", "recipe.toml", "skipped.csv"}


def test_pool_differences_are_named(tmp_path: Path, tiny_recipe: Recipe, small_pool: Pool) -> None:
    folder = RunFolder(tmp_path)
    create(folder, tiny_recipe, small_pool)
    other = replace(small_pool, classes=("ant", "bee", "dog"), is_test=np.arange(60) >= 47)
    with pytest.raises(RunError, match=r"n_train: 48 -> 47; n_test: 12 -> 13; classes: .*'dog'.*fingerprint: "):
        folder.check_pool(other, other.fingerprint())


def test_a_shard_that_has_changed_is_named(tmp_path: Path, tiny_recipe: Recipe, small_pool: Pool) -> None:
    marks = tuple(ShardMark(f"s/{name}.parquet", name, 20) for name in "abc")
    folder, pool = RunFolder(tmp_path), replace(small_pool, shards=marks)
    recipe = tiny_recipe.replace(data=tiny_recipe.data.replace(test_fraction=0.2))
    create(folder, recipe, pool)
    assert (tmp_path / "held_out.csv").read_text().split() == ["id", *pool.ids[pool.is_test]]
    folder.check_pool(pool, pool.fingerprint())
    assert folder.changes(pool) == []
    other = replace(pool, shards=(*marks[:2], marks[2]._replace(digest="x")))
    assert folder.changes(other) == ["1 of 3 shards has another content: s/c.parquet"]
    with pytest.raises(RunError, match=r"fingerprint: .*; 1 of 3 shards has another content: s/c.parquet"):
        folder.check_pool(other, other.fingerprint())
    folder.check_free(overwrite=True)


@pytest.mark.parametrize("content", [None, "{"])
def test_folder_without_readable_pool_facts(tmp_path: Path, tiny_recipe: Recipe, small_pool: Pool, content: str | None) -> None:
    folder = RunFolder(tmp_path)
    create(folder, tiny_recipe, small_pool)
    (tmp_path / "pool.json").unlink()
    if content is not None:
        (tmp_path / "pool.json").write_text(content)
    with pytest.raises(RunError, match=r"(no readable pool\.json|pool\.json is damaged).*--overwrite"):
        folder.check_pool(small_pool, small_pool.fingerprint())


def test_what_is_no_run_folder_is_never_replaced(tmp_path: Path, tiny_recipe: Recipe, small_pool: Pool) -> None:
    free, empty, file, photos = (tmp_path / name for name in ("free", "empty", "file", "photos"))
    empty.mkdir()
    file.touch()
    photos.mkdir()
    (photos / "holiday.jpg").touch()
    RunFolder(free).check_free(overwrite=False)
    RunFolder(empty).check_free(overwrite=False)
    for path, overwrite, message in (
        (file, True, "file is a file"),
        (photos, False, "exists and is not a run folder; choose another --out"),
        (photos, True, "is not a run folder, so --overwrite will not delete it"),
    ):
        with pytest.raises(RunError, match=message):
            RunFolder(path).check_free(overwrite)
    assert (photos / "holiday.jpg").exists()
    create(RunFolder(empty), tiny_recipe, small_pool)
    with pytest.raises(RunError, match=f"continue it with --resume {empty}"):
        RunFolder(empty).check_free(overwrite=False)
    RunFolder(empty).check_free(overwrite=True)


@pytest.mark.parametrize("step", ["LabeledSet.save", "atomic_write_text", "shutil.rmtree"])
def test_crash_while_replacing_a_run_can_be_repeated(
    copy: Path, tiny_recipe: Recipe, small_pool: Pool, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = RunFolder(copy)
    (copy / "last").mkdir()

    def die(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(f"ssl_diffusion.training.run_folder.{step}", die)
        with pytest.raises(Crash):
            create(folder, tiny_recipe, small_pool)
    folder.check_free(overwrite=True)  # it is still known as a run folder
    assert not folder.finished
    with pytest.raises(RunError, match=r"no readable pool\.json"):
        folder.check_pool(small_pool, small_pool.fingerprint())
    labeled = create(folder, tiny_recipe, small_pool, seed=1)
    assert folder.labeled(small_pool) == labeled
    assert not (copy / "model.safetensors").exists()


def test_folder_that_cannot_be_created(tmp_path: Path, tiny_recipe: Recipe, small_pool: Pool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot create the run folder"):
        create(RunFolder(tmp_path / "file" / "run"), tiny_recipe, small_pool)


def test_finished_run_has_its_files_and_no_state(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == FINISHED_RUN
    metrics = load_metrics(run)
    assert (metrics["n_labeled"], metrics["n_unlabeled"], metrics["n_test"]) == (20, 1417, 360)
    assert metrics["val_accuracy"] in [k / 10 for k in range(11)]


@pytest.mark.usefixtures("no_pictures")
def test_reconstructions_are_of_images_from_the_whole_test_split(
    tiny_recipe: Recipe, digits_pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []

    def draw(model: object, images: np.ndarray, **_: object) -> Figure:
        drawn.append(images)
        return Figure(figsize=(1, 1))

    monkeypatch.setattr("ssl_diffusion.training.figures.reconstruction_figure", draw)
    fit_run(tiny_recipe.with_overrides(["labels.budget=20"]), tmp_path / "run")
    test = digits_pool.test
    np.testing.assert_array_equal(drawn[0], digits_pool.images[test[[0, 39, 79, 119, 159, 199, 239, 279, 319, 359]]])


@pytest.mark.usefixtures("no_pictures")
def test_resolved_recipe_repeats_the_run(run: Path, tmp_path: Path) -> None:
    recipe = RunFolder(run).recipe()
    assert recipe.labels.budget == 20
    assert (recipe.augmentation.policy, recipe.augmentation.flip) == ("digits", "off")
    again = fit_run(recipe, tmp_path / "again")
    first, second = (load_tensors(path / "model.safetensors")[0] for path in (run, again))
    assert all(t.equal(second[name]) for name, t in first.items())
    assert (again / "labeled.csv").read_text() == (run / "labeled.csv").read_text()


def test_loaded_run_predicts_as_its_metrics_say(run: Path, digits_pool: Pool) -> None:
    opened = load_run(run, "cpu", "fp32")
    test = digits_pool.test
    p = opened.predict_proba(digits_pool.images[test])
    assert p.shape == (360, 10)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (p.argmax(axis=1) == digits_pool.labels[test]).mean() == pytest.approx(load_metrics(run)["test_accuracy"])
    assert opened.classes == tuple("0123456789")
    assert opened.represent(digits_pool.images[:3]).shape == (3, opened.model.n_features)
    assert not opened.model.training
    with pytest.raises(DataError, match=r"\(1, 9, 8\)"):
        opened.logits(np.zeros((1, 1, 9, 8), np.uint8))


def test_runs_that_cannot_be_loaded(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is not a run folder"):
        load_run(tmp_path / "empty")
    tensors, metadata = load_tensors(copy / "model.safetensors")
    for broken in ({}, {**metadata, "config": {**metadata["config"], "surprise": 1}}):
        save_tensors(copy / "model.safetensors", tensors, broken)
        with pytest.raises(CheckpointError, match=r"not made by this version|is damaged: config: field required"):
            load_run(copy)
    narrow = json.loads(json.dumps(metadata))
    narrow["config"]["model"]["channels"] = 4
    save_tensors(copy / "model.safetensors", tensors, narrow)
    with pytest.raises(CheckpointError, match="not made by this version"):
        load_run(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has no model yet; continue it with: ssld fit --resume"):
        load_run(copy)
    (copy / "metrics.json").unlink()
    with pytest.raises(RunError, match="is not finished; continue it with"):
        load_metrics(copy)


@pytest.mark.usefixtures("no_pictures")
def test_test_split_is_read_only_after_training(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run has looked at no test image: nothing can be chosen by it."""
    from ssl_diffusion.training import evaluate

    looked: list[int] = []
    original = evaluate.predict_logits
    monkeypatch.setattr(evaluate, "predict_logits", lambda *a, **k: looked.append(len(a[1])) or original(*a, **k))
    recipe = tiny_recipe.with_overrides(["labels.budget=20", "labels.val_fraction=0.5"])

    def stop(update: ProgressUpdate) -> None:
        if update.task == "training" and not looked and update.done >= update.total / 2:
            import signal

            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=f"ssld fit --resume {tmp_path / 'run'}"):
        fit_run(recipe, tmp_path / "run", options=FitOptions(progress=stop))
    assert not looked
    resume_run(tmp_path / "run")
    assert sorted(looked) == [10, 360]  # validation and test, once each
