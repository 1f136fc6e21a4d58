"""The command line as a user meets it: a whole flow, one JSON object, one sentence for every mistake, nothing left behind."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import CPU, ok, refused, ssld
from PIL import Image
from typer.testing import Result

import ssl_diffusion
from ssl_diffusion.catalog import DATASETS
from ssl_diffusion.checkpoint import load_tensors
from ssl_diffusion.pool import Pool
from ssl_diffusion.recipe import recipe_names


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: contents of files, None for folders."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def tiny(tiny_settings: tuple[str, ...]) -> list[str]:
    """Options of `ssld fit` for a run of a fraction of a second."""
    return [word for setting in tiny_settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> tuple[Path, Result]:
    """A run on digits, fitted through the command line, and what was printed."""
    run = tmp_path_factory.mktemp("flow") / "run"
    result = ok("fit", "--dataset", "digits", "--labeled", 20, "--val-fraction", 0.5, "--out", run, *tiny, "--json")
    return run, result


@pytest.fixture(scope="module")
def run(flow: tuple[Path, Result]) -> Path:
    """The finished run; not to be changed."""
    return flow[0]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def unfinished(copy: Path) -> Path:
    """A run that was killed before its first checkpoint."""
    for name in ("metrics.json", "model.safetensors", "history.csv"):
        (copy / name).unlink()
    return copy


def write_digits(folder: Path, pool: Pool, positions: Sequence[int]) -> Path:
    """PNG files, one folder a class."""
    for i in positions:
        path = folder / pool.classes[pool.labels[i]] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pool.images[i, 0]).save(path)
    return folder


@pytest.fixture
def photos(tmp_path: Path, digits_pool: Pool) -> Path:
    """Images of three classes of digits in class folders."""
    chosen = np.concatenate([digits_pool.test[digits_pool.labels[digits_pool.test] == k][:8] for k in range(3)])
    return write_digits(tmp_path / "photos", digits_pool, chosen.tolist())


# ---- the whole flow


def test_fit_writes_the_run_folder(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert names == {
        *("recipe.toml", "pool.json", "labeled.csv", "history.csv", "metrics.json", "model.safetensors", "log.txt"),
        *("history.png", "confusion.png", "reconstructions.png"),
    }
    for picture in run.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 100
    recipe = tomllib.loads((run / "recipe.toml").read_text())
    assert recipe["labels"]["budget"] == 20
    assert recipe["model"]["channels"] == 8
    labeled = pd.read_csv(run / "labeled.csv", dtype=str)
    assert labeled["role"].value_counts().to_dict() == {"train": 10, "val": 10}
    assert labeled["label"].value_counts().to_dict() == dict.fromkeys("0123456789", 2)
    history = pd.read_csv(run / "history.csv")
    assert history["phase"].tolist() == ["pretraining"] * 4 + ["training"] * 6
    assert "1437 training images, 20 labels" in (run / "log.txt").read_text()


def test_fit_writes_every_figure(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    wanted = {
        *("test_accuracy", "test_nll", "test_ece", "val_accuracy", "n_labeled", "n_unlabeled", "dataset", "objective", "seed"),
        *("steps", "images_seen", "seconds", "images_per_second", "parameters", "device", "precision", "versions", "commit"),
    }
    assert wanted <= set(metrics)
    for name in ("test_accuracy", "test_ece", "val_accuracy"):
        assert 0 <= metrics[name] <= 1
    assert (metrics["n_labeled"], metrics["n_unlabeled"], metrics["n_test"]) == (20, 1417, 360)
    assert (metrics["dataset"], metrics["recipe"], metrics["objective"], metrics["seed"]) == ("digits", "digits", "joint", 0)
    assert (metrics["steps"], metrics["images_seen"]) == (6, 4 * 16 + 6 * 32)
    assert metrics["images_per_second"] == pytest.approx(metrics["images_seen"] / metrics["seconds"], rel=0.5)
    assert (metrics["device"], metrics["precision"]) == ("cpu", "fp32")
    assert metrics["versions"]["ssld"] == ssl_diffusion.__version__
    assert metrics["commit"] is None or len(metrics["commit"].removesuffix("+changes")) == 40


def test_fit_prints_one_json_object(flow: tuple[Path, Result]) -> None:
    run, result = flow
    printed = json.loads(result.stdout)
    assert len(result.stdout.splitlines()) == 1
    assert printed == {"run": str(run), **json.loads((run / "metrics.json").read_text())}


def test_predict_writes_probabilities_of_every_image(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "predictions.csv"
    printed = json.loads(ok("predict", run, photos, "--out", out, *CPU, "--json", "--batch-size", 5).stdout)
    assert printed == {"out": str(out), "predictions": 24, "skipped": []}
    table = pd.read_csv(out, dtype={"label": str})
    assert list(table.columns) == ["id", "label", "probability", *(f"p({k})" for k in range(10))]
    assert table["id"].tolist() == sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    p = table[[f"p({k})" for k in range(10)]].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-4)
    assert table["label"].tolist() == [str(k) for k in p.argmax(axis=1)]
    np.testing.assert_allclose(table["probability"], p.max(axis=1))
    whole = tmp_path / "whole.csv"
    ok("predict", run, photos, "--out", whole, *CPU)
    np.testing.assert_allclose(pd.read_csv(whole)["probability"], table["probability"], atol=1e-4)


def test_predictions_on_files_are_those_on_the_data_set(run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "test", digits_pool, digits_pool.test.tolist())
    ok("predict", run, folder, "--out", tmp_path / "p.csv", *CPU, "--quiet")
    table = pd.read_csv(tmp_path / "p.csv", dtype={"label": str})
    right = (table["label"] == table["id"].str.partition("/")[0]).mean()
    assert right == pytest.approx(json.loads((run / "metrics.json").read_text())["test_accuracy"])


def test_predict_takes_files_and_several_folders(run: Path, photos: Path, tmp_path: Path) -> None:
    one = next(photos.rglob("*.png"))
    ok("predict", run, photos / "0", photos / "1", one, "--out", tmp_path / "p.csv", *CPU)
    ids = pd.read_csv(tmp_path / "p.csv")["id"]
    assert len(ids) == 17
    assert ids.iloc[-1] == one.name
    assert set(ids.iloc[:16].str.partition("/")[0]) == {"0", "1"}


def test_evaluate_agrees_with_the_metrics_of_the_run(run: Path, tmp_path: Path) -> None:
    printed = json.loads(ok("evaluate", run, "--out", tmp_path / "report", *CPU, "--json").stdout)
    metrics = json.loads((run / "metrics.json").read_text())
    assert printed["n"] == 360
    for name in ("accuracy", "nll", "ece"):
        assert printed[name] == pytest.approx(metrics[f"test_{name}"], rel=1e-4)
    low, high = printed["accuracy_interval"]
    assert low < printed["accuracy"] < high
    assert [row["class"] for row in printed["per_class"]] == list("0123456789")
    assert sum(row["n"] for row in printed["per_class"]) == 360
    recalled = sum(row["recall"] * row["n"] for row in printed["per_class"]) / 360
    assert recalled == pytest.approx(printed["accuracy"])
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"per_class.csv", "confusion.png", "calibration.png"}


def test_evaluate_on_other_images_matches_classes_by_name(run: Path, photos: Path) -> None:
    (photos / "2").rename(photos / "9")  # classes 0, 1, 9: their positions are not those of the model
    printed = json.loads(ok("evaluate", run, "--data", photos, *CPU, "--json").stdout)
    assert printed["n"] == 24
    assert {row["class"]: row["n"] for row in printed["per_class"] if row["n"]} == {"0": 8, "1": 8, "9": 8}
    (photos / "9").rename(photos / "ten")
    assert "'ten'" in refused("evaluate", run, "--data", photos, *CPU)


def test_text_for_people(run: Path, photos: Path, tmp_path: Path) -> None:
    text = ok("evaluate", run, *CPU).stdout
    assert "accuracy" in text
    assert "95 % interval" in text
    assert f"24 predictions in {tmp_path / 'p.csv'}" in ok("predict", run, photos, "--out", tmp_path / "p.csv", *CPU).stdout


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("objective", ["labels-only", "denoise-only"])
def test_other_objectives(tmp_path: Path, tiny: list[str], photos: Path, objective: str) -> None:
    out = tmp_path / "run"
    printed = json.loads(
        ok("fit", "--dataset", "digits", "--labeled", 20, "--objective", objective, "--out", out, *tiny, "--json").stdout
    )
    assert printed["objective"] == objective
    names = {p.name for p in out.iterdir()}
    if objective == "labels-only":
        assert printed["pretraining"] is None
        assert printed["test_accuracy"] > 0
        assert "reconstructions.png" not in names
    else:
        assert (printed["test_accuracy"], printed["n_labeled"], printed["n_unlabeled"]) == (None, 0, 1437)
        assert not {"labeled.csv", "confusion.png"} & names
        assert "reconstructions.png" in names
        for command in (["predict", out, photos, "--out", tmp_path / "p.csv"], ["evaluate", out]):
            assert "was trained without labels" in refused(*command, *CPU)
        assert not (tmp_path / "p.csv").exists()


@pytest.mark.usefixtures("no_pictures")
def test_fit_on_a_folder_of_ones_own(photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    out = tmp_path / "run"
    arguments = ["fit", "--data", photos, "--test-fraction", 0.25, "--labeled", 9, "--size", 8, "--out", out, *tiny]
    printed = json.loads(ok(*arguments, "--json").stdout)
    assert (printed["n_labeled"], printed["n_unlabeled"], printed["n_test"]) == (9, 9, 6)
    assert printed["recipe"] == "images"
    assert json.loads((out / "pool.json").read_text())["classes"] == ["0", "1", "2"]


@pytest.mark.usefixtures("no_pictures")
def test_default_run_folder(tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ok("fit", "--dataset", "digits", "--labeled", 20, "--seed", 3, *tiny)
    assert (tmp_path / "runs" / "digits-20-s3" / "metrics.json").exists()


# ---- what there is


def test_recipes_are_listed_and_printed() -> None:
    rows = json.loads(ok("recipes", "--json").stdout)["recipes"]
    assert [row["name"] for row in rows] == recipe_names()
    text = ok("recipes").stdout
    assert all(name in text for name in recipe_names())
    assert tomllib.loads(ok("recipes", "digits").stdout)["data"]["dataset"] == "digits"
    assert "did you mean digits" in refused("recipes", "digit")


def test_datasets_are_listed() -> None:
    rows = json.loads(ok("datasets", "--json").stdout)["datasets"]
    assert [row["name"] for row in rows] == list(DATASETS)
    assert {"name": "digits", "images": "1,437 + 360 test", "classes": 10, "download": "here already"}.items() <= rows[
        0
    ].items()
    assert "svhn" in ok("datasets").stdout


def test_doctor_says_what_this_machine_can_do() -> None:
    printed = json.loads(ok("doctor", "--json").stdout)
    assert printed["cores"] >= 1
    assert printed["precision"] in ("bf16", "fp32")
    assert "digits" in printed["datasets_found"]
    assert {"python", "torch", "ssld"} <= set(printed["versions"])
    assert "processor" in ok("doctor").stdout


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digit"], r"digit.*did you mean digits"),
        (["--dataset", "imagenet"], "known: .*cifar10"),
        (["--dataset", "digits", "--recipe", "digts"], "no recipe 'digts'; did you mean digits"),
        (["--dataset", "digits", "--recipe", "nowhere.toml"], "no recipe file nowhere.toml"),
        (["--dataset", "digits", "--data", "photos"], "either --dataset or --data, not both"),
        (["--data", "nowhere"], "nowhere"),
        (["--dataset", "digits", "--labeled", "1438"], "budget of 1438 labels is larger than the 1437 labeled training images"),
        (["--dataset", "digits", "--labeled", "9"], "9 labels cannot cover 10 classes; use at least 10"),
        (["--dataset", "digits", "--labeled", "0"], "--objective denoise-only"),
        (["--dataset", "digits", "--labeled", "-5"], "labels.budget must be in"),
        (["--dataset", "digits", "--labeled", "12", "--val-fraction", "0.5"], "no training label for class '"),
        (["--dataset", "digits", "--labeled", "11", "--choice", "uniform"], "--allow-missing-classes"),
        (["--dataset", "digits", "--test-fraction", "0.2"], "--test-fraction"),
        (["--dataset", "digits", "--objective", "jont"], "did you mean joint"),
        (["--dataset", "digits", "--objective", "denoise-only", "--pretrain-steps", "0"], r"pretraining\.steps is 0"),
        (["--dataset", "digits", "--set", "training.stepps=3"], "did you mean .*training.steps"),
        (["--dataset", "digits", "--set", "training.steps"], "section.name=value"),
        (["--dataset", "digits", "--set", "model.dropout=2"], "model.dropout must be in"),
        (["--dataset", "digits", "--set", "training.batch_size=63", "--devices", "2"], "cannot be divided among 2 ranks"),
        (["--dataset", "digits", "--seed", "-1"], "seed must be in"),
        (["--dataset", "digits", "--accelerator", "cudda"], "compute.accelerator cannot be 'cudda'"),
        (["--dataset", "digits", "--accelerator", "mps"], "torch finds no mps device"),
    ],
)
def test_fit_refuses_what_cannot_be_done_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refused("fit", *arguments, "--out", tmp_path / "run")
    assert pd.Series([sentence]).str.contains(message).all(), sentence
    assert files(tmp_path) == {}


@pytest.mark.parametrize("option", [["--devices", "0"], ["--threads", "-1"], ["--steps", "many"], ["--no-such-option"]])
def test_options_out_of_place_are_usage_errors(tmp_path: Path, option: list[str]) -> None:
    result = ssld("fit", "--dataset", "digits", "--out", tmp_path / "run", *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr
    assert files(tmp_path) == {}


def test_errors_are_json_too(tmp_path: Path) -> None:
    result = ssld("fit", "--dataset", "digits", "--labeled", 5, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 2
    printed = json.loads(result.stdout)
    assert printed["kind"] == "DataError"
    assert f"ssld: error: {printed['error']}" in result.stderr


def test_existing_folder_is_kept(copy: Path, tiny: list[str]) -> None:
    before = files(copy)
    sentence = refused("fit", "--dataset", "digits", "--labeled", 20, "--out", copy, *tiny)
    assert "--overwrite replaces it" in sentence
    assert "finished run" in sentence
    (copy / "metrics.json").unlink()
    sentence = refused("fit", "--dataset", "digits", "--labeled", 20, "--out", copy, *tiny)
    assert f"continue it with --resume {copy}" in sentence
    assert "--overwrite" in sentence
    assert files(copy) == {name: content for name, content in before.items() if name != "metrics.json"}


@pytest.mark.usefixtures("no_pictures")
def test_overwrite_replaces_a_run_and_nothing_else(copy: Path, tmp_path: Path, tiny: list[str]) -> None:
    fit = ["fit", "--dataset", "digits", "--labeled", 30, *tiny, "--overwrite", "--out"]
    (copy / "notes.txt").touch()
    ok(*fit, copy)
    assert json.loads((copy / "metrics.json").read_text())["n_labeled"] == 30
    assert not (copy / "notes.txt").exists()
    album = tmp_path / "album"
    album.mkdir()
    (album / "holiday.jpg").write_bytes(b"precious")
    assert "is not a run folder, so --overwrite will not delete it" in refused(*fit, album)
    assert files(album) == {"holiday.jpg": b"precious"}


def test_overwrite_with_impossible_settings_keeps_the_old_run(copy: Path) -> None:
    before = files(copy)
    refused("fit", "--dataset", "digits", "--labeled", 5000, "--overwrite", "--out", copy)
    assert files(copy) == before


# ---- resume


@pytest.mark.usefixtures("no_pictures")
def test_resumed_run_ends_like_the_uninterrupted_one(unfinished: Path, run: Path) -> None:
    ok("fit", "--resume", unfinished, "--no-cache", *CPU)
    first, second = (load_tensors(path / "model.safetensors")[0] for path in (run, unfinished))
    assert first.keys() == second.keys()
    assert all(t.equal(second[name]) for name, t in first.items())
    then, now = (json.loads((path / "metrics.json").read_text()) for path in (run, unfinished))
    for name in ("test_accuracy", "test_nll", "test_ece", "val_accuracy", "images_seen"):
        assert now[name] == then[name]


@pytest.mark.usefixtures("no_pictures")
def test_the_same_settings_may_be_repeated_on_resume(unfinished: Path, tiny: list[str]) -> None:
    ok("fit", "--resume", unfinished, "--dataset", "digits", "--labeled", 20, "--val-fraction", 0.5, *tiny)


def test_finished_run_is_not_resumed(run: Path) -> None:
    before = files(run)
    assert f"{run} is finished; use --overwrite" in refused("fit", "--resume", run)
    assert files(run) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "7"], "training.steps: 6 -> 7"),
        (["--labeled", "30"], "labels.budget: 20 -> 30"),
        (["--seed", "5", "--set", "model.channels=16"], "model.channels: 8 -> 16; training.seed: 0 -> 5"),
        (["--dataset", "mnist"], "data.dataset: 'digits' -> 'mnist'"),
        (["--out", "elsewhere"], "leave out --out and --overwrite"),
        (["--overwrite"], "leave out --out and --overwrite"),
    ],
)
def test_resume_with_other_settings_names_them(unfinished: Path, arguments: list[str], message: str) -> None:
    before = files(unfinished)
    assert message in refused("fit", "--resume", unfinished, *arguments)
    assert files(unfinished) == before


def test_resume_of_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    assert f"no run folder {tmp_path / 'nowhere'}" in refused("fit", "--resume", tmp_path / "nowhere")
    assert "is not a run folder (it has no recipe.toml)" in refused("fit", "--resume", tmp_path / "album")
    assert files(tmp_path) == {"album": None}


@pytest.mark.parametrize("change", ["label", "fewer", "twice", "unknown id", "role", "columns", "gone"])
def test_resume_with_changed_labels_is_refused(unfinished: Path, change: str) -> None:
    path = unfinished / "labeled.csv"
    frame = pd.read_csv(path, dtype=str)
    if change == "label":
        frame.loc[3, "label"] = str((int(frame.loc[3, "label"]) + 1) % 10)
    elif change == "fewer":
        frame = frame.iloc[:-1]
    elif change == "twice":
        frame = pd.concat([frame, frame.iloc[:1]])
    elif change == "unknown id":
        frame.loc[0, "id"] = "train/99999"
    elif change == "role":
        frame.loc[0, "role"] = "test"
    elif change == "columns":
        frame = frame.rename(columns={"label": "class"})
    frame.to_csv(path, index=False)
    if change == "gone":
        path.unlink()
    before = files(unfinished)
    assert "label" in refused("fit", "--resume", unfinished)
    assert files(unfinished) == before


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("change", ["pixel", "image gone", "class renamed", "folder gone"])
def test_resume_with_a_changed_pool_is_refused(photos: Path, tmp_path: Path, tiny: list[str], change: str) -> None:
    out = tmp_path / "run"
    ok(
        "fit",
        "--data",
        photos,
        "--labeled",
        9,
        "--out",
        out,
        *tiny,
        "--set",
        "pretraining.steps=1",
        "--set",
        "training.steps=1",
    )
    (out / "metrics.json").unlink()
    image = next(photos.rglob("*.png"))
    if change == "pixel":
        pixels = np.asarray(Image.open(image)).copy()
        pixels[0, 0] ^= 64
        Image.fromarray(pixels).save(image)
    elif change == "image gone":
        image.unlink()
    elif change == "class renamed":
        (photos / "2").rename(photos / "two")
    else:
        shutil.rmtree(photos)
    wanted = {"pixel": "fingerprint", "image gone": "n_train: 24 -> 23", "class renamed": "'two'", "folder gone": str(photos)}
    assert wanted[change] in refused("fit", "--resume", out)
    assert not (out / "metrics.json").exists()


# ---- predict and evaluate


@pytest.mark.parametrize("damage", ["truncated", "text", "pickle", "gone"])
def test_damaged_model_is_named(copy: Path, photos: Path, tmp_path: Path, damage: str) -> None:
    model = copy / "model.safetensors"
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif damage == "gone":
        model.unlink()
    else:
        model.write_bytes(b"\x80\x04K\x01." if damage == "pickle" else b"not a model")
    for command in (["predict", copy, photos, "--out", tmp_path / "p.csv"], ["evaluate", copy]):
        sentence = refused(*command, *CPU)
        assert (
            "no model yet" in sentence if damage == "gone" else "model.safetensors is damaged or not a checkpoint" in sentence
        )
    assert not (tmp_path / "p.csv").exists()


def test_predict_without_images(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    before = files(tmp_path)
    out = tmp_path / "new" / "p.csv"
    assert f"no images in {tmp_path / 'empty'}" in refused("predict", run, tmp_path / "empty", "--out", out, *CPU)
    assert f"no file or folder {tmp_path / 'nowhere'}" in refused("predict", run, tmp_path / "nowhere", "--out", out, *CPU)
    assert "no run folder" in refused("predict", tmp_path / "nowhere", tmp_path / "empty", "--out", out, *CPU)
    assert files(tmp_path) == before


def test_predict_with_a_bad_image(run: Path, photos: Path, tmp_path: Path) -> None:
    bad = photos / "1" / "0000-bad.png"
    bad.write_bytes(next(photos.rglob("*.png")).read_bytes()[:60])
    out = tmp_path / "p.csv"
    out.write_text("kept")
    before = files(tmp_path)
    assert "1/0000-bad.png" in refused("predict", run, photos, "--out", out, *CPU)
    assert files(tmp_path) == before
    printed = json.loads(ok("predict", run, photos, "--out", out, *CPU, "--skip-bad", "--json").stdout)
    assert printed["predictions"] == 24
    assert [skipped["id"] for skipped in printed["skipped"]] == ["1/0000-bad.png"]
    assert len(pd.read_csv(out)) == 24


@pytest.mark.parametrize("options", [["--precision", "fp16"], ["--accelerator", "cudda"], ["--accelerator", "mps"]])
def test_predict_on_what_is_not_there(run: Path, photos: Path, tmp_path: Path, options: list[str]) -> None:
    refused("predict", run, photos, "--out", tmp_path / "p.csv", *options)
    assert not (tmp_path / "p.csv").exists()


def test_predict_where_nothing_can_be_written(run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in refused("predict", run, photos, "--out", tmp_path / "file" / "p.csv", *CPU)
    assert "cannot write" in refused("predict", run, photos, "--out", photos, *CPU)


# ---- how it behaves as a program


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_import_and_help_do_without_torch() -> None:
    heavy = "heavy = {m for m in ('torch', 'sklearn', 'pandas', 'matplotlib', 'numpy') if m in sys.modules}"
    imported = python(f"import sys, ssl_diffusion; dir(ssl_diffusion); {heavy}; print(heavy)")
    assert imported.stdout.strip() == "set()", imported.stderr
    code = f"""
