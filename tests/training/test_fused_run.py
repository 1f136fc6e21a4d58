"""A run with a backbone, from a folder of photos to predictions: all commands read the same features, of the original files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.backbones import Quadrants, write_photos
from support.commands import ok, refused

from ssl_diffusion.acquisition import query
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.source import FileSource
from ssl_diffusion.errors import DataError, RecipeError, RunError, SSLDError
from ssl_diffusion.generation import explain_run
from ssl_diffusion.generation.explanations import write_explanations
from ssl_diffusion.generation.sampling import sample_run
from ssl_diffusion.inference import EmbeddedPool, load_run, predict_files, predict_logits, represent
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.models import load_backbone
from ssl_diffusion.models.fused import FusedConfig, FusedDiffusion
from ssl_diffusion.models.pixels import rounded
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.evaluate import evaluate_run
from ssl_diffusion.training.fit import FitOptions, fit_run
from ssl_diffusion.training.recipe import Recipe, load_recipe
from ssl_diffusion.training.run_folder import load_metrics

SIDE = 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Color photos of 30 pixels, 10 to train and 4 to test for each of three classes."""
    return write_photos(tmp_path_factory.mktemp("photos"), 10, 4)


@pytest.fixture(scope="module")
def recipe(photos: Path, tiny_settings: tuple[str, ...]) -> Recipe:
    changes = [f"data.path={photos}", "data.size=8", "training.objective=probe", "backbone.name=quadrants", "labels.budget=18"]
    return load_recipe("images").with_overrides([*tiny_settings, *changes])


