"""Joint training on the fused representation: the head reads the denoiser that is trained and a backbone that is not."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.backbones import Quadrants, write_photos
from support.jobs import equal, make_job

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import Interrupted, RecipeError
from ssl_diffusion.inference import load_run, predict_logits
from ssl_diffusion.inference.rows import FusedRows
from ssl_diffusion.inference.run_rows import model_rows
from ssl_diffusion.models.fused import FusedConfig, FusedDiffusion
from ssl_diffusion.models.noise import EDM
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.training import fused_finish, objective_fits, starting_point
from ssl_diffusion.training.augment import policy
from ssl_diffusion.training.backbone_views import view_features
from ssl_diffusion.training.batches import BatchSampler, Phase, ReadImages
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.evaluate import evaluate_run
from ssl_diffusion.training.fit import FitOptions, fit_model, fit_run
from ssl_diffusion.training.measuring import time_steps
from ssl_diffusion.training.phases import training_job
from ssl_diffusion.training.recipe import Recipe, load_recipe
from ssl_diffusion.training.result import Fitted, TrainingResult
from ssl_diffusion.training.run_folder import load_metrics


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_settings: tuple[str, ...]) -> Recipe:
    """Joint training on color photos of 30 pixels, 12 to train and 4 to test for each of three classes."""
    root = write_photos(tmp_path_factory.mktemp("photos"), 12, 4)
    changes = [f"data.path={root}", "data.size=8", "backbone.name=quadrants", "labels.budget=18", "training.keep=better"]
    return load_recipe("images").with_overrides([*tiny_settings, *changes])


@pytest.fixture(scope="module")
def pool(recipe: Recipe) -> Pool:
    return load_pool(recipe.data)


@pytest.fixture(scope="module")
def labeled(pool: Pool) -> LabeledSet:
    return choose_labeled(pool, 18, seed=0)


@pytest.fixture(scope="module")
def probe(recipe: Recipe, pool: Pool, labeled: LabeledSet) -> Fitted:
    return fit_model(recipe.with_setting("training.objective", "probe"), pool, labeled)


@pytest.fixture(scope="module", autouse=True)
def _few_weights_are_tried() -> Iterator[None]:
    """Their choice would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_diffusion.models.fusion.WEIGHTS", (0.0, 0.5, 1.0))
        yield


@pytest.fixture
def readings() -> Callable[[], int]:
    """Number of the images that the backbone has read since the test began."""
    before = Quadrants.read
    return lambda: Quadrants.read - before


def logits_of(fitted: Fitted, pool: Pool) -> np.ndarray:
    model = fitted.model()
    return predict_logits(model, model_rows(model, pool, cache_dir=None))


def test_a_run_trains_all_but_the_backbone(recipe: Recipe, tmp_path: Path, no_pictures: None) -> None:
    """Its model is opened, evaluated and asked like that of a probe; the metrics say what the labels chose."""
    path = fit_run(recipe, tmp_path / "run", options=FitOptions(cache=DenoiserCache(tmp_path / "cache")))
    m = load_metrics(path)
    assert (m["objective"], m["steps"]) == ("joint", 6)
    assert m["backbone"]["identity"] == Quadrants.identity
    assert m["backbone"]["reads"] == "files"
    assert m["start"]["kept"] in ("trained", "probe")
    assert m["start"]["probe"]["folds"] == 1
    run = load_run(path)
    assert isinstance(run.model, FusedDiffusion)
    assert not [name for name in run.model.state_dict() if "backbone" in name]
    assert evaluate_run(run).metrics["accuracy"] == m["test_accuracy"] == 1


def test_training_begins_at_the_probe(recipe: Recipe, pool: Pool, labeled: LabeledSet, probe: Fitted) -> None:
    begun = fit_model(recipe.with_setting("training.steps", 0), pool, labeled)
    np.testing.assert_allclose(logits_of(begun, pool), logits_of(probe, pool), atol=1e-4)


