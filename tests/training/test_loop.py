"""The loop: it learns, repeats bit for bit, and survives bad numbers."""

import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import processes
from support.jobs import CPU, TINY_RUN, equal, make_job, same
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RecipeError, SSLDError
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.weights import load_tensors
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training import batches, history
from ssl_diffusion.training.conditions import Conditions
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_model
from ssl_diffusion.training.loop import check_divisible, train
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.settings import PhaseSettings, TrainingSettings


@pytest.fixture(scope="module")
def labeled(digits_pool: Pool) -> LabeledSet:
    return choose_labeled(digits_pool, 20, seed=0)


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
    fitted = fit_model(recipe, digits_pool, labeled)
    history = fitted.history
    rows = {phase: [r for r in history if r["phase"] == phase] for phase in ("pretraining", "training")}

    def mean(rows: list[dict[str, float]], key: str) -> float:
        return float(np.mean([row[key] for row in rows]))

    assert mean(rows["pretraining"][-15:], "denoising_loss") < 0.7 * mean(rows["pretraining"][:5], "denoising_loss")
    assert mean(rows["training"][-15:], "denoising_loss") < 0.7 * mean(rows["pretraining"][:5], "denoising_loss")
    assert mean(rows["training"][-15:], "classification_loss") < 0.5 * mean(rows["training"][:3], "classification_loss")
    assert mean(rows["training"][-15:], "labeled_accuracy") > 0.8
    # These are the labels of these images, not of any others that would be learned by heart as well.
    known = digits_pool.positions(labeled.train)
    logits = (
        build_model(fitted.config, 0, fitted.raw)
        .eval()
        .classify(torch.from_numpy(digits_pool.images[known]).float() / 127.5 - 1)
    )
    assert (logits.argmax(dim=1).numpy() == digits_pool.labels[known]).mean() > 0.8


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
    monkeypatch.setattr(history, "_ROWS", 10)
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
    # Where labels alone train, no other image is looked at, either.
    images[hidden] = 255 - digits_pool.images[hidden]
    assert_equal_by_labels_only(tiny_recipe, digits_pool, labeled, replace(digits_pool, labels=labels, images=images), labeled)


def test_validation_labels_do_not_train(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    first = [str(id_) for id_ in digits_pool.ids[digits_pool.train] if id_ not in labeled.train][:5]
    with_val = replace(labeled, val=tuple(first))
    assert equal(fit_model(tiny_recipe, digits_pool, labeled), fit_model(tiny_recipe, digits_pool, with_val))
    labels, images = digits_pool.labels.copy(), digits_pool.images.copy()
    positions = digits_pool.positions(first)
    labels[positions], images[positions] = 9 - labels[positions], 255 - images[positions]
    other = replace(digits_pool, labels=labels, images=images)
    assert_equal_by_labels_only(tiny_recipe, digits_pool, labeled, other, with_val)


def assert_equal_by_labels_only(recipe: Recipe, pool: Pool, labeled: LabeledSet, other: Pool, others: LabeledSet) -> None:
    """Two pools, the same but for images that may not train without their labels, end in the same weights."""
    recipe = recipe.with_overrides(["training.objective=labels-only"])
    first, second = fit_model(recipe, pool, labeled), fit_model(recipe, other, others)
    assert first.pretraining is None
    assert equal(first, second)


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
        path = cache.partial(reference.pretraining["key"], Conditions.here(tiny_recipe.compute))
    path.write_bytes(b"\x00" * 100)
    with caplog.at_level(logging.WARNING, "ssl_diffusion"):
        again = fit_model(tiny_recipe, digits_pool, labeled, options=FitOptions(cache=cache))
    assert equal(again, reference)
    assert "again: " in caplog.text
    assert again.pretraining is not None
    assert not again.pretraining["cached"]


# ---- numbers that are not finite


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the pool images of these steps not a number."""
    calls = iter(range(10**6))

    def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
        return images * (float("nan") if next(calls) in steps else 1.0)

    monkeypatch.setattr(batches, "mirror", mirror)


def test_single_bad_steps_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    poison(monkeypatch, {1, 3, 4})
    with caplog.at_level(logging.WARNING, "ssl_diffusion"):
        result = train(make_job(TrainingSettings(steps=8, batch_size=4, labeled_batch_size=4), flip=True))
    assert result.non_finite_steps == 3
    assert [row["non_finite_steps"] for row in result.history] == [0, 1, 1, 2, 3, 3, 3, 3]
    assert all(torch.isfinite(t).all() for t in (*result.raw.values(), *result.ema.values()))
    assert "3 of 8 steps were left out" in caplog.text


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
    settings = TrainingSettings(steps=200, batch_size=2, labeled_batch_size=2, warmup=0.0)
    settings = settings.model_copy(update={"learning_rate": 1e30})  # out of range, and so not checked
    with pytest.raises(SSLDError, match="lower the learning rate"):
        train(make_job(settings))


# ---- ranks


def test_batches_must_divide_among_ranks(tiny_recipe: Recipe, digits_pool: Pool, labeled: LabeledSet) -> None:
    for settings in (TrainingSettings(steps=1, batch_size=4, labeled_batch_size=3), PhaseSettings(steps=1, batch_size=5)):
        with pytest.raises(SSLDError, match="cannot be divided among 2 ranks"):
            train(make_job(settings, compute=CPU.replace(devices=2)))
    with pytest.raises(SSLDError, match=r"\[16\] cannot be divided among 3 ranks"):
        fit_model(tiny_recipe.with_overrides(["compute.devices=3"]), digits_pool, labeled)
    job = make_job(TrainingSettings(steps=1, batch_size=4, labeled_batch_size=4, unlabeled_batch_size=5))
    check_divisible(job.batch_sizes, 2)  # no consistency term, no unlabeled batch
    with pytest.raises(SSLDError, match=r"\[4, 4, 5\] cannot be divided among 2 ranks"):
        check_divisible(replace(job, settings=job.settings.replace(consistency="match")).batch_sizes, 2)


def test_denoise_only_needs_pretraining_steps(tiny_recipe: Recipe, digits_pool: Pool) -> None:
    recipe = tiny_recipe.with_overrides(["training.objective=denoise-only", "pretraining.steps=0"])
    with pytest.raises(RecipeError, match=r"pretraining\.steps is 0"):
        fit_model(recipe, digits_pool, None)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks_follow_the_curve_of_one(tmp_path: Path) -> None:
    """On the CPU with gloo; the second rank is spawned, so that everything it gets is pickled."""
    curves = {}
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        arguments = ["fit", *TINY_RUN, "--no-cache", "--out", str(run), "--devices", str(ranks), "--pretrain-steps", "0"]
        arguments += ["--set", "model.dropout=0", "--set", "model.head_dropout=0", "--threads", "1"]
        process = processes.start(arguments, tmp_path / "log.txt")
        process.join(240)
        assert process.exitcode == 0, (tmp_path / "log.txt").read_text()
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
