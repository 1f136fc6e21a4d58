"""Outputs never cost a user a file: what exists is replaced only if ssld wrote it and it has not changed since."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.annotation_jobs import make_job
from support.commands import CPU, ok, refused

from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import RunError
from ssl_diffusion.outputs import MANIFEST, output_file, output_folder, write_output

FEW = ["--n", "2", "--steps", "2", "--quiet", *CPU]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_never_removes_photos(photos: Path, tmp_path: Path) -> None:
    """The commonest name there is, labels.csv, once made a folder of photos look like an export."""
    (photos / "labels.csv").write_text("id,label\n0/0.png,0\n", encoding="utf-8")
    ok("loop", "init", tmp_path / "job", "--data", photos, "--folders", "classes", "--quiet")
    before = contents(photos)
    for out in (photos, photos / "export", tmp_path):
        said = refused("loop", "export", tmp_path / "job", "--format", "folder", "--out", out, "--overwrite")
        assert "choose another --out" in said
    assert contents(photos) == before


@pytest.mark.parametrize("marker", ["samples.csv", "counterfactuals.csv", "batch.csv", "labels.csv", MANIFEST])
def test_a_name_is_no_proof_of_who_wrote_a_folder(tiny_run: Path, tmp_path: Path, marker: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / marker).write_text("id,label\n", encoding="utf-8")
    (own / "thesis.txt").write_text("years of work", encoding="utf-8")
    before = contents(own)
    for command in (["sample", tiny_run, *FEW], ["explain", tiny_run, "--id", "test/00001", *CPU]):
        refused(*command, "--out", own, "--overwrite")
    refused("query", tiny_run, "--n", 2, "--strategy", "margin", "--format", "folder", "--out", own, "--overwrite", *CPU)
    refused("evaluate", tiny_run, "--out", own, *CPU)
    assert contents(own) == before


def test_a_label_sheet_that_was_filled_in_is_kept(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet"
    query = ["query", tiny_run, "--n", 2, "--strategy", "margin", "--format", "folder", "--out", out, *CPU]
    ok(*query)
    ok(*query, "--overwrite")
    sheet = out / "batch.csv"
    sheet.write_text(sheet.read_text(encoding="utf-8").replace(",,", ",cat,", 1), encoding="utf-8")
    assert "batch.csv" in refused(*query, "--overwrite")
    assert ",cat," in sheet.read_text(encoding="utf-8")


def test_files_are_replaced_only_if_they_are_our_own(tiny_run: Path, tmp_path: Path, digits_pool: Pool, photos: Path) -> None:
    out = tmp_path / "predictions.csv"
    ok("predict", tiny_run, photos, "--out", out, *CPU)
    ok("predict", tiny_run, photos, "--out", out, *CPU)
    out.write_text("my own notes", encoding="utf-8")
    assert "was not written by ssld" in refused("predict", tiny_run, photos, "--out", out, *CPU)
    assert out.read_text(encoding="utf-8") == "my own notes"
    query = ["query", tiny_run, "--n", 2, "--strategy", "margin", "--overwrite", *CPU, "--out"]
    assert "was not written by ssld" in refused(*query, out)
    job = make_job(tmp_path / "jobs", digits_pool, [])
    for place in (out, job.path / "job.toml", job.path / "images.npy"):
        before = place.read_bytes()
        job.store.label("0001.png", "3", Actor("ann"))
        refused("loop", "export", job.path, "--out", place, "--overwrite")
        assert place.read_bytes() == before


def test_pictures_are_not_written_among_photos(tiny_run: Path, photos: Path, tiny: list[str], tmp_path: Path) -> None:
    ok("fit", "--data", photos, "--labeled", 6, "--out", tmp_path / "run", *tiny, "--quiet")
    before = contents(photos)
    query = ["query", tmp_path / "run", "--n", 1, "--strategy", "random", *CPU]
    refused(*query, "--picture", "--out", photos / "batch.csv")
    for out in (photos, photos / "more"):
        refused("fit", "--data", photos, "--labeled", 6, "--out", out, "--overwrite", *tiny, "--quiet")
        refused("sample", tmp_path / "run", *FEW, "--out", out, "--overwrite")
        refused("study", "--out", out, "--dataset", "digits", "--set", f"data.path={photos}", "--set", "data.dataset=")
        refused("loop", "init", out, "--data", photos)
    assert contents(photos) == before


def test_a_run_folder_with_other_files_is_not_overwritten(tiny_run: Path, tmp_path: Path, tiny: list[str]) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "notes.md").write_text("what I found", encoding="utf-8")
    fit = ["fit", "--dataset", "digits", "--labeled", 20, *tiny, "--overwrite", "--out"]
    assert "notes.md" in refused(*fit, run)
    own = tmp_path / "own"
    own.mkdir()
    (own / "recipe.toml").write_text('name = "mine"\n', encoding="utf-8")  # somebody's own, beside nothing else
    assert "is not a run folder" in refused(*fit, own)
    assert (own / "recipe.toml").read_text(encoding="utf-8") == 'name = "mine"\n'
    assert (run / "notes.md").exists()


@pytest.mark.parametrize("out", ["file/below", "n" * 300, "/dev/null"])
def test_impossible_places_are_refused_before_any_work(tiny_run: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    for command in (["sample", tiny_run, *FEW], ["predict", tiny_run, tmp_path]):
        said = refused(*command, "--out", tmp_path / out)
        assert "--out" in said or "cannot" in said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_block_that_fails_leaves_the_earlier_output(tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "file.csv"
    with output_folder(out) as folder:
        (folder / "a.txt").write_text("first", encoding="utf-8")
    write_output(file, "first")

    def fail_in_folder() -> None:
        with output_folder(out, overwrite=True) as folder:
            (folder / "a.txt").write_text("second", encoding="utf-8")
            raise ZeroDivisionError

    def fail_in_file() -> None:
        with output_file(file, overwrite=True) as temporary:
            temporary.write_text("second", encoding="utf-8")
            raise ZeroDivisionError

    for fail in (fail_in_folder, fail_in_file):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert (out / "a.txt").read_text(encoding="utf-8") == file.read_text(encoding="utf-8") == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "file.csv", "out"]


@settings(max_examples=60, deadline=None)
@given(
    ours=st.dictionaries(st.sampled_from(["a", "b", "d/c", "d/e/f"]), st.binary(max_size=4), min_size=1),
    theirs=st.dictionaries(st.sampled_from(["a", "b", "g", "d/h", "i/j"]), st.binary(max_size=5)),
)
def test_whatever_a_user_does_to_an_output_is_kept(
    tmp_path_factory: pytest.TempPathFactory, ours: dict[str, bytes], theirs: dict[str, bytes]
) -> None:
    out = tmp_path_factory.mktemp("outputs") / "out"

    def write(files: dict[str, bytes], folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    with output_folder(out) as folder:
        write(ours, folder)
    write(theirs, out)
    before = contents(out)
    changed = any(ours.get(name) != content for name, content in theirs.items())

    def again() -> None:
        with output_folder(out, overwrite=True) as folder:
            write({"new": b""}, folder)

    if changed:
        with pytest.raises(RunError, match="choose another --out"):
            again()
        assert contents(out) == before
    else:
        again()
        assert set(contents(out)) == {"new", MANIFEST}
    assert json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"].keys() <= contents(out).keys()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