@pytest.mark.parametrize("consistency", ["none", "match"])
def test_interrupted_and_continued_it_ends_bit_identical(
    consistency: str, recipe: Recipe, pool: Pool, labeled: LabeledSet, probe: Fitted, tmp_path: Path
) -> None:
    """And has changed the encoder, but not how the blocks are standardised and weighed."""
    changes = ["model.head_dropout=0.3", "training.ema=0.5", "training.keep=trained", f"training.consistency={consistency}"]
    recipe = recipe.with_overrides([*changes, "training.unlabeled_batch_size=8"])
    trained = fit_model(recipe, pool, labeled, keep_better=True)
    row = trained.training.history[-1]
    assert 0 < row["anchor_loss"] < 2
    assert ("mask_rate" in row) == ("pseudo_label_accuracy" in row) == (consistency == "match")

    def stop(update: ProgressUpdate) -> None:
        if update.task == "training" and update.done == 3 * 40:
            signal.raise_signal(signal.SIGINT)

    options = FitOptions(cache=DenoiserCache(tmp_path / "cache"), checkpoint_every=1e9, progress=stop)
    with pytest.raises(Interrupted, match="stopped at step 3 of 6 of training"):
        fit_model(recipe, pool, labeled, checkpoints=tmp_path / "last", options=options, keep_better=True)
    options = replace(options, progress=None)
    continued = fit_model(recipe, pool, labeled, checkpoints=tmp_path / "last", options=options, keep_better=True)
    assert equal(continued, trained)
    assert continued.start == trained.start
    assert torch.equal(trained.ema["mean"], probe.ema["mean"])
    assert torch.equal(trained.ema["factor"], probe.ema["factor"])
    assert not torch.equal(trained.ema["unet.stem.weight"], probe.ema["unet.stem.weight"])


