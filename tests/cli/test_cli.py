"""The command line as a user meets it: a whole flow, one JSON object, one sentence for every mistake, nothing left behind."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, files, ok, refused, ssld
from support.jobs import FINISHED_RUN
from typer.testing import Result

import ssl_diffusion
from ssl_diffusion.data.published.catalog import DATASETS
from ssl_diffusion.training.recipe import recipe_names

# ---- the whole flow


def test_fit_writes_the_run_folder(run: Path) -> None:
    assert {p.name for p in run.iterdir()} == FINISHED_RUN
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
    assert printed["n_labeled"] == 9
    assert printed["n_unlabeled"] + printed["n_test"] == 15
    assert 0 < printed["n_test"] < 15
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
    schema = json.loads(ok("recipes", "--schema").stdout)
    assert schema == json.loads(ok("recipes", "--schema", "--json").stdout)
    assert schema["$defs"]["TrainingSettings"]["properties"]["steps"]["minimum"] == 0


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
        (["--dataset", "digits", "--labeled", "12", "--val-fraction", "0.5"], "no training label for class '"),
        (["--dataset", "digits", "--labeled", "11", "--choice", "uniform"], "--allow-missing-classes"),
        (["--dataset", "digits", "--test-fraction", "0.2"], "--test-fraction"),
        (["--dataset", "digits", "--objective", "jont"], "did you mean joint"),
        (["--dataset", "digits", "--objective", "denoise-only", "--pretrain-steps", "0"], r"pretraining\.steps is 0"),
        (["--dataset", "digits", "--set", "training.stepps=3"], "did you mean .*training.steps"),
        (["--dataset", "digits", "--set", "training.steps"], "section.name=value"),
        (["--dataset", "digits", "--set", "model.dropout=2"], "model.dropout must be in"),
        (["--dataset", "digits", "--set", "training.batch_size=63", "--devices", "2"], "cannot be divided among 2 ranks"),
        (["--dataset", "digits", "--objective", "probe", "--seed", "5000000000"], "invalid value for '--seed'"),
        (["--dataset", "digits", "--accelerator", "cudda"], "--accelerator cannot be 'cudda'"),
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


@pytest.mark.parametrize(
    "option",
    [
        *(["--devices", "0"], ["--threads", "-1"], ["--steps", "many"], ["--no-such-option"]),
        *(["--labeled", "-5"], ["--seed", "-1"], ["--test-fraction", "0.95"], ["--size", "-8"]),
    ],
)
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
    ok(*fit, copy)
    assert json.loads((copy / "metrics.json").read_text())["n_labeled"] == 30
    album = tmp_path / "album"
    album.mkdir()
    (album / "holiday.jpg").write_bytes(b"precious")
    assert "is not a run folder, so --overwrite will not delete it" in refused(*fit, album)
    assert files(album) == {"holiday.jpg": b"precious"}


def test_overwrite_with_impossible_settings_keeps_the_old_run(copy: Path) -> None:
    before = files(copy)
    refused("fit", "--dataset", "digits", "--labeled", 5000, "--overwrite", "--out", copy)
    assert files(copy) == before


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
    with pytest.raises(AttributeError, match=r"attribute '?nothing"):
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
