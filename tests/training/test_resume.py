"""The loop survives interrupts and kill -9: what is continued ends bit-identical to what was never stopped."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import processes
from support.jobs import TINY_RUN, equal, make_job, same

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import CheckpointError, Interrupted
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.weights import load_tensors
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.recipe import Recipe


@pytest.fixture(scope="module")
def labeled(digits_pool: Pool) -> LabeledSet:
    return choose_labeled(digits_pool, 20, seed=0)


class Stopper:
    """A progress callback that acts in the middle of a phase, once."""

    def __init__(self, phase: str, step: int, action: Callable[[], None]) -> None:
        self.phase, self.step, self.action, self.calls = phase, step, action, 0

    def __call__(self, update: ProgressUpdate) -> None:
        if update.task == self.phase:
            self.calls += 1
            if self.calls == self.step:
                self.action()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def crash() -> None:
    raise RuntimeError("crash")


# ---- interrupted and continued


@pytest.mark.parametrize(
    ("action", "cached", "phase"),
    [  # every pair of two in the default suite, the other combinations in -m slow
        (interrupt, True, "pretraining"),
        (interrupt, False, "training"),
        (crash, True, "training"),
        (crash, False, "pretraining"),
        pytest.param(interrupt, True, "training", marks=pytest.mark.slow),
        pytest.param(interrupt, False, "pretraining", marks=pytest.mark.slow),
        pytest.param(crash, True, "pretraining", marks=pytest.mark.slow),
        pytest.param(crash, False, "training", marks=pytest.mark.slow),
    ],
)
def test_continued_fit_ends_bit_identical(
    tiny_recipe: Recipe,
    digits_pool: Pool,
    labeled: LabeledSet,
    tmp_path: Path,
    action: Callable[[], None],
    cached: bool,
    phase: str,
) -> None:
    recipe = tiny_recipe.with_overrides(["model.dropout=0.1", "model.head_dropout=0.3", "training.ema=0.5"])
    reference = fit_model(recipe, digits_pool, labeled)
    cache = DenoiserCache(tmp_path / "cache") if cached else None
    # After an interrupt the state of this very step is saved; a crash leaves that of the step before.
    options = FitOptions(cache=cache, checkpoint_every=1e9 if action is interrupt else 0.0, progress=Stopper(phase, 3, action))
    expected = (
        pytest.raises(Interrupted, match=f"stopped at step 3 of . of {phase}")
        if action is interrupt
        else pytest.raises(RuntimeError, match="crash")
    )
    handler = signal.getsignal(signal.SIGINT)
    with expected:
        fit_model(recipe, digits_pool, labeled, checkpoints=tmp_path / "last", options=options)
    seen: list[ProgressUpdate] = []
    continued = fit_model(
        recipe, digits_pool, labeled, checkpoints=tmp_path / "last", options=FitOptions(cache=cache, progress=seen.append)
    )
    assert equal(continued, reference)
    assert len([u for u in seen if u.task == phase]) == (4 if phase == "pretraining" else 6) - (3 if action is interrupt else 2)
    assert continued.training.images_seen == reference.training.images_seen
    alone = [row["seconds_alone"] for row in continued.history if row["phase"] == phase]
    assert alone == sorted(alone)  # what was counted before the stop is not lost
    assert signal.getsignal(signal.SIGINT) is handler


def test_interrupt_in_the_last_step_is_too_late_to_stop(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    fitted = fit_model(tiny_recipe, digits_pool, labeled, options=FitOptions(progress=Stopper("training", 6, interrupt)))
    assert fitted.training.steps == 6
    assert equal(fitted, fit_model(tiny_recipe, digits_pool, labeled))


def test_finished_phase_is_not_run_again(tmp_path: Path) -> None:
    job = make_job(checkpoint=tmp_path / "c.safetensors", identity="x")
    first = train(job)
    seen: list[ProgressUpdate] = []
    again = train(job, seen.append)
    assert not seen
    assert same(first.ema, again.ema)
    assert same(first.raw, again.raw)
    assert again.history == first.history


@pytest.mark.parametrize("change", [{"identity": "other"}, {"name": "pretraining"}])
def test_checkpoint_of_another_job_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    job = make_job(checkpoint=tmp_path / "c.safetensors", identity="x")
    train(job)
    with pytest.raises(CheckpointError, match=r"c\.safetensors was made with other settings, data or labels"):
        train(replace(job, **change))  # type: ignore[arg-type]


def test_state_of_another_fit_is_refused(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit_model(
            tiny_recipe,
            digits_pool,
            labeled,
            checkpoints=tmp_path,
            options=FitOptions(progress=Stopper("training", 2, interrupt)),
        )
    others = [
        (tiny_recipe.with_overrides(["training.learning_rate=1e-4"]), labeled),
        (tiny_recipe, choose_labeled(digits_pool, 20, seed=1)),
    ]
    for recipe, labels in others:
        with pytest.raises(CheckpointError, match="other settings, data or labels"):
            fit_model(recipe, digits_pool, labels, checkpoints=tmp_path)


def test_weights_that_do_not_fit_are_refused() -> None:
    job = make_job()
    weights = dict(build_model(job.config, 0).state_dict())
    del weights["unet.stem.weight"]
    with pytest.raises(CheckpointError, match="1 missing, 0 unexpected"):
        build_model(job.config, 0, weights)
    without_head = {name: t for name, t in build_model(job.config, 0).state_dict().items() if not name.startswith("head.")}
    assert same(dict(build_model(job.config, 0, without_head).state_dict()), dict(build_model(job.config, 0).state_dict()))


# ---- killed


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("cached", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["cache", "no cache"])
def test_killed_at_any_moment_ends_bit_identical(tmp_path: Path, cached: bool) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")] if cached else ["--no-cache"]
    run, log = tmp_path / "run", tmp_path / "log.txt"
    state, last = tmp_path / "cache" / "denoisers" if cached else run / "last", run / "last"
    fit = ["fit", *TINY_RUN, *cache, "--checkpoint-every", "0", "--out", str(run)]
    resume = ["fit", "--resume", str(run), *cache, "--checkpoint-every", "0", "--quiet"]

    def steps(folder: Path, pattern: str) -> int:
        """Step of the only checkpoint of this name; also checks that a file under its final name is always whole."""
        paths = [p for p in folder.glob(pattern) if not p.name.startswith(".")]
        try:
            return int(load_tensors(paths[0])[1]["steps"]) if paths else 0
        except CheckpointError:
            assert not paths[0].exists()  # a finished pretraining has just been moved to its final name
            return 99

    pretraining, training = "*.partial.safetensors" if cached else "pretraining.safetensors", "checkpoint.safetensors"
    rng = np.random.default_rng(int(cached))
    some_step, some_delay = rng.integers(3, 9), rng.uniform(0, 0.02)

    def at(folder: Path, pattern: str, first: int, last: int) -> bool:
        """While a state is being written, after the `first` step and, should every write be missed, after the `last`."""
        return (processes.being_written(folder) and steps(folder, pattern) >= first) or steps(folder, pattern) >= last

    def at_random() -> bool:
        if steps(last, training) < some_step:
            return False
        time.sleep(some_delay)
        return True

    moments: list[tuple[str, Callable[[], bool]]] = [
        ("while the first state of pretraining is written", lambda: at(state, pretraining, 0, 1)),
        ("while a later one is written", lambda: at(state, pretraining, 2, 5)),
        ("while a state of training is written", lambda: last.exists() and at(last, training, 1, 2)),
        ("at some moment", at_random),
        ("after training, before its figures", lambda: (run / "model.safetensors").exists()),
    ]
    for when, condition in moments:
        process = processes.start(resume if run.exists() else fit, log)
        processes.wait_for(condition, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"{when}: {log.read_text()}"
        assert not (run / "metrics.json").exists(), when
    process = processes.start(resume, log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    whole = tmp_path / "whole"
    process = processes.start(["fit", *TINY_RUN, "--no-cache", "--out", str(whole)], log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    killed, uninterrupted = (load_tensors(folder / "model.safetensors")[0] for folder in (run, whole))
    assert same(killed, uninterrupted)
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_continue(tmp_path: Path, number: int) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    process = processes.start(
        ["fit", *TINY_RUN, "--set", "training.steps=100000", "--no-cache", "--checkpoint-every", "0", "--out", str(run)], log
    )
    processes.wait_for(lambda: (run / "last" / "checkpoint.safetensors").exists(), process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == 130, log.read_text()
    assert log.read_text().splitlines()[-1].endswith(f"of training; continue with: ssld fit --resume {run}")
    assert load_tensors(run / "last" / "checkpoint.safetensors")[1]["steps"] > 0