@pytest.fixture(scope="module")
def fitted(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed; features are kept in the folder cache beside it."""
    folder = tmp_path_factory.mktemp("fused")
    return fit_run(recipe, folder / "run", options=FitOptions(cache=DenoiserCache(folder / "cache")))


@pytest.fixture
def readings() -> Callable[[], int]:
    """Number of the images that the backbone has read since the test began."""
    before = Quadrants.read
    return lambda: Quadrants.read - before


def test_the_metrics_say_what_was_chosen(fitted: Path) -> None:
    m = load_metrics(fitted)
    assert m["test_accuracy"] == 1
    assert m["backbone"]["identity"] == "quadrants 24px"
    assert m["backbone"]["reads"] == "files"
    assert set(m["backbone"]["nll"]) == {"0", "0.1", "0.25", "0.5", "0.75", "0.9", "1"}
    assert "cross-validated NLL" in m["backbone"]["choice"]
    assert m["backbone"]["choice"] in (fitted / "log.txt").read_text()
    assert f"pseudo-labels {m['backbone']['pseudo_labels']['choice']}" in (fitted / "log.txt").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_probe_without_pseudo_labels_is_that_of_the_labels_alone(fitted: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Where they are used, the metrics say so; where they are not wanted, nothing is read for them."""
    without = recipe.with_setting("backbone.pseudo_labels", value=False)
    run = fit_run(without, tmp_path / "run", options=FitOptions(cache=DenoiserCache(fitted.parent / "cache")))
    assert load_metrics(run)["backbone"]["pseudo_labels"] is None
    assert load_metrics(run)["backbone"]["weight"] == load_metrics(fitted)["backbone"]["weight"]


def test_the_weights_of_the_backbone_are_not_saved_but_its_identity_is(fitted: Path) -> None:
    run = load_run(fitted)
    assert isinstance(run.model, FusedDiffusion)
    assert isinstance(run.model.config, FusedConfig)
    assert run.model.config.backbone.name == "quadrants"
    assert not [name for name in run.model.state_dict() if "backbone" in name]
    assert run.model.n_features == run.model.denoiser_features + 12


def test_the_representation_is_the_denoiser_s_block_and_that_of_the_original_files(fitted: Path) -> None:
    run = load_run(fitted)
    model = run.model
    assert isinstance(model, FusedDiffusion)
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    z = represent(model, pool_rows(run, pool))
    assert pool.files is not None
    originals = FileSource(pool.files, pool.ids.tolist(), (3, 24, 24)).take(pool.ids)
    features = (z / np.where(model.factor == 0, 1, model.factor) + model.mean.numpy())[:, model.denoiser_features :]
    np.testing.assert_allclose(features, Quadrants().embed(pool.ids, originals), atol=1e-4)
    weight = model.config.backbone.weight
    lengths = [np.square(part).sum(axis=1).mean() for part in np.split(z, [model.denoiser_features], axis=1)]
    np.testing.assert_allclose(lengths, [1 - weight, weight], atol=0.3)


def test_evaluation_prediction_and_fit_agree(fitted: Path, photos: Path, tmp_path: Path) -> None:
    run = load_run(fitted)
    report = evaluate_run(run)
    assert report.metrics["nll"] == pytest.approx(load_metrics(fitted)["test_nll"], abs=1e-5)
    n, skipped = predict_files(run, [photos / "test"], tmp_path / "p.csv", batch_size=5)
    assert (n, skipped) == (12, [])
    table = pd.read_csv(tmp_path / "p.csv")
    assert (table["label"] == [sample.split("/")[0] for sample in table["id"]]).all()
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    p = run.predict_proba(pool_rows(run, pool, pool.test))
    np.testing.assert_allclose(table[[f"p({c})" for c in run.classes]].to_numpy(), p, atol=1e-4)
    assert evaluate_run(run, data=photos / "test").metrics == pytest.approx(report.metrics)


def test_features_are_read_once(fitted: Path, readings: Callable[[], int], tmp_path: Path) -> None:
    """By the digest of the file, wherever it lies; one that changed is read again."""
    run = load_run(fitted)
    run.cache_dir = fitted.parent / "cache"
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    z = represent(run.model, pool_rows(run, pool))
    read = readings()
    assert read < len(pool)  # the fit had read those that it used
    np.testing.assert_array_equal(represent(run.model, pool_rows(run, pool)), z)
    assert readings() == read
    assert pool.files is not None
    pool.files = [Path(shutil.copy(path, tmp_path / f"{i}.png")) for i, path in enumerate(pool.files)]
    Image.new("RGB", (SIDE, SIDE)).save(pool.files[3])
    moved = represent(run.model, pool_rows(run, pool))
    assert readings() == read + 1
    assert (np.flatnonzero((moved != z).any(axis=1)) == [3]).all()


def test_an_interrupted_reading_keeps_what_it_has(fitted: Path, readings: Callable[[], int], tmp_path: Path) -> None:
    run = load_run(fitted)
    run.cache_dir = tmp_path
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)

    def stop(update: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool_rows(run, pool, np.arange(10), progress=stop)
    assert readings() == 10
    pool_rows(run, pool)
    assert readings() == len(pool)


def test_a_query_measures_the_fused_representation(fitted: Path) -> None:
    run = load_run(fitted)
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    batch = query(run, pool, 3, "margin", random_state=1)
    assert len(batch) == 3
    assert not set(batch.ids) & set(pool.ids[pool.test])
    again = query(run, pool, 3, "margin", random_state=1)  # from what is kept in the run folder
    assert batch.ids.tolist() == again.ids.tolist()
    np.testing.assert_allclose(batch.utilities, again.utilities, atol=1e-6)


def test_a_probe_on_new_labels_chooses_its_weight_anew(fitted: Path) -> None:
    """And is one of the representation as it is, whatever weight that has."""
    run = load_run(fitted)
    model = run.model
    assert isinstance(model, FusedDiffusion)
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    rows = pool_rows(run, pool)
    frozen = EmbeddedPool(rows, represent(model, rows), pool.train, model)
    probe = frozen.probe(pool.train, pool.labels[pool.train], 3)
    logits = predict_logits(model.with_linear_head(probe.weight, probe.bias), rows)
    np.testing.assert_allclose(logits, frozen.logits(probe, np.arange(len(pool))), atol=1e-4)
    assert (logits.argmax(axis=1) == pool.labels).mean() > 0.9


def test_what_needs_gradients_to_the_images_is_refused_or_replaced(fitted: Path) -> None:
    """Guidance, and strategies that search counterfactuals."""
    run = load_run(fitted)
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    why = "cannot be moved towards a class: its backbone reads the original files, which are not at hand"
    with pytest.raises(RunError, match=why):
        explain_run(run, pool.images[:1])
    with pytest.raises(RunError, match=why):
        sample_run(run, 2, np.zeros(2, dtype=np.int64))
    with pytest.raises(SSLDError, match="looks at images with the model, and here are only representations"):
        query(run, pool, 2, "counterfactual")
    assert query(run, pool, 2, "auto").strategy == "bait"  # which needs none


def test_a_change_is_found_through_the_backbone_and_added_to_the_original(fitted: Path, tmp_path: Path) -> None:
    """And the saved picture, at the size of the file, is predicted as what it was changed to."""
    run = load_run(fitted)
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    at = np.flatnonzero(~pool.is_test)[[0, 12, 25]]
    frame, result = write_explanations(run, pool, pool.ids[at].tolist(), tmp_path / "why")
    assert result.success.all()
    assert frame["verified"].all()
    assert (np.argmax(run.predict_proba(pool_rows(run, pool, at)), axis=1) == result.source).all()
    for row, (name, position) in enumerate(zip(frame["file"], at, strict=True)):
        saved = np.asarray(Image.open(tmp_path / "why" / name)).astype(float)
        assert pool.files is not None
        original = np.asarray(Image.open(pool.files[position])).astype(float)
        assert saved.shape == (SIDE, SIDE, 3)
        change = (saved - original)[8:22, 8:22].mean(axis=(0, 1))  # far from the clipped margins of the enlargement
        small = (result.images()[row].astype(float) - pool.images[position])[:, 2:6, 2:6].mean(axis=(1, 2))
        small *= frame["strength"][row]
        assert np.abs(change - small).max() < 12
        assert np.abs(saved - original).max() > 0


def test_a_model_sees_changes_in_the_originals(fitted: Path) -> None:
    """No change is the original itself; a change of all pixels is that of all pixels of the original."""
    model = load_run(fitted).model
    assert isinstance(model, FusedDiffusion)
    x, originals = torch.zeros(2, 3, 8, 8), torch.rand(2, 3, 24, 24) / 2 - 0.25
    view = model.anchored(x, originals)
    features = Quadrants().features(rounded(originals))
    with torch.no_grad():
        torch.testing.assert_close(view.representation(x), model.representation(x, features=features))
        moved = Quadrants().features(rounded(originals + 0.5))
        torch.testing.assert_close(view.representation(x + 0.5), model.representation(x + 0.5, features=moved))


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_representations_go_out_and_come_back_as_features(ending: str, fitted: Path, photos: Path, tmp_path: Path) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"embeddings.{ending}"
    result = ok("embed", fitted, photos / "test", "--out", out)
    run = load_run(fitted)
    assert f"12 representations of {run.model.n_features} features" in result.stdout
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    z = represent(run.model, pool_rows(run, pool, pool.test))
    back = load_backbone(f"precomputed:{out}")
    np.testing.assert_allclose(back.embed([i.removeprefix("test/") for i in pool.ids[pool.test]], None), z, atol=1e-4)


def test_the_representations_of_a_run_s_own_images(fitted: Path, tmp_path: Path) -> None:
    ok("embed", fitted, "--out", tmp_path / "e.npz")
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    assert np.load(tmp_path / "e.npz")["ids"].tolist() == pool.ids.tolist()
    message = refused("embed", fitted, "--out", tmp_path / "e.txt")
    assert "representations are written to .npz, .csv, .parquet files" in message


def test_images_without_their_files_are_refused(fitted: Path) -> None:
    run = load_run(fitted)
    images = np.zeros((2, 3, 8, 8), dtype=np.uint8)
    for read in (run.predict_proba, run.represent):
        with pytest.raises(SSLDError, match="the backbone of this model reads the original files, not images of 8 pixels"):
            read(images)
    pool = load_pool(load_recipe(fitted / "recipe.toml").data)
    pool.files = None
    with pytest.raises(SSLDError, match=r"quadrants 24px reads image files, and the images of .* come from none"):
        pool_rows(run, pool)
    with pytest.raises(SSLDError, match="reads both its blocks"):
        run.model.classify_representation(torch.zeros(1, 3))


def test_another_or_no_backbone_is_one_clear_sentence(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quadrants, "identity", "quadrants of other weights")
    with pytest.raises(
        RunError, match="fitted with the backbone 'quadrants 24px', and quadrants is 'quadrants of other weights'"
    ):
        load_run(fitted)
    monkeypatch.setattr("ssl_diffusion.models.backbones.registry.BACKBONES", {})
    with pytest.raises(RunError, match="fitted with a backbone that is not to be had here: no backbone 'quadrants'") as error:
        load_run(fitted)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("objective", ["labels-only", "denoise-only"])
def test_other_objectives_refuse_a_backbone(objective: str, recipe: Recipe, tmp_path: Path) -> None:
    changed = recipe.with_setting("training.objective", objective)
    with pytest.raises(
        RecipeError, match=f"the objective '{objective}' does not read a backbone yet: use --objective probe or joint"
    ):
        fit_run(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wrong_backbones_are_refused_before_images_are_read(recipe: Recipe, tmp_path: Path) -> None:
    elsewhere = recipe.with_setting("data.path", str(tmp_path / "no such folder"))
    for name, message in (("quadrant", "did you mean quadrants"), ("precomputed:none.npz", "there are no features none.npz")):
        with pytest.raises(SSLDError, match=message):
            fit_run(elsewhere.with_setting("backbone.name", name), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"backbone\.name is 'none': name one"):
        fit_run(elsewhere.with_settings({"backbone.name": "none", "backbone.weights": "w.pt"}), tmp_path / "run")


def test_features_of_ones_own_by_sample_id(recipe: Recipe, photos: Path, tmp_path: Path, no_pictures: None) -> None:
    """They are looked up, in the fit and after it; files that have none cannot be predicted."""
    pool = load_pool(recipe.data)
    features = np.eye(3, dtype=np.float32)[pool.labels] + np.random.default_rng(0).normal(size=(len(pool), 3)) / 20
    np.savez(tmp_path / "f.npz", ids=pool.ids, features=features)
    path = fit_run(recipe.with_setting("backbone.name", f"precomputed:{tmp_path / 'f.npz'}"), tmp_path / "run")
    m = load_metrics(path)
    assert (m["backbone"]["reads"], m["test_accuracy"]) == ("ids", 1)
    run = load_run(path)
    assert predict_files(run, [photos], tmp_path / "p.csv")[0] == len(pool)
    with pytest.raises(
        DataError, match=r"no features of 12 of 12 samples, such as 'ant/0.png'; .* predicts samples only whose"
    ):
        predict_files(run, [photos / "test"], tmp_path / "q.csv")


def test_a_pool_at_the_size_of_its_files_is_read_as_it_is(
    recipe: Recipe, photos: Path, tmp_path: Path, no_pictures: None
) -> None:
    """Then images suffice, and gradients run from the classes through the backbone to the pixels."""
    path = fit_run(recipe.with_setting("data.size", SIDE), tmp_path / "run")
    assert load_metrics(path)["backbone"]["reads"] == "images"
    run = load_run(path)
    pool = load_pool(recipe.with_setting("data.size", SIDE).data)
    np.testing.assert_allclose(run.predict_proba(pool.images), run.predict_proba(pool_rows(run, pool)), atol=1e-5)
    x = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    run.model.classify(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


def test_two_backbones_are_refused(tmp_path: Path) -> None:
    message = refused("fit", "--data", tmp_path, "--backbone", "quadrants", "--features", "f.npz")
    assert message == "give either --backbone or --features, not both"
