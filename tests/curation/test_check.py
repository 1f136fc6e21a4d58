"""`ssld check`: runs, photos and jobs, the page and the files, and labels without the findings."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.commands import ok, refused, write_digits

from ssl_diffusion.curation import collection
from ssl_diffusion.data.pool import Pool

WRONG = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Path:
    """Forty digits of each of four classes, six of them in the wrong folder, a copy, a leak, a dark image and a broken file."""
    root = tmp_path_factory.mktemp("check") / "photos"
    chosen = np.concatenate([np.flatnonzero(digits_pool.labels == k)[:40] for k in range(4)]).tolist()
    write_digits(root / "train", digits_pool, chosen)
    train = root / "train"
    for i, file in enumerate(sorted((train / "0").iterdir())[:WRONG]):
        file.rename(train / "1" / f"wrong{i}.png")
    for k in range(4):
        (root / "test" / str(k)).mkdir(parents=True)
        rows = np.flatnonzero(digits_pool.labels == k)[40:43]
        for i in rows:
            Image.fromarray(digits_pool.images[i, 0]).save(root / "test" / str(k) / f"{i}.png")
    twos = sorted((train / "2").iterdir())
    Image.open(twos[0]).save(train / "2" / "copy.png")
    Image.open(twos[1]).save(root / "test" / "2" / "leak.png")
    Image.fromarray((np.asarray(Image.open(twos[2])) // 6).astype(np.uint8)).save(train / "2" / "dark.png")
    (train / "3" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def features(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pixels of the photos as somebody's features."""
    files = [path for path in sorted(photos.rglob("*.png")) if path.name != "broken.png"]
    z = np.stack([np.asarray(Image.open(path), dtype=np.float32).ravel() for path in files])
    out = tmp_path_factory.mktemp("features") / "vectors.npz"
    np.savez(out, ids=[path.relative_to(photos).as_posix() for path in files], features=z)
    return out


