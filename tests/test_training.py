"""The loop: it learns, repeats bit for bit, and survives interrupts, kill -9, damaged state and bad numbers."""

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from torch import Tensor

from ssl_diffusion import job, training
from ssl_diffusion.augment import Augmentation
from ssl_diffusion.cache import DenoiserCache
from ssl_diffusion.checkpoint import load_tensors
from ssl_diffusion.errors import CheckpointError, Interrupted, RecipeError, SSLDError
from ssl_diffusion.fitting import FitOptions, Fitted, fit_model
from ssl_diffusion.job import Job, TrainingData, derive_seed
from ssl_diffusion.joint import JointConfig
from ssl_diffusion.pool import LabeledSet, Pool, choose_labeled
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.recipe import ComputeSettings, PhaseSettings, Recipe, TrainingSettings
from ssl_diffusion.training import build_model, check_divisible, train
from ssl_diffusion.unet import UNetConfig

CPU = ComputeSettings(accelerator="cpu", precision="fp32")


@pytest.fixture(scope="module")
def labeled(digits_pool: Pool) -> LabeledSet:
    return choose_labeled(digits_pool, 20, seed=0)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


def equal(first: Fitted, second: Fitted) -> bool:
    return same(first.ema, second.ema) and same(first.raw, second.raw)


def make_job(settings: PhaseSettings | None = None, **changes: object) -> Job:
    """Twelve images of noise, six of them labeled, on a tiny network."""
    rng = np.random.default_rng(0)
    job = Job(
        name="training",
        objective="joint",
        config=JointConfig(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, groups=4), n_classes=3, image_shape=(1, 6, 6)),
        initial=None,
        data=TrainingData(
            images=torch.from_numpy(rng.integers(0, 256, (12, 1, 6, 6), dtype=np.uint8)),
            train=torch.arange(12),
            labeled=torch.arange(6),
            labels=torch.arange(6) % 3,
        ),
        settings=settings or TrainingSettings(steps=5, batch_size=4, labeled_batch_size=4),
        view=Augmentation(),
        weak=Augmentation(),
        strong=Augmentation(),
        flip=False,
        compute=CPU,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


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


# ---- learning


@pytest.mark.parametrize(("reference", "share"), [(0, 0.5), (6, 0.5), (12, 0.25)])
def test_a_pretrained_encoder_learns_more_slowly_than_the_head_and_the_more_so_with_few_labels(
    reference: int, share: float
) -> None:
    """The first step of AdamW moves every weight with a gradient by the learning rate. Six images are labeled."""
    rate = {"steps": 1, "batch_size": 4, "labeled_batch_size": 4, "learning_rate": 1e-3, "warmup": 0.0}
    settings = TrainingSettings(**rate, encoder_lr=0.5, encoder_lr_labels=reference)  # type: ignore[arg-type]
    job = make_job(settings)
    fresh = {n: t for n, t in build_model(job.config, seed=5).state_dict().items() if not n.startswith("head.")}
    for initial, expected in ((fresh, share), (None, 1.0)):
        start = build_model(job.config, settings.seed, initial).state_dict()
        end = train(replace(job, initial=initial)).raw
        moved = {name: float((end[name] - start[name]).abs().max()) for name in end}
        assert moved["unet.out.2.bias"] == pytest.approx(1e-3 * expected, rel=0.02)
        assert moved["head.4.bias"] == pytest.approx(1e-3, rel=0.02)


