"""The annotation loop through the command line: init, next, import, fit, status; what it keeps, and what it refuses."""

import json
import re
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.annotation_jobs import N, answer, asked, make_job, photos, status, truth
from support.commands import files, ok, refused, ssld, write_digits
from support.jobs import same

from ssl_diffusion.annotation.loop.current_model import present_model
from ssl_diffusion.annotation.loop.fit_state import FitState
from ssl_diffusion.annotation.loop.fits import Background, fit_job
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.rounds import next_round, rerank
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.loop.status import drawn_estimate, labels_per_hour
from ssl_diffusion.annotation.loop.stopping import advice, progress_of
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, Interrupted, RunError
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.models.weights import load_tensors
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_run
from ssl_diffusion.training.recipe import load_recipe


@pytest.fixture
def job(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> Job:
    return make_job(tmp_path, digits_pool, tiny, "--n", 20, "--audit", 10)


@pytest.mark.usefixtures("no_pictures")
def test_from_a_folder_to_labels_to_a_model(job: Job, digits_pool: Pool) -> None:
    assert status(job)["counts"] == {
        "samples": N, "open": N, "partial": 0, "labeled": 0, "disputed": 0, "skipped": 0, "flagged": 0
    }  # fmt: skip
    first = ok("loop", "next", job.path)
    assert "principal components of the pixels" in first.stdout
    assert "typiclust" in first.stdout
    batch = pd.read_csv(job.path / "batches" / "round-001.csv", dtype={"id": str})
    assert len(batch) == 20
    assert batch["id"].is_unique
    audit = set(job.store.ids[job.store.of_role("audit")])
    assert len(set(batch["id"]) & audit) == 4  # a fifth
    answer(job, digits_pool)
    said = status(job)
    assert said["counts"]["labeled"] == 20  # type: ignore[index]
    assert said["waiting"] == 0
    assert said["new_labels"] == 16  # those of the audit train nothing
    assert said["audit"]["n"] == 4  # type: ignore[index]
    again = asked(job, "--strategy", "margin", "--out", job.path.parent / "mine.csv")
    assert not set(again) & set(batch["id"])
    assert pd.read_csv(job.path.parent / "mine.csv", dtype={"id": str})["id"].tolist() == again
    answer(job, digits_pool, 10)
    ok("loop", "fit", job.path, "--threads", 1)
    table = pd.read_csv(job.path / "models" / "001.csv", dtype=str, keep_default_na=False)
    assert len(table) == N
    labeled = table[table["label"] != ""]
    assert set(labeled["path"]) == set(job.store.ids[queries.labels(job.store, "pool")[0]])
    assert all(truth(digits_pool, path) == label for path, label in zip(labeled["path"], labeled["label"], strict=True))
    assert load_run(job.path / "models" / "001").classes == tuple(sorted(set(labeled["label"])))
    said = status(job)
    assert said["model"] == "joint model 001"
    assert said["new_labels"] == 0
    model = present_model(job)
    classifier = take_snapshot(job, model).classifier
    assert classifier is not None
    assert classifier.probe is None
    own = load_run(job.path / "models" / "001")
    some = np.arange(5)
    p = classifier.probabilities(some)
    np.testing.assert_allclose(p[:, classifier.numbers], own.predict_proba(job.images[some]), atol=2e-2)
    chosen = json.loads(ok("loop", "next", job.path, "--json").stdout)
    assert chosen["strategy"] in ("uherding", "typiclust")
    queries.check(job.store)


@pytest.mark.usefixtures("no_pictures")
def test_pretraining_first_and_probes_on_it(job: Job, digits_pool: Pool) -> None:
    ok("loop", "fit", job.path, "--pretrain", "--threads", 1)
    assert status(job)["model"] == "denoise-only model 001"
    asked(job)
    answer(job, digits_pool)
    model = present_model(job)
    classifier = take_snapshot(job, model).classifier
    assert classifier is not None
    assert classifier.probe is not None
    known, classes = queries.labels(job.store, "pool")
    assert (classifier.probabilities(known).argmax(axis=1) == classes).mean() > 0.9  # a probe fits its few labels
    made = next_round(job, 6, "counterfactual")
    assert made.strategy == "counterfactual"
    assert made.batch is not None
    assert all("distance" in line for line in made.batch.reasons)


def test_strategies_that_look_at_images_wait_for_a_model(job: Job, digits_pool: Pool) -> None:
    asked(job, "--n", 30)
    answer(job, digits_pool)
    for strategy in ("counterfactual", "latent-mix"):
        assert "model" in refused("loop", "next", job.path, "--strategy", strategy)
    assert job.busy_with("next") is None


def test_init_begins_to_pretrain_in_the_background(
    tmp_path: Path, digits_pool: Pool, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = Background.start

    def note(self: Background, **options: bool) -> bool:
        done = start(self, **options)
        assert self.process is not None
        started.append(self.process)
        return done

    monkeypatch.setattr(Background, "start", note)
    monkeypatch.setattr("ssl_diffusion.annotation.loop.fits._PROGRESS_EVERY", 0)
    job = make_job(tmp_path, digits_pool, [*tiny, "--set", "pretraining.steps=40"], "--n", 6, "--pretrain")
    assert status(job)["model"].startswith("principal components")
    asked(job)  # labeling begins at once
    (process,) = started
    seen, code = False, None
    while code is None:
        seen = seen or dict(status(job)["fit"])["state"] == "running"
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(0.25)
    log = (job.path / "fit.log").read_text()
    assert code == 0, log
    assert seen
    assert re.search(r"^pretraining \d+%", log, re.MULTILINE), log
    assert status(job)["model"] == "denoise-only model 001"
    ids = asked(job)
    assert len(ids) == 6
    assert next_round(job).model == "denoise-only model 001"


def test_the_queue_follows_new_labels_and_the_audit_keeps_its_place(job: Job, digits_pool: Pool) -> None:
    asked(job)
    assert not rerank(take_snapshot(job))  # there are no labels
    answer(job, digits_pool)
    asked(job, "--strategy", "random")
    before = leases.pending(job.store)
    audit = set(job.store.of_role("audit").tolist())
    assert rerank(take_snapshot(job))
    after = leases.pending(job.store)
    assert set(after) == set(before)
    classifier = take_snapshot(job, fast=True).classifier
    assert classifier is not None
    drawn = np.array([i for i in after if i not in audit])
    p = np.sort(classifier.probabilities(drawn), axis=1)
    assert (np.diff(p[:, -1] - p[:, -2]) >= -1e-6).all()


def test_what_is_half_labeled_or_disputed_is_asked_for_again(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    job = make_job(tmp_path, digits_pool, tiny, "--agreement", 2, "--n", 4)
    first = asked(job)
    job.store.label(first[0], "3", Actor("ann"))
    job.store.label(first[1], "3", Actor("ann"))
    job.store.label(first[1], "4", Actor("bob"))
    second = asked(job)
    assert second[-2:] == first[:2] or set(first[:2]) <= set(second)
    rows = leases.batch_of(job.store, 2)
    assert [row["id"] for row in rows[:2]] == first[:2]
    assert rows[0]["note"] == "carried over from the last round"


def test_draws_by_chance_measure_the_model(job: Job, digits_pool: Pool) -> None:
    asked(job)
    answer(job, digits_pool)
    assert drawn_estimate(take_snapshot(job, fast=True)) is None  # typiclust does not draw by chance
    made = next_round(job, 30, "margin:sampled")
    assert made.batch is not None
    assert drawn_estimate(take_snapshot(job, fast=True)) is None  # nothing has a label yet
    answer(job, digits_pool)
    found = drawn_estimate(take_snapshot(job, fast=True))
    assert found is not None
    assert found.n == len(made.batch)
    assert found.low <= found.accuracy <= found.high
    next_round(job, 20, "random")
    answer(job, digits_pool)
    by_chance = drawn_estimate(take_snapshot(job, fast=True))
    assert by_chance is not None
    rows = [row for row in leases.batch_of(job.store, 3) if row["draw"]]
    assert by_chance.accuracy == pytest.approx(np.mean([row["label"] == row["predicted"] for row in rows]))


@pytest.mark.usefixtures("no_pictures")
def test_known_labels_are_taken_over_and_a_test_split_is_left_alone(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    data = tmp_path / "data"
    write_digits(data / "train", digits_pool, range(60))
    write_digits(data / "test", digits_pool, range(60, 70))
    for i in range(80, 95):
        shutil.copy(photos(tmp_path / f"p{i}", digits_pool, 1) / "0000.png", data / "train" / f"{i}.png")
    ok("loop", "init", tmp_path / "job", "--data", data, "--folders", "classes", "--n", 10, *tiny)
    job = open_job(tmp_path / "job")
    assert len(queries.labels(job.store, "pool")[0]) == 60
    assert len(queries.labels(job.store, "test")[0]) == 10
    ids = asked(job)
    assert all(id_.startswith("train/") and id_.count("/") == 1 for id_ in ids)
    ok("loop", "fit", job.path, "--threads", 1)
    metrics = json.loads((job.path / "models" / "001" / "metrics.json").read_text())
    assert metrics["n_test"] == 10
    assert metrics["n_labeled"] == 60


@pytest.mark.usefixtures("no_pictures")
def test_a_fit_that_was_killed_is_continued(job: Job, digits_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(job)
    answer(job, digits_pool)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ssl_diffusion.annotation.loop.fits.publish", dies)
        with pytest.raises(KeyboardInterrupt):
            fit_job(job)
    assert status(job)["model"] == "principal components of the pixels (no model yet)"
    assert fit_job(job) == "001"  # the labels are the same
    asked(job)
    answer(job, digits_pool)
    assert fit_job(job) == "002"
    assert status(job)["model"] == "joint model 002"


@pytest.mark.usefixtures("no_pictures")
def test_a_fit_takes_the_pixels_of_the_job_and_is_the_run_of_its_table(
    tmp_path: Path, digits_pool: Pool, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    write_digits(data / "train", digits_pool, range(40))
    write_digits(data / "test", digits_pool, range(40, 60))
    ok("loop", "init", tmp_path / "job", "--data", data, "--folders", "classes", "--set", "model.stem=1", *tiny)
    job = open_job(tmp_path / "job")
    positions, classes = queries.labels(job.store, "pool")
    for id_ in job.store.ids[positions[classes == np.bincount(classes).argmax()][:2]]:
        job.store.unlabel(str(id_), Actor("data"))
    cache = DenoiserCache(tmp_path / "cache")
    data.rename(tmp_path / "unplugged")
    with monkeypatch.context() as patch:

        def interrupted(*_: object, **__: object) -> None:
            raise Interrupted("stopped")

        for phase in ("pretraining", "objective_fits"):
            patch.setattr(f"ssl_diffusion.training.{phase}.train", interrupted)
        with pytest.raises(Interrupted):
            fit_job(job, options=FitOptions(cache=cache))
    assert fit_job(job, options=FitOptions(cache=cache)) == "001"  # resumed, also without any file
    (tmp_path / "unplugged").rename(data)
    path = job.path / "models" / "001"
    again = fit_run(load_recipe(path / "recipe.toml"), tmp_path / "again", options=FitOptions(cache=None))
    assert same(*(load_tensors(run / "model.safetensors")[0] for run in (path, again)))
    assert (path / "labeled.csv").read_text() == (again / "labeled.csv").read_text()
    assert json.loads((path / "pool.json").read_text()) == json.loads((again / "pool.json").read_text())
    assert json.loads(ok("evaluate", path, "--json").stdout)["n"] == 20
    ok("query", path, "--strategy", "random", "--n", 1, "--out", tmp_path / "batch.csv")
    # Files that are changed since are reported; the model is that of the old pixels.
    shutil.copy(job.image_file(int(positions[0])), job.image_file(int(positions[-1])))
    assert "have changed since" in ssld("evaluate", path, "--json").stderr


def test_a_test_split_with_a_class_that_training_lacks_is_refused(tmp_path: Path, digits_pool: Pool, tiny: list[str]) -> None:
    write_digits(tmp_path / "data" / "train", digits_pool, range(40))
    write_digits(tmp_path / "data" / "test", digits_pool, range(40, 60))
    ok("loop", "init", tmp_path / "job", "--data", tmp_path / "data", "--folders", "classes", *tiny)
    job = open_job(tmp_path / "job")
    threes = [str(job.store.ids[i]) for i, k in zip(*queries.labels(job.store, "pool"), strict=True) if k == 3]
    for id_ in threes:
        job.store.unlabel(id_, Actor("data"))
    with pytest.raises(DataError, match="images of '3', but no sample for training"):
        fit_job(job)
    assert not list((job.path / "models").glob("*.csv"))


@pytest.mark.slow
def test_a_fit_in_the_background_that_fails_is_said_and_harms_nothing(job: Job) -> None:
    fits = Background(job)
    assert fits.state() == FitState()
    assert fits.start()
    assert not fits.start()
    assert fits.process is not None
    fits.process.wait(timeout=120)
    found = fits.state()
    assert found.state == "failed"
    assert found.message.startswith(str(job.path.resolve()))
    assert "labels of 0 classes" in found.message
    assert not (job.path / "model.json").exists()
    assert asked(job)


def test_one_process_at_a_time_and_the_other_is_named(job: Job) -> None:
    with job.alone("next"):
        message = refused("loop", "next", job.path)
    assert "is in use: next by process" in message
    assert asked(job)
    entered = threading.Event()

    def hold() -> None:
        with job.alone("fit"):
            entered.set()
            release.wait(10)

    release = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with pytest.raises(RunError, match="fit by process"):
        fit_job(job)
    release.set()
    thread.join()


def test_moved_images_are_found_again(job: Job, tmp_path: Path) -> None:
    asked(job)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="ssld loop move"):
        job.image_file(0)
    (tmp_path / "empty").mkdir()
    assert "90 of 90 images are missing in" in refused("loop", "move", job.path, "--data", tmp_path / "empty")
    ok("loop", "move", job.path, "--data", tmp_path / "elsewhere")
    again = open_job(job.path)
    assert again.image_file(0).is_file()
    assert again.store.ids.tolist() == job.store.ids.tolist()


def test_advice_has_its_figures(job: Job, digits_pool: Pool) -> None:
    asked(job)
    answer(job, digits_pool)
    for _ in range(4):
        asked(job, "--n", 2)
    job.settings.__dict__["budget"] = 100
    said = advice(take_snapshot(job))
    assert "84 labels of the budget of 100 are left" in said
    table = progress_of(job)
    assert table["round"].tolist() == [1, 2, 3, 4, 5]
    assert (table["kappa"].dropna() == 1).all()  # no label came between
    assert any("predictions have stabilized" in line for line in said)
    job.settings.__dict__["budget"] = 10
    assert "the budget of 10 labels is used up" in advice(take_snapshot(job))


def test_speed_leaves_pauses_out(job: Job) -> None:
    assert labels_per_hour(job) is None
    with job.store.writing() as connection:
        from ssl_diffusion.annotation.store import schema

        times = [0, 10, 20, 30, 5000, 5010, 5020]
        common = {"kind": "labeled", "position": 0, "annotator": "ann", "final": False, "source": "page"}
        rows = [{"number": i + 1, "at": float(at), **common} for i, at in enumerate(times)]
        connection.execute(schema.events.insert(), rows)
    assert labels_per_hour(job) == pytest.approx(360)
    with job.store.writing() as connection:  # what a program gives says nothing about people
        rows = [{"number": 10 + i, "at": 5020 + i / 1000, **common} for i in range(900)]
        connection.execute(schema.events.insert(), rows)
    assert labels_per_hour(job) is None


def test_what_cannot_be_made_or_chosen_leaves_nothing(job: Job, tmp_path: Path, tiny: list[str], digits_pool: Pool) -> None:
    before = files(tmp_path)
    data = tmp_path / "photos"
    assert "holds a job" in refused("loop", "init", job.path, "--data", data)
    assert "does not exist" in refused("loop", "init", tmp_path / "new", "--data", tmp_path / "nothing")
    assert "leaves none" in refused("loop", "init", tmp_path / "new", "--data", data, "--audit", N)
    assert "did you mean margin" in refused("loop", "init", tmp_path / "new", "--data", data, "--strategy", "margn")
    assert "not a valid class name" in refused("loop", "init", tmp_path / "new", "--data", data, "--classes", "cat,,dog")
    assert "is not a job folder" in refused("loop", "next", tmp_path)
    assert "labels of two classes" in refused("loop", "next", job.path, "--strategy", "margin")
    assert "label samples of two or more first" in refused("loop", "fit", job.path)
    now = files(tmp_path)
    assert {k: v for k, v in now.items() if not k.startswith("job/")} == {
        k: v for k, v in before.items() if not k.startswith("job/")
    }
    assert "new" not in {p.name for p in tmp_path.iterdir()}
    for id_ in job.store.ids:
        job.store.label(str(id_), "3", Actor("ann"))
    assert "nothing is left to choose" in refused("loop", "next", job.path)
