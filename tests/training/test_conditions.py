"""What decides the weights beside recipe, images and labels belongs to a run, and a resumed run goes on with it."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import processes
from support.jobs import TINY_RUN, same

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import StateError
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.conditions import Conditions, RunConditions, resumed_conditions, using_threads
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model, fit_run, resume_run
from ssl_diffusion.training.recipe import Recipe, load_recipe
from ssl_diffusion.training.run_folder import RunFolder, load_metrics


class KilledError(Exception):
    """A fit that ends at once, as by kill -9: nothing is written after it."""


def killed_in(phase: str) -> Callable[[ProgressUpdate], None]:
    """A progress callback that ends a fit in the third step of a phase."""
    steps = []

    def stop(update: ProgressUpdate) -> None:
        if update.task == phase:
            steps.append(update.done)
            if len(steps) == 3:
                raise KilledError

    return stop


@pytest.fixture(scope="module")
def recipe(tiny_settings: tuple[str, ...]) -> Recipe:
    cpu = ("compute.accelerator=cpu", "compute.precision=fp32", "labels.budget=20")
    return load_recipe("digits").with_overrides([*tiny_settings, *cpu])


@pytest.fixture(scope="module")
def whole(recipe: Recipe, digits_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, without a cache; not to be changed."""
    return fit_run(recipe, tmp_path_factory.mktemp("whole") / "run", pool=digits_pool)