import sys
from ssl_diffusion.cli.main import app
for arguments in (["--help"], ["fit", "--help"], ["predict", "--help"], ["--version"]):
    try:
        app(arguments)
    except SystemExit as end:
        assert not end.code, end.code
{heavy}
print(heavy)
"""
    helped = python(code)
    lines = helped.stdout.splitlines()
    assert lines[-1] == "set()", helped.stderr
    assert lines[-2] == f"ssld {ssl_diffusion.__version__}"
    assert "--pretrain-steps" in helped.stdout


def test_public_names_are_found_on_first_use() -> None:
    for name in ssl_diffusion.__all__:
        assert getattr(ssl_diffusion, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ssl_diffusion.nothing  # noqa: B018


def test_no_arguments_show_the_help() -> None:
    result = ssld()
    assert "fit" in result.output
    assert "doctor" in result.output


@pytest.mark.usefixtures("no_pictures")
def test_quiet_prints_the_result_only(tmp_path: Path, tiny: list[str]) -> None:
    result = ok("fit", "--dataset", "digits", "--labeled", 20, "--out", tmp_path / "run", *tiny, "--quiet")
    assert result.stderr == ""
    assert "test accuracy" in result.stdout
    assert "1437 training images" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_result_says_truly_whether_the_denoiser_is_in_the_cache(tmp_path: Path, tiny: list[str]) -> None:
    def line(*options: object) -> str:
        fit = ["fit", "--dataset", "digits", "--labeled", 20, *tiny, "--out", tmp_path / "run", "--overwrite", *options]
        return next(line for line in ok(*fit).stdout.splitlines() if line.startswith("pretraining"))

    cache = ["--cache-dir", tmp_path / "cache"]
    assert "cache" not in line("--no-cache")
    assert "now in the cache" in line(*cache)
    assert "from the cache" in line(*cache)