def test_without_an_anchor_the_head_is_the_mean_of_the_trained_one_and_a_probe_s(
    recipe: Recipe, pool: Pool, labeled: LabeledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = []
    plain = objective_fits.with_mean_head

    def noted(config, weights, *rest, **options):  # type: ignore[no-untyped-def]
        doubled = plain(
            config, weights | {name: 0 * weights[name] for name in ("head.1.weight", "head.1.bias")}, *rest, **options
        )
        heads.append((weights, doubled))
        return plain(config, weights, *rest, **options)

    monkeypatch.setattr(objective_fits, "with_mean_head", noted)
    fitted = fit_model(recipe.with_setting("training.anchor", 0.0), pool, labeled)
    ((trained, half_probe),) = heads
    both = logits_of(fitted, pool)
    head = logits_of(replace(fitted, ema=trained), pool)
    probe = 2 * logits_of(replace(fitted, ema=half_probe), pool)
    np.testing.assert_allclose(both, (head + probe) / 2, atol=1e-4)
    assert (probe.argmax(axis=1) == pool.labels).mean() > 0.9


@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_a_collapse_returns_the_probe_on_both(
    recipe: Recipe, pool: Pool, val_fraction: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train = objective_fits.train

    def ruined(phase: Phase, progress: ProgressCallback | None = None) -> TrainingResult:
        result = train(phase, progress)
        if phase.name == "training":
            bias = 1e4 * torch.eye(3)[0]
            result.ema = result.ema | {"head.1.bias": bias}
        return result

    monkeypatch.setattr(objective_fits, "train", ruined)
    labeled = choose_labeled(pool, 24, seed=3, val_fraction=val_fraction)
    fitted = fit_model(recipe, pool, labeled, keep_better=True)
    assert fitted.start is not None
    assert (fitted.start.kept, fitted.start.reason) == ("probe", "validation" if val_fraction else "own labels")
    assert "so the probe is kept" in caplog.text
    plain = fit_model(recipe.with_setting("training.objective", "probe"), pool, labeled)
    np.testing.assert_array_equal(logits_of(fitted, pool), logits_of(plain, pool))


def test_a_warm_start_begins_with_the_encoder_and_a_new_probe(recipe: Recipe, pool: Pool, labeled: LabeledSet) -> None:
    fitted = fit_model(recipe, pool, labeled)
    more = choose_labeled(pool, 24, seed=1)
    again = fit_model(recipe.with_setting("training.steps", 0), pool, more, start=fitted.ema)
    assert torch.equal(again.ema["unet.stem.weight"], fitted.ema["unet.stem.weight"])
    assert (logits_of(again, pool).argmax(axis=1) == pool.labels).mean() > 0.9


def test_the_backbone_alone_is_kept_where_it_is_better_than_both(
    recipe: Recipe, pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The photos are too easy for a difference, so the two others are said to be worse."""
    plain = fused_finish.scored
    monkeypatch.setattr(starting_point, "scored", lambda *parts: plain(*parts) - 0.25)
    labeled = choose_labeled(pool, 24, seed=3, val_fraction=0.5)
    fitted = fit_model(recipe, pool, labeled, keep_better=True)
    assert fitted.start is not None
    assert fitted.backbone_facts is not None
    assert isinstance(fitted.config, FusedConfig)
    facts = fitted.start.to_dict()
    assert (facts["kept"], facts["backbone"]) == ("backbone", {"validation": 1.0})
    assert fitted.config.backbone.weight == fitted.backbone_facts["weight"] == 1
    assert "the backbone alone is better (100.0% of the validation labels, the trained model " in caplog.text
    model = fitted.model()
    rows = model_rows(model, pool, cache_dir=None)
    assert isinstance(rows, FusedRows)
    blind = predict_logits(model, FusedRows(np.zeros_like(pool.images), rows.features(np.arange(len(pool)))))
    np.testing.assert_allclose(blind, logits_of(fitted, pool), atol=1e-5)  # the denoiser has no say


# ---- unlabeled images


def test_the_anchor_holds_what_the_probe_says_of_unlabeled_images(recipe: Recipe, pool: Pool, probe: Fitted) -> None:
    """Where the labels that are trained with are not those of the images."""
    labeled = choose_labeled(pool, 18, seed=0)
    others = np.setdiff1d(pool.train, pool.positions(labeled.train))
    start = logits_of(probe, pool)[others].argmax(axis=1)
    recipe = recipe.with_overrides(["training.steps=30", "training.keep=trained", "training.unlabeled_batch_size=8"])
    train = objective_fits.train
    moved = {}
    for anchor in (0.0, 20.0):

        def misled(phase: Phase, progress: ProgressCallback | None = None) -> TrainingResult:
            if phase.name == "training":
                phase = replace(phase, data=replace(phase.data, labels=torch.zeros_like(phase.data.labels)))
            return train(phase, progress)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective_fits, "train", misled)
            patch.setattr(objective_fits, "with_mean_head", lambda config, weights, *rest, **options: weights)
            fitted = fit_model(recipe.with_setting("training.anchor", anchor), pool, labeled)
        moved[anchor] = (logits_of(fitted, pool)[others].argmax(axis=1) != start).mean()
    assert moved[20.0] < 0.2 < moved[0.0]


def test_unlabeled_images_come_with_their_features_and_what_the_probe_says(tiny_recipe: Recipe) -> None:
    job, noise = make_job(), EDM(0.5, -1.2, 1.2)
    rows = torch.tensor([11, 7, 9, 8])
    features, start = rows[:, None] * 1.0, torch.nn.functional.one_hot(rows % 3, 3).float()
    read = replace(job, data=replace(job.data, read=ReadImages(rows, features, start, rows % 2)))
    assert (job.anchor, job.unlabeled_batch_size, read.anchor) == (0, 0, 1)
    assert read.images_per_step == job.images_per_step + 64
    seen = set()
    for step in range(3):
        batch = BatchSampler(read, noise)(step).unlabeled
        assert batch is not None
        assert batch.features is not None
        assert batch.start is not None
        assert batch.hidden is not None
        ids = batch.features[:, 0].long()
        clean = job.data.images[ids].float() / 127.5 - 1
        assert torch.allclose(batch.weak, clean, atol=1e-6)
        assert torch.equal(batch.start.argmax(dim=1), ids % 3)
        assert torch.equal(batch.hidden, ids % 2)
        seen |= set(ids.tolist())
    assert seen == {7, 8, 9, 11}


def test_steps_are_measured_with_the_unlabeled_images(recipe: Recipe, pool: Pool, labeled: LabeledSet) -> None:
    """Before a backbone has read any."""
    assert training_job(recipe, pool, labeled).images_per_step == 32 + 64
    assert training_job(recipe.with_setting("training.anchor", 0.0), pool, labeled).images_per_step == 32
    assert training_job(recipe.with_setting("backbone.name", "none"), pool, labeled).images_per_step == 32
    assert time_steps(training_job(recipe, pool, labeled)).seconds() > 0


def test_with_all_images_labeled_these_are_the_unlabeled_ones(recipe: Recipe, pool: Pool) -> None:
    labeled = choose_labeled(pool, len(pool.train), seed=0)
    fitted = fit_model(recipe.with_overrides(["training.consistency=match", "training.unlabeled_batch_size=8"]), pool, labeled)
    assert fitted.training.steps == 6


# ---- views


def test_views_are_read_once_for_all_fits(pool: Pool, readings: Callable[[], int], tmp_path: Path) -> None:
    """The image itself, then seven that depend on its id alone."""
    rows, view, backbone = np.array([5, 2, 9]), policy("photo", "strong"), Quadrants()
    z = view_features(backbone, pool, rows, view, "files", cache_dir=tmp_path)
    assert z.shape == (3, 8, 12)
    assert readings() == 24
    np.testing.assert_array_equal(view_features(backbone, pool, rows[::-1], view, "files", cache_dir=tmp_path), z[::-1])
    assert readings() == 24
    np.testing.assert_allclose(view_features(backbone, pool, rows[1:], view, "files"), z[1:], atol=1e-6)
    assert (np.ptp(z, axis=1).max(axis=1) > 0.01).all()  # no two views alike
    assert len(np.unique(z.reshape(24, 12).round(5), axis=0)) == 24


@pytest.mark.parametrize(("reads", "strength"), [("ids", "strong"), ("images", "none")])
def test_without_views_the_features_are_those_of_the_image(reads: str, strength: str, pool: Pool) -> None:
    backbone = Quadrants()
    if reads == "ids":
        backbone.by_id = True
        backbone.embed = lambda ids, images: np.ones((len(ids), 12), dtype=np.float32)  # type: ignore[method-assign]
    z = view_features(backbone, pool, np.arange(4), policy("photo", strength), reads)  # type: ignore[arg-type]
    assert z.shape == (4, 1, 12)


def test_many_labels_have_fewer_views(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.training.backbone_views._LARGEST", 10)
    assert view_features(Quadrants(), pool, np.arange(3), policy("photo", "weak"), "images").shape[1] == 3
    assert view_features(Quadrants(), pool, np.arange(30), policy("photo", "weak"), "images").shape[1] == 2


def test_batches_draw_among_the_views_and_else_the_same(tiny_recipe: Recipe) -> None:
    job, noise = make_job(), EDM(0.5, -1.2, 1.2)
    features = torch.arange(6)[:, None, None] * 100.0 + torch.arange(5)[None, :, None]
    fused = replace(job, data=replace(job.data, features=features))
    seen = set()
    for step in range(12):
        plain, batch = (BatchSampler(j, noise)(step).labeled for j in (job, fused))
        assert plain is not None
        assert batch is not None
        assert torch.equal(plain.images, batch.images)
        assert plain.features is None
        assert batch.features is not None
        assert torch.equal((batch.features[:, 0] // 100).long() % 3, batch.labels)
        seen |= set((batch.features[:, 0] % 100).tolist())
    assert seen == {0, 1, 2, 3, 4}


# ---- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pretraining.steps": 0}, "objective 'joint' with a backbone needs the pretraining phase"),
    ],
)
def test_what_joint_training_on_both_cannot_do(change: dict[str, object], message: str, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        fit_run(recipe.with_settings(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()