@pytest.fixture(scope="module")
def made(recipe: Recipe, digits_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The denoiser of the recipe, in a cache of its own; not to be changed."""
    cache = DenoiserCache(tmp_path_factory.mktemp("made"))
    fit_model(recipe.with_setting("training.objective", "denoise-only"), digits_pool, None, options=FitOptions(cache))
    (path,) = cache.folder.glob("*.safetensors")
    return path


def kill(recipe: Recipe, pool: Pool, run: Path, phase: str, cache: DenoiserCache | None) -> None:
    options = FitOptions(cache=cache, checkpoint_every=0.0, progress=killed_in(phase))
    with pytest.raises(KilledError):
        fit_run(recipe, run, pool=pool, options=options)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "model.safetensors")[0]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def put_other(cache: DenoiserCache, made: Path) -> Path:
    """Put a denoiser of other conditions into a cache: one that differs far more than threads make it differ."""
    tensors, metadata = load_tensors(made)
    other = {"accelerator": "cpu", "precision": "fp32", "threads": 2, "devices": 1}
    save_tensors(cache.folder / made.name, {name: t + 0.01 for name, t in tensors.items()}, metadata | {"made_with": other})
    return cache.folder / made.name


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_a_cache_is_resumed_without_it(
    recipe: Recipe, digits_pool: Pool, tmp_path: Path, whole: Path, made: Path
) -> None:
    cache, run = DenoiserCache(tmp_path / "cache"), tmp_path / "run"
    path = put_other(cache, made)
    kept = path.read_bytes()
    kill(recipe, digits_pool, run, "pretraining", None)
    resume_run(run, pool=digits_pool, options=FitOptions(cache=cache))
    assert same(weights(run), weights(whole))
    assert path.read_bytes() == kept
    assert load_metrics(run)["pretraining"]["cached"] is False


@pytest.mark.usefixtures("no_pictures")
def test_a_denoiser_of_other_conditions_that_came_meanwhile_is_not_used(
    recipe: Recipe,
    digits_pool: Pool,
    tmp_path: Path,
    whole: Path,
    made: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache, run = DenoiserCache(tmp_path / "cache"), tmp_path / "run"
    kill(recipe, digits_pool, run, "pretraining", cache)
    path = put_other(cache, made)
    kept = path.read_bytes()
    resume_run(run, pool=digits_pool, options=FitOptions(cache=cache))
    (warning,) = warnings(caplog)
    assert warning.endswith("the run makes its own")
    assert same(weights(run), weights(whole))
    assert path.read_bytes() == kept
    assert [p.name for p in cache.folder.iterdir()] == [path.name]  # the unfinished state is gone


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_the_denoiser_that_a_run_has_used_is_used_again(
    recipe: Recipe,
    digits_pool: Pool,
    tmp_path: Path,
    whole: Path,
    made: Path,
    caplog: pytest.LogCaptureFixture,
    change: str,
) -> None:
    cache, run = DenoiserCache(tmp_path / "cache"), tmp_path / "run"
    kill(recipe, digits_pool, run, "training", cache)
    if change == "replaced":
        put_other(cache, made)
    else:
        next(cache.folder.glob("*.safetensors")).unlink()
    seen: list[ProgressUpdate] = []
    resume_run(run, pool=digits_pool, options=FitOptions(cache=cache, progress=seen.append))
    assert not warnings(caplog)
    assert same(weights(run), weights(whole))
    assert not [u for u in seen if u.task == "pretraining"]
    first, second = load_metrics(run), load_metrics(whole)
    assert first["images_seen"] == second["images_seen"]  # the pretraining was this run's own, before and after the kill


@pytest.mark.usefixtures("no_pictures")
def test_a_denoiser_of_other_conditions_that_was_there_is_used_and_kept(
    recipe: Recipe, digits_pool: Pool, tmp_path: Path, made: Path
) -> None:
    cache, run = DenoiserCache(tmp_path / "cache"), tmp_path / "run"
    put_other(cache, made)
    uninterrupted = fit_run(recipe, tmp_path / "reference", pool=digits_pool, options=FitOptions(cache=cache))
    kill(recipe, digits_pool, run, "training", cache)
    (run / "last" / "denoiser.safetensors").unlink()  # killed before it was there: the cache still has the same file
    resume_run(run, pool=digits_pool, options=FitOptions(cache=cache))
    assert same(weights(run), weights(uninterrupted))


@pytest.mark.parametrize("asked", [0, 1])
def test_threads_are_those_of_the_run_and_others_are_a_warning(
    recipe: Recipe,
    digits_pool: Pool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
) -> None:
    run, seen = tmp_path / "run", []
    monkeypatch.setattr("ssl_diffusion.training.fit._complete", lambda *_: seen.append(torch.get_num_threads()))
    with using_threads(2):
        fit_run(recipe, run, pool=digits_pool)
    requested = RunFolder(run).recipe()
    resume_run(run, requested.with_setting("compute.threads", asked), pool=digits_pool)
    assert seen == [2, asked or 2]
    assert torch.get_num_threads() == 1
    expected = [f"{run} goes on with other conditions than it began with (threads: 2 -> 1), so its weights will differ"]
    assert [text.partition(" in their last bits")[0] for text in warnings(caplog)] == (expected if asked else [])


@pytest.mark.parametrize(("name", "there"), [("accelerator", "cuda"), ("precision", "bf16"), ("devices", 2)])
def test_other_conditions_are_kept_where_they_can_be(
    recipe: Recipe, caplog: pytest.LogCaptureFixture, name: str, there: object
) -> None:
    if there == "cuda" and torch.cuda.is_available():
        pytest.skip("there is such a device")
    values = {"accelerator": "cpu", "precision": "fp32", "threads": 1, "cache": False, name: there}
    auto = recipe.compute.replace(accelerator="auto", precision="auto")
    compute, threads = resumed_conditions(Path("run"), RunConditions.model_validate(values), auto, auto)
    assert threads == 1
    if name == "accelerator":  # not on this machine
        assert compute.accelerator == "auto"
        assert ["accelerator: cuda -> " in text for text in warnings(caplog)] == [True]
    else:
        assert getattr(compute, name) == there
        assert not warnings(caplog)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"threads": 0}', '{"threads": "x"}'])
def test_damaged_conditions_are_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "conditions.json"
    assert RunConditions.read(path) is None
    path.write_text(text)
    with pytest.raises(StateError, match=r"conditions\.json .*; fit again with --overwrite"):
        RunConditions.read(path)


def test_conditions_of_this_process(recipe: Recipe) -> None:
    here = Conditions.here(recipe.compute)
    assert here == Conditions(accelerator="cpu", precision="fp32", threads=1)
    with using_threads(2):
        assert here.differences(Conditions.here(recipe.compute)) == ["threads: 1 -> 2"]
        assert here.key() != Conditions.here(recipe.compute).key()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_without_a_cache_beside_one_made_with_two_threads(tmp_path: Path) -> None:
    cache, run, whole, log = (tmp_path / name for name in ("cache", "run", "whole", "log.txt"))

    def ssld(*arguments: object, threads: int = 1) -> None:
        command = [sys.executable, "-m", "ssl_diffusion.cli", "fit", *map(str, arguments), "--quiet", "--cache-dir", str(cache)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    ssld(*TINY_RUN, "--threads", 2, "--out", tmp_path / "two", threads=2)
    (made,) = (cache / "denoisers").glob("*.safetensors")
    assert load_tensors(made)[1]["made_with"]["threads"] == 2
    ssld(*TINY_RUN, "--no-cache", "--out", whole)
    process = processes.start(["fit", *TINY_RUN, "--no-cache", "--checkpoint-every", "0", "--out", str(run)], log)
    processes.wait_for((run / "last" / "pretraining.safetensors").exists, process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    assert not (run / "last" / "checkpoint.safetensors").exists()
    ssld("--resume", run)
    assert same(weights(run), weights(whole))
    assert json.loads((run / "metrics.json").read_text())["pretraining"]["cached"] is False