@pytest.fixture(scope="module")
def checked(photos: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    out = tmp_path_factory.mktemp("out") / "check"
    fixes = ("--fix", "labels", "--fix", "duplicates", "--fix", "outliers")
    return json.loads(ok("check", photos, "--features", features, "--out", out, *fixes, "--json").stdout), out


def test_wrong_labels_are_found(checked: tuple[dict[str, object], Path]) -> None:
    printed, out = checked
    table = pd.read_csv(out / "label_issues.csv", dtype=str)
    flagged = table[table["probably_wrong"] == "True"]
    assert printed["label_issues"] == len(flagged)
    found = set(flagged["id"]) & {f"train/1/wrong{i}.png" for i in range(WRONG)}
    assert len(found) >= WRONG - 2
    assert len(flagged) <= WRONG + 1
    assert set(flagged.loc[flagged["id"].isin(found), "suggested"]) == {"0"}


def test_copies_and_leaks_are_found(checked: tuple[dict[str, object], Path]) -> None:
    printed, out = checked
    table = pd.read_csv(out / "duplicates.csv")
    assert {"train/2/copy.png", "test/2/leak.png"} <= set(table["id"])
    assert table.loc[table["id"] == "test/2/leak.png", "leak"].all()
    assert not table.loc[table["id"] == "train/2/copy.png", "leak"].any()
    assert printed["leaks"] == 1


def test_faults_name_what_cannot_be_read(checked: tuple[dict[str, object], Path]) -> None:
    printed, out = checked
    table = pd.read_csv(out / "image_faults.csv")
    assert ("train/3/broken.png", "unreadable") in set(zip(table["id"], table["fault"], strict=True))
    assert printed["unreadable"] == 1
    assert "train/2/dark.png" in set(table["id"])


def test_the_page_needs_nothing_else(checked: tuple[dict[str, object], Path]) -> None:
    _, out = checked
    page = (out / "index.html").read_text(encoding="utf-8")
    assert 'class="leak"' in page
    assert "1 → 0" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count('<div class="scroll"') == page.count('<div class="scroll" tabindex="0" role="region" aria-label="') > 0
    assert Image.open(out / "overview.png").size[0] > 500


def test_fixed_labels_are_a_new_file_that_fit_reads(checked: tuple[dict[str, object], Path], photos: Path) -> None:
    printed, out = checked
    table = pd.read_csv(out / "labels.csv", dtype=str).set_index("path")
    assert "train/2/copy.png" not in table.index or sorted((photos / "train" / "2").iterdir())[0].name not in str(table.index)
    assert "test/2/leak.png" in table.index  # the copy in the training images is left out instead
    assert (table.loc[[f"train/1/wrong{i}.png" for i in range(WRONG)], "label"] == "0").sum() >= WRONG - 2
    changes = printed["changes"]
    assert isinstance(changes, dict)
    assert changes["duplicates"] >= 2
    assert changes["labels"] == printed["label_issues"]
    from ssl_diffusion.data.loading import load_pool
    from ssl_diffusion.data.settings import DataSettings

    pool = load_pool(DataSettings(path=str(out / "labels.csv"), image_root=str(photos)))
    assert len(pool) == len(table)
    assert pool.is_test.sum() == 13


def test_labels_of_a_file_count_instead_of_the_folders(photos: Path, features: Path, tmp_path: Path) -> None:
    ids = [path.relative_to(photos).as_posix() for path in sorted((photos / "train").rglob("*.png"))]
    table = tmp_path / "mine.csv"
    table.write_text("id,label\n" + "".join(f"{i},{'odd' if i[6] in '13' else 'even'}\n" for i in ids if "broken" not in i))
    before = table.read_bytes()
    done = ok(
        "check", photos, "--features", features, "--labels", table, "--out", tmp_path / "out", "--fix", "labels", "--json"
    )
    assert json.loads(done.stdout)["labels"] == len(ids) - 1
    assert set(pd.read_csv(tmp_path / "out" / "classes.csv")["class"]) == {"even", "odd"}
    assert table.read_bytes() == before


def test_a_run_is_checked_with_its_model(tiny_run: Path, tmp_path: Path) -> None:
    printed = json.loads(ok("check", tiny_run, "--out", tmp_path / "check", "--json", "-q").stdout)
    assert printed["images"] == 1797
    assert printed["not_judged"] is None
    assert (pd.read_csv(tmp_path / "check" / "outliers.csv")["denoising"] != 0).any() or printed["outliers"] == 0


def of_the_classes(out: Path) -> str:
    """The last part of the page."""
    return (out / "index.html").read_text(encoding="utf-8").partition('<h2 id="classes">')[2]


def test_what_tells_confused_classes_apart_is_drawn_beside_them(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ssl_diffusion.curation.pair_pictures"), "_PROTOTYPES", 1)
    printed = json.loads(ok("check", tiny_run, "--out", tmp_path / "check", "--pair-pictures", 3, "--json", "-q").stdout)
    shown = of_the_classes(tmp_path / "check")
    pairs = pd.read_csv(tmp_path / "check" / "pairs.csv", dtype={"first": str, "second": str}).head(3)
    assert printed["pair_pictures"] == shown.count("data:image/png;base64,")
    for first, second in zip(pairs["first"], pairs["second"], strict=True):  # in which the model may know no image of a class
        assert f"What tells {first} from {second}" in shown
    assert printed["pair_pictures"] == shown.count(f"ssld explain {tiny_run} --between") > 0
    none = ok("check", tiny_run, "--out", tmp_path / "none", "--pair-pictures", 0, "--json", "-q")
    assert json.loads(none.stdout)["pair_pictures"] == 0
    assert "What tells" not in of_the_classes(tmp_path / "none")


def test_a_model_that_draws_noise_draws_no_pairs(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_diffusion.generation.readiness.LARGEST_RATIO", 0.85)  # that of the product
    assert json.loads(ok("check", tiny_run, "--out", tmp_path / "c", "--json", "-q").stdout)["pair_pictures"] == 0
    shown = of_the_classes(tmp_path / "c")
    assert shown.count("is not drawn: what ") == 1  # and not for every pair
    assert "draws is noise" in shown


def test_labels_with_classes_that_a_run_does_not_know_are_told_of(tiny_run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    labels = zip(digits_pool.ids, (digits_pool.classes[k] for k in digits_pool.labels), strict=True)
    rows = [f"{i},{name}" for i, label in labels if (name := {"3": "three", "8": "8"}.get(label))]
    (tmp_path / "labels.csv").write_text("id,label\n" + "\n".join(rows) + "\n")
    ok("check", tiny_run, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "c", "-q")
    assert "has no class 'three'" in of_the_classes(tmp_path / "c").replace("&#39;", "'")


def test_a_job_is_checked_and_its_findings_can_be_reviewed(photos: Path, tmp_path: Path) -> None:
    from ssl_diffusion.annotation.loop.job import open_job
    from ssl_diffusion.annotation.loop.job_check import check_job
    from ssl_diffusion.annotation.store.store import Action, Actor

    (photos / "train" / "3" / "broken.png").rename(tmp_path / "broken.png")
    try:
        ok("loop", "init", tmp_path / "job", "--data", photos, "--folders", "classes", "-q")
        printed = json.loads(ok("check", tmp_path / "job", "--out", tmp_path / "check", "--json", "-q").stdout)
        job = open_job(tmp_path / "job")
        findings = check_job(job)
        job.store.apply([Action("drop", "train/2/copy.png", Actor("ann"))])
        without = check_job(job)
    finally:
        (tmp_path / "broken.png").rename(photos / "train" / "3" / "broken.png")
    assert printed["labels"] > 160
    assert (findings["kind"] == "label").sum() == printed["label_issues"] > 0
    wrong = findings[findings["id"].isin([f"train/1/wrong{i}.png" for i in range(WRONG)])]
    assert (wrong["suggested"] == "0").any()
    assert {"train/2/copy.png"} <= set(findings.loc[findings["kind"] == "duplicate", "id"]) | set(findings["of"])
    copies = without[without["kind"] == "duplicate"]
    assert "train/2/copy.png" not in {*copies["id"], *copies["of"], *without["id"]}  # a copy that was dropped is none any more
    assert len(copies) < (findings["kind"] == "duplicate").sum()
    assert (tmp_path / "check" / "findings.csv").is_file()


def test_without_labels_all_else_is_checked(photos: Path, features: Path, tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    ids = [path.relative_to(photos).as_posix() for path in sorted((photos / "train" / "1").iterdir())]
    table.write_text("id,label\n" + "".join(f"{i},x\n" for i in ids))
    done = ok("check", photos, "--features", features, "--labels", table, "--out", tmp_path / "out")
    assert "Labels were not judged: label issues need 3 labels of each of two classes" in done.stdout
    assert "copies of each other" in done.stdout
    words = refused("check", photos, "--features", features, "--labels", table, "--out", tmp_path / "b", "--fix", "labels")
    assert "--fix labels has nothing to go by" in words
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            "id,label\nnowhere.png,a\n",
            "names 1 of 1 samples that photos does not have, 'nowhere.png' for one; ids there look like",
        ),
        ("id,label\ntest/0/{},\n", "gives no label: fill in its column 'label'"),
        ("id,label\nx.png,a\nx.png,b\n", "row 3 gives 'x.png' the label 'b', and an earlier one 'a'"),
        ("name,label\nx,a\n", "has no column 'id'"),
        ("id,name\nx,a\n", "has no column 'label'"),
    ],
)
def test_labels_of_other_images_are_refused(photos: Path, tmp_path: Path, rows: str, words: str) -> None:
    first = sorted((photos / "test" / "0").iterdir())[0].name
    (tmp_path / "labels.csv").write_text(rows.replace("{}", first))
    assert words in refused("check", photos, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_features_are_refused(photos: Path, features: Path, tmp_path: Path) -> None:
    with np.load(features) as arrays:
        ids, z = arrays["ids"], arrays["features"].copy()
    np.savez(tmp_path / "few.npz", ids=ids[1:], features=z[1:])
    assert "has no features of 1 of" in refused("check", photos, "--features", tmp_path / "few.npz", "--out", tmp_path / "out")
    z[3, 1] = np.nan
    np.savez(tmp_path / "nan.npz", ids=ids, features=z)
    assert "missing or not finite" in refused("check", photos, "--features", tmp_path / "nan.npz", "--out", tmp_path / "out")


def test_the_pixels_are_read_where_no_backbone_is_wanted(photos: Path, tmp_path: Path) -> None:
    done = ok("check", photos, "--backbone", "none", "--out", tmp_path / "out")
    assert "copies of each other" in done.stdout
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "pixels alone" in page
    assert "pip install" not in page  # it was the wish, not a lack
    assert "give either --backbone or --features" in refused("check", photos, "--backbone", "none", "--features", "f.npz")
    assert "no backbone 'nothing'" in refused("check", photos, "--backbone", "nothing", "--out", tmp_path / "other")


@pytest.mark.parametrize("installed", [True, False])
def test_backbone_auto_is_the_default(
    photos: Path, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(collection, "_PHOTOS", f"precomputed:{features}")  # in place of the network for photos
    if not installed:
        monkeypatch.setattr(collection, "backbone_fault", lambda name: "it is not installed")
    pages = []
    for name, options in (("given", ("--backbone", "auto")), ("left-out", ())):
        ok("check", photos, *options, "--out", tmp_path / name, "--cache-dir", tmp_path / "cache")
        pages.append((tmp_path / name / "index.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert ("the features in vectors.npz" in pages[0]) is installed
    assert ("pip install" in pages[0]) is not installed


def test_options_that_have_no_effect_are_refused(tiny_run: Path, features: Path, photos: Path, tmp_path: Path) -> None:
    assert "a run has its own representation" in refused("check", tiny_run, "--features", features, "--out", tmp_path / "out")
    for name in ("none", "efficientnet-lite0"):
        words = refused("check", tiny_run, "--backbone", name, "--out", tmp_path / "out")
        assert "a run has its own representation and images: leave out --backbone" in words
    assert "--fix mends labels, duplicates, outliers" in refused("check", photos, "--fix", "label", "--out", tmp_path / "out")
    assert "no more than 4 noise levels" in refused("check", tiny_run, "--noise-levels", "5", "--out", tmp_path / "out")
    assert "holds the images that are read" in refused("check", photos, "--out", photos / "check")
