"""`ssld predict` and `ssld evaluate`: the figures of the run, and what they say of images and models that are no good."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import CPU, files, ok, refused, write_digits

from ssl_diffusion.data.pool import Pool


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
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "per_class.csv",
        "confusion.png",
        "calibration.png",
        ".ssld-outputs.json",
    }


def test_evaluate_on_other_images_matches_classes_by_name(run: Path, photos: Path) -> None:
    (photos / "2").rename(photos / "9")  # classes 0, 1, 9: their positions are not those of the model
    printed = json.loads(ok("evaluate", run, "--data", photos, *CPU, "--json").stdout)
    assert printed["n"] == 24
    assert printed["per_class"][3]["auroc"] is None  # no image has it
    assert printed["intervals"]["macro_f1"][0] <= printed["macro_f1"] <= printed["intervals"]["macro_f1"][1]
    assert {row["class"]: row["n"] for row in printed["per_class"] if row["n"]} == {"0": 8, "1": 8, "9": 8}
    (photos / "9").rename(photos / "ten")
    assert "'ten'" in refused("evaluate", run, "--data", photos, *CPU)


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
    out = tmp_path / "p.csv"
    ok("predict", run, photos, "--out", out, *CPU)
    bad = photos / "1" / "0000-bad.png"
    bad.write_bytes(next(photos.rglob("*.png")).read_bytes()[:60])
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
    assert "is a file, not a folder" in refused("predict", run, photos, "--out", tmp_path / "file" / "p.csv", *CPU)
    assert "belongs to the images" in refused("predict", run, photos, "--out", photos, *CPU)
