"""`ssld query` and `ssld strategies`: batches in every format, and nothing written over by mistake."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import CPU, ok, refused

from ssl_diffusion.acquisition import STRATEGIES
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.outputs import MANIFEST

MARGIN = ["--strategy", "margin", "--quiet", *CPU]


def test_a_batch_as_csv_with_a_picture(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "batch.csv"
    values = json.loads(ok("query", tiny_run, "--n", 5, "--out", out, "--picture", "--json", *CPU).stdout)
    assert Path(values["map"]).read_bytes().startswith(b"\x89PNG")
    frame = pd.read_csv(out)
    assert frame["id"].tolist() == values["ids"]
    assert values["strategy"] == "uherding"  # 40 labels for 10 classes
    assert (tmp_path / "a" / "batch.png").stat().st_size > 10_000
    labeled = pd.read_csv(tiny_run / "labeled.csv")["id"]
    assert not set(frame["id"]) & set(labeled)


def test_labels_since_the_fit_are_not_chosen_again(tiny_run: Path, tmp_path: Path) -> None:
    ok("query", tiny_run, "--n", 6, "--out", tmp_path / "one.csv", *MARGIN)
    ok("query", tiny_run, "--n", 6, "--out", tmp_path / "two.csv", "--labeled", tmp_path / "one.csv", *MARGIN)
    one, two = (set(pd.read_csv(tmp_path / name)["id"]) for name in ("one.csv", "two.csv"))
    assert not one & two
    ok("query", tiny_run, "--n", 12, "--out", tmp_path / "both.csv", *MARGIN)
    assert set(pd.read_csv(tmp_path / "both.csv")["id"]) == one | two


def test_a_folder_to_label_by_hand(tiny_run: Path, tmp_path: Path, digits_pool: Pool) -> None:
    out = tmp_path / "batch"
    ok("query", tiny_run, "--n", 4, "--out", out, "--format", "folder", *MARGIN)
    frame = pd.read_csv(out / "batch.csv")
    assert {p.name for p in out.iterdir()} == {"batch.csv", *frame["file"], MANIFEST}
    assert frame["label"].isna().all()
    for sample, file in zip(frame["id"], frame["file"], strict=True):
        image = np.array(Image.open(out / file))
        np.testing.assert_array_equal(image, digits_pool.images[digits_pool.positions([sample])][0, 0])


def test_label_studio_tasks_keep_the_order_and_carry_the_image(tiny_run: Path, tmp_path: Path, digits_pool: Pool) -> None:
    out = tmp_path / "tasks.json"
    ok("query", tiny_run, "--n", 4, "--out", out, "--format", "label-studio", *MARGIN)
    ok("query", tiny_run, "--n", 4, "--out", tmp_path / "batch.json", "--format", "json", *MARGIN)
    tasks = json.loads(out.read_text(encoding="utf-8"))
    batch = json.loads((tmp_path / "batch.json").read_text(encoding="utf-8"))
    assert [task["data"]["id"] for task in tasks] == [row["id"] for row in batch["samples"]]
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores == [0.125, 0.375, 0.625, 0.875]
    header, _, data = tasks[0]["data"]["image"].partition(",")
    assert header == "data:image/png;base64"
    image = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(image, digits_pool.images[digits_pool.positions([tasks[0]["data"]["id"]])][0, 0])
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"][0] in digits_pool.classes


def test_draws_by_power_repeat_with_their_seed(tiny_run: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        ok("query", tiny_run, "--n", 5, "--power", 1, "--seed", seed, "--out", tmp_path / f"{name}.csv", *MARGIN)
    one, again, two = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("one", "again", "two"))
    pd.testing.assert_frame_equal(one, again)
    assert one["id"].tolist() != two["id"].tolist()
    assert (one["selection_probability"] < 0.1).all()


def test_a_cold_start_needs_no_labels(unlabeled_run: Path, tmp_path: Path) -> None:
    values = json.loads(ok("query", unlabeled_run, "--n", 3, "--out", tmp_path / "b.csv", "--picture", "--json", *CPU).stdout)
    assert values["strategy"] == "maxherding"
    assert "there is no classifier yet" in values["reason"]


def test_strategies_are_listed() -> None:
    rows = json.loads(ok("strategies", "--json").stdout)["strategies"]
    assert [row["name"] for row in rows] == list(STRATEGIES)
    text = ok("strategies").stdout
    assert all(name in text for name in STRATEGIES)
    assert "then margin:diverse" in text


def test_a_batch_is_replaced_only_when_asked(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "batch.csv"
    ok("query", tiny_run, "--n", 3, "--out", out, *MARGIN)
    assert "--overwrite replaces it" in refused("query", tiny_run, "--n", 2, "--out", out, *MARGIN)
    assert len(pd.read_csv(out)) == 3
    ok("query", tiny_run, "--n", 2, "--out", out, "--overwrite", *MARGIN)
    assert len(pd.read_csv(out)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--strategy", "margins"], "did you mean margin"),
        (["--format", "xml"], "no format 'xml'"),
        (["--strategy", "badge", "--power", "1"], "chooses batches as a whole"),
        (["--labeled", "missing.csv"], "missing.csv"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(tiny_run: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in refused("query", tiny_run, *arguments, "--out", tmp_path / "batch.csv", *CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_strategy_without_its_classifier_is_refused(unlabeled_run: Path, tmp_path: Path) -> None:
    said = refused("query", unlabeled_run, "--out", tmp_path / "b.csv", *MARGIN)
    assert "needs a classifier" in said