def test_both_losses_fall_and_labels_are_learned(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    recipe = tiny_recipe.with_overrides(
        [
            "pretraining.steps=60",
            "training.steps=60",
            "pretraining.learning_rate=5e-3",
            "training.learning_rate=5e-3",
            "augmentation.labeled=none",
            "training.label_smoothing=0",
            "training.head_noise=0",
            "training.encoder_lr=1",
            "model.head_dropout=0",
        ]
    )
    history = fit_model(recipe, digits_pool, labeled).history
    rows = {phase: [r for r in history if r["phase"] == phase] for phase in ("pretraining", "training")}

    def mean(rows: list[dict[str, float]], key: str) -> float:
        return float(np.mean([row[key] for row in rows]))

    assert mean(rows["pretraining"][-15:], "denoising_loss") < 0.7 * mean(rows["pretraining"][:5], "denoising_loss")
    assert mean(rows["training"][-15:], "denoising_loss") < 0.7 * mean(rows["pretraining"][:5], "denoising_loss")
    assert mean(rows["training"][-15:], "classification_loss") < 0.5 * mean(rows["training"][:3], "classification_loss")
    assert mean(rows["training"][-15:], "labeled_accuracy") > 0.8


def test_history_tells_steps_images_and_rate(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    recipe = tiny_recipe.with_overrides(["training.steps=20", "training.warmup=0.25", "training.learning_rate=0.01"])
    fitted = fit_model(recipe, digits_pool, labeled)
    pretraining, rows = fitted.history[:4], fitted.history[4:]
    assert [r["images_seen"] for r in pretraining] == [16, 32, 48, 64]
    assert [(r["phase"], r["step"], r["images_seen"]) for r in rows] == [("training", s, 32 * s) for s in range(1, 21)]
    rates = [0.01 * s / 5 for s in range(1, 6)] + [0.005 * (1 + np.cos(np.pi * s / 15)) for s in range(15)]
    assert [r["learning_rate"] for r in rows] == pytest.approx(rates)
    assert (fitted.training.steps, fitted.training.images_seen) == (20, 640)
    assert fitted.pretraining is not None
    assert (fitted.pretraining["steps"], fitted.pretraining["images_seen"]) == (4, 64)


def test_long_histories_are_thinned_and_keep_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_HISTORY_ROWS", 10)
    result = train(make_job(TrainingSettings(steps=31, batch_size=1, labeled_batch_size=2), objective="labels-only"))
    assert [row["step"] for row in result.history] == [*range(4, 32, 3)]


def test_only_labels_of_the_budget_and_no_test_image_are_looked_at(
    tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet
) -> None:
    labels, images = digits_pool.labels.copy(), digits_pool.images.copy()
    hidden = np.setdiff1d(np.arange(len(digits_pool)), digits_pool.positions(labeled.train))
    labels[hidden] = 9 - labels[hidden]
    images[digits_pool.is_test] = 255 - images[digits_pool.is_test]
    other = replace(digits_pool, labels=labels, images=images)
    assert equal(fit_model(tiny_recipe, digits_pool, labeled), fit_model(tiny_recipe, other, labeled))


def test_validation_labels_do_not_train(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    with_val = replace(labeled, val=tuple(digits_pool.ids[digits_pool.train][-5:]))
    assert equal(fit_model(tiny_recipe, digits_pool, labeled), fit_model(tiny_recipe, digits_pool, with_val))


@pytest.mark.parametrize(("objective", "left_alone"), [("labels-only", "decoder"), ("denoise-only", "head")])
def test_parts_without_a_loss_keep_their_weights(objective: str, left_alone: str) -> None:
    job = make_job(objective=objective)
    fresh, result = build_model(job.config, job.settings.seed), train(job)
    trained = build_model(job.config, 1, result.raw)
    averaged = build_model(job.config, 1, result.ema)
    for part, parameters in fresh.parameter_groups().items():
        for i, p in enumerate(parameters):
            for model in (trained, averaged):
                same_weight = torch.equal(model.parameter_groups()[part][i], p)
                assert same_weight or part != left_alone
        assert part == left_alone or not torch.equal(trained.parameter_groups()[part][0], parameters[0])


def test_multilabel_and_color_and_bf16_train(small_pool: Pool, tiny_recipe: Recipe) -> None:
    rows = np.random.default_rng(0).integers(0, 2, (60, 3))
    pool = replace(small_pool, labels=rows, multilabel=True, augmentation="photo")
    recipe = tiny_recipe.with_overrides(["compute.precision=bf16", "model.stem=2"])
    fitted = fit_model(recipe, pool, choose_labeled(pool, 12, seed=0))
    assert fitted.training.precision == "bf16"
    assert fitted.training.non_finite_steps == 0
    assert {t.dtype for t in fitted.raw.values()} == {torch.float32}
    assert fitted.model().classify(torch.zeros(2, 3, 6, 5)).shape == (2, 3)


def test_ddpm_trains(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    recipe = tiny_recipe.with_overrides(["model.parameterisation=ddpm", "model.ddpm_steps=100", "training.steps=30"])
    history = fit_model(recipe, digits_pool, labeled).history
    assert history[0]["denoising_loss"] == pytest.approx(1, abs=0.15)  # a fresh network predicts no noise at all
    assert history[-1]["denoising_loss"] < 0.9


# ---- averages


def test_averaged_weights_differ_from_raw_and_follow_their_horizon(
    tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet
) -> None:
    fitted = fit_model(tiny_recipe.with_overrides(["training.ema=0.9"]), digits_pool, labeled)
    assert fitted.ema.keys() == fitted.raw.keys()
    assert not any(torch.equal(t, fitted.raw[name]) for name, t in fitted.ema.items() if t.ndim > 1)
    without = fit_model(tiny_recipe.with_overrides(["training.ema=0"]), digits_pool, labeled)
    assert same(without.ema, without.raw)
    assert same(without.raw, fitted.raw)  # averaging does not touch training


def test_average_by_hand(tmp_path: Path) -> None:
    """Step s moves the average to the weights with weight beta on itself: the horizon's, or (1 + s) / (10 + s) early on."""
    path = tmp_path / "c.safetensors"
    settings = TrainingSettings(steps=6, batch_size=4, labeled_batch_size=4, ema=0.25)  # a horizon of 1.5 steps
    states: list[dict[str, Tensor]] = []

    def look(_: ProgressUpdate) -> None:
        if path.exists():
            states.append(load_tensors(path)[0])  # that of the step before

    job = make_job(settings, checkpoint=path, checkpoint_every=0.0)
    result = train(job, look)
    states.append(load_tensors(path)[0])
    assert len(states) == 6
    average = {name: t.double() for name, t in build_model(job.config, settings.seed).state_dict().items()}
    for step, state in enumerate(states):
        beta = min(1 / 3, (1 + step) / (10 + step))
        for name in average:
            average[name] = beta * average[name] + (1 - beta) * state[f"raw.{name}"].double()
            torch.testing.assert_close(state[f"ema.{name}"].double(), average[name], rtol=1e-4, atol=1e-6)
    assert same(result.ema, {name: states[-1][f"ema.{name}"] for name in average})


def test_fitted_model_has_the_averaged_weights(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    fitted = fit_model(tiny_recipe, digits_pool, labeled)
    model = fitted.model()
    assert same(dict(model.state_dict()), fitted.ema)
    assert not model.training


# ---- the same again


def test_same_seed_same_weights_whatever_the_global_random_state(
    tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet
) -> None:
    recipe = tiny_recipe.with_overrides(["model.dropout=0.2", "model.head_dropout=0.3"])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit_model(recipe, digits_pool, labeled)
    assert torch.equal(torch.get_rng_state(), before)  # and it is left alone
    torch.manual_seed(2)
    np.random.seed(2)
    again = fit_model(recipe, digits_pool, labeled)
    assert equal(first, again)
    for changed in ("training.seed=1", "pretraining.seed=1"):
        assert not equal(first, fit_model(recipe.with_overrides([changed]), digits_pool, labeled))


def test_cached_pretraining_changes_nothing_but_the_time(
    tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet, tmp_path: Path
) -> None:
    options = FitOptions(cache=DenoiserCache(tmp_path))
    without = fit_model(tiny_recipe, digits_pool, labeled)
    filling = fit_model(tiny_recipe, digits_pool, labeled, options=options)
    cached = fit_model(tiny_recipe, digits_pool, labeled, options=options)
    assert equal(without, filling)
    assert equal(without, cached)
    assert [f.pretraining["cached"] for f in (without, filling, cached) if f.pretraining] == [False, False, True]
    assert [r["denoising_loss"] for r in cached.history] == [r["denoising_loss"] for r in without.history]
    assert [p.suffixes for p in (tmp_path / "denoisers").iterdir()] == [[".safetensors"]]  # no unfinished state is left


def test_cache_is_shared_by_labels_seeds_and_heads_and_by_nothing_else(
    tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet, tmp_path: Path
) -> None:
    options = FitOptions(cache=DenoiserCache(tmp_path))

    def cached(pool: Pool, *overrides: str, labels: LabeledSet = labeled) -> bool:
        recipe = tiny_recipe.with_overrides(["training.steps=1", "training.head_start=zero", *overrides])
        fitted = fit_model(recipe, pool, labels, options=options)
        assert fitted.pretraining is not None
        return bool(fitted.pretraining["cached"])

    assert not cached(digits_pool)
    shared = (
        "training.seed=3",
        "training.learning_rate=1e-4",
        "model.head_width=5",
        "training.head_start=probe",
        "model.head_dropout=0.5",
        "model.pool_grids=1",
        "model.pool_maps=blocks",
        "model.read_sigma=0.1",
    )
    assert all(cached(digits_pool, override) for override in shared)
    assert cached(digits_pool, labels=choose_labeled(digits_pool, 50, seed=4))
    relabeled = replace(digits_pool, labels=np.where(digits_pool.is_test, -1, digits_pool.labels))
    assert cached(relabeled)
    for override in (
        "pretraining.seed=1",
        "pretraining.steps=3",
        "model.channels=12",
        "model.p_mean=-1",
        "augmentation.flip=on",
    ):
        assert not cached(digits_pool, override), override
    images = digits_pool.images.copy()
    images[0, 0, 0, 0] ^= 1
    assert not cached(replace(digits_pool, images=images))


@pytest.mark.parametrize("which", ["finished", "unfinished"])
def test_damaged_cache_is_made_again_with_a_warning(
    tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet, tmp_path: Path, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DenoiserCache(tmp_path)
    reference = fit_model(tiny_recipe, digits_pool, labeled, options=FitOptions(cache=cache))
    (path,) = (tmp_path / "denoisers").iterdir()
    if which == "unfinished":
        assert reference.pretraining is not None
        path.unlink()
        path = cache.partial(reference.pretraining["key"])
    path.write_bytes(b"\x00" * 100)
    with caplog.at_level(logging.WARNING, "ssl_diffusion"):
        again = fit_model(tiny_recipe, digits_pool, labeled, options=FitOptions(cache=cache))
    assert equal(again, reference)
    assert "left out" in caplog.text
    assert again.pretraining is not None
    assert not again.pretraining["cached"]


# ---- interrupted and continued


@pytest.mark.parametrize("phase", ["pretraining", "training"])
@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("action", [interrupt, crash])
def test_continued_fit_ends_bit_identical(
    tiny_recipe: Recipe,
    digits_pool: Pool,
    labeled: LabeledSet,
    tmp_path: Path,
    phase: str,
    cached: bool,
    action: Callable[[], None],
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
    with expected:
        fit_model(recipe, digits_pool, labeled, checkpoints=tmp_path / "last", options=options)
    seen: list[ProgressUpdate] = []
    continued = fit_model(
        recipe, digits_pool, labeled, checkpoints=tmp_path / "last", options=FitOptions(cache=cache, progress=seen.append)
    )
    assert equal(continued, reference)
    assert len([u for u in seen if u.task == phase]) == (4 if phase == "pretraining" else 6) - (3 if action is interrupt else 2)
    assert continued.training.images_seen == reference.training.images_seen
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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


TINY_RUN = [
    *("--dataset", "digits", "--labeled", "20", "--seed", "1", "--pretrain-steps", "10", "--steps", "16", "--quiet"),
    *("--accelerator", "cpu", "--precision", "fp32", "--set", "model.channels=8", "--set", "model.blocks=1"),
    *("--set", "model.dropout=0.1", "--set", "pretraining.batch_size=16", "--set", "training.batch_size=16"),
    *("--set", "training.labeled_batch_size=16"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
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


# ---- numbers that are not finite


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the pool images of these steps not a number."""
    calls = iter(range(10**6))

    def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
        return images * (float("nan") if next(calls) in steps else 1.0)

    monkeypatch.setattr(job, "mirror", mirror)


def test_single_bad_steps_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    poison(monkeypatch, {1, 3, 4})
    with caplog.at_level(logging.WARNING, "ssl_diffusion"):
        result = train(make_job(TrainingSettings(steps=8, batch_size=4, labeled_batch_size=4), flip=True))
    assert result.non_finite_steps == 3
    assert [row["non_finite_steps"] for row in result.history] == [0, 1, 1, 2, 3, 3, 3, 3]
    assert all(torch.isfinite(t).all() for t in (*result.raw.values(), *result.ema.values()))
    assert "3 steps were left out" in caplog.text


@pytest.mark.parametrize("bad", [24, 25])
def test_bad_steps_in_a_row_are_fatal_at_the_25th(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    poison(monkeypatch, set(range(2, 2 + bad)))
    job = make_job(TrainingSettings(steps=40, batch_size=2, labeled_batch_size=2), flip=True)
    if bad < 25:
        assert train(job).non_finite_steps == bad
    else:
        with pytest.raises(
            SSLDError, match=r"not finite for 25 steps in a row \(step 26 of training\): lower the learning rate"
        ):
            train(job)


def test_exploding_learning_rate_is_fatal() -> None:
    with pytest.raises(SSLDError, match="lower the learning rate"):
        train(make_job(TrainingSettings(steps=200, batch_size=2, labeled_batch_size=2, learning_rate=1e30, warmup=0.0)))


# ---- ranks


def test_batches_must_divide_among_ranks(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    for settings in (TrainingSettings(steps=1, batch_size=4, labeled_batch_size=3), PhaseSettings(steps=1, batch_size=5)):
        with pytest.raises(SSLDError, match="cannot be divided among 2 ranks"):
            train(make_job(settings, compute=replace(CPU, devices=2)))
    with pytest.raises(SSLDError, match=r"\[16\] cannot be divided among 3 ranks"):
        fit_model(tiny_recipe.with_overrides(["compute.devices=3"]), digits_pool, labeled)
    settings = TrainingSettings(steps=1, batch_size=4, labeled_batch_size=4, unlabeled_batch_size=5)
    check_divisible(settings, 2)  # no consistency term, no unlabeled batch
    with pytest.raises(SSLDError, match=r"\[4, 4, 5\] cannot be divided among 2 ranks"):
        check_divisible(replace(settings, consistency="match"), 2)


def test_denoise_only_needs_pretraining_steps(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    recipe = tiny_recipe.with_overrides(["training.objective=denoise-only", "pretraining.steps=0"])
    with pytest.raises(RecipeError, match=r"pretraining\.steps is 0"):
        fit_model(recipe, digits_pool, None)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(
    shutil.which("ssld", path=str(Path(sys.executable).parent)) is None, reason="ssld is not installed as a script"
)
def test_two_ranks_follow_the_curve_of_one(tmp_path: Path) -> None:
    """On the CPU with gloo; spawned processes need a real script as their main module, here the console script."""
    curves = {}
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        arguments = ["fit", *TINY_RUN, "--no-cache", "--out", str(run), "--devices", str(ranks), "--pretrain-steps", "0"]
        arguments += ["--set", "model.dropout=0", "--set", "model.head_dropout=0", "--threads", "1"]
        if ranks == 1:
            process = processes.start(arguments, tmp_path / "log.txt")
            process.join()
            assert process.exitcode == 0, (tmp_path / "log.txt").read_text()
        else:
            script = Path(sys.executable).parent / "ssld"
            done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stderr
        with (run / "history.csv").open(newline="") as file:
            curves[ranks] = [
                {key: float(row[key]) for key in ("denoising_loss", "classification_loss", "labeled_accuracy", "images_seen")}
                for row in csv.DictReader(file)
            ]
    assert len(curves[1]) == len(curves[2]) == 16
    for one, two in zip(curves[1], curves[2], strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    one, two = (load_tensors(tmp_path / str(ranks) / "model.safetensors")[0] for ranks in (1, 2))
    for name, t in one.items():
        torch.testing.assert_close(two[name], t, rtol=0, atol=1e-3)


# ---- seeds


def test_derived_seeds_are_distinct_repeatable_and_63_bit() -> None:
    parts = [(seed, name, step) for seed in range(5) for name in ("pretraining", "training") for step in range(50)]
    seeds = [derive_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert seeds == [derive_seed(*p) for p in parts]
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)
