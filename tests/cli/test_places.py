"""Places to write to: judged before any work, nothing half-written, leftovers of killed commands removed; and who is warned."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import CPU, files, ok, refused

from ssl_diffusion import outputs, storage
from ssl_diffusion.data.pool import Pool


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nobody may write to, not even root."""
    folder = tmp_path / "closed"
    folder.mkdir()
    access = os.access

    def no(path: Any, mode: int, **more: Any) -> bool:
        return access(path, mode, **more) and not (mode & os.W_OK and Path(path) == folder)

    monkeypatch.setattr(outputs.os, "access", no)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--dataset", "digits", "--out", "{closed}/r"),
        ("fit", "--dataset", "digits", "--out", "r", "--cache-dir", "{closed}/c"),
        ("predict", "{run}", "{photos}", "--out", "{closed}/p.csv"),
        ("evaluate", "{run}", "--out", "{closed}/e"),
        ("sample", "{run}", "--out", "{closed}/s"),
        ("explain", "{run}", "--id", "a", "--out", "{closed}/x"),
        ("query", "{run}", "--out", "{closed}/b.csv"),
        ("query", "{run}", "--picture", "--out", "{closed}/below/b.csv"),
        ("study", "--dataset", "digits", "--out", "{closed}/st"),
    ],
)
def test_a_place_is_judged_before_the_work(
    words: tuple[str, ...], closed: Path, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def works(*_: Any, **__: Any) -> None:
        raise AssertionError("the work has begun")

    for place in ("inference.run.load_run", "training.fit.load_pool", "studies.runner.load_pool"):
        monkeypatch.setattr(f"ssl_diffusion.{place}", works)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    said = refused(*(word.format(closed=closed, run=run, photos=photos) for word in words), "-q")
    assert f"the folder {outputs.shown_path(closed)} may not be written to" in said
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "words", [("query", "--n", 3, "--no-scores", "--picture", "--out", "b.csv"), ("evaluate", "--out", "e")]
)
def test_a_disk_that_is_full_at_the_end(
    words: tuple[Any, ...], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    monkeypatch.chdir(tmp_path)
    command, *more = words
    assert "No space left on device" in refused(command, run, *more, *CPU, "-q")
    assert not [path.name for path in tmp_path.rglob("*") if path.suffix == ".png" or ".tmp" in path.name]


def test_no_run_folder_stays_behind_without_data_or_cache(photos: Path, tmp_path: Path, tiny: list[str]) -> None:
    next(photos.rglob("*.png")).write_bytes(b"no image")
    refused("fit", "--data", photos, "--out", tmp_path / "a", *tiny, "-q")
    refused("fit", "--dataset", "digits", "--out", tmp_path / "b", "--cache-dir", "/dev/null", *tiny, "-q")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_the_next_command_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """A leftover of a process that is dead, of one that lives, of another machine, and files of the same kind of name."""
    code = f"""
import os, signal
from pathlib import Path
from ssl_diffusion.storage import atomic_file, atomic_folder
with atomic_folder(Path({str(tmp_path)!r}) / "out") as a, atomic_file(Path({str(tmp_path)!r}) / "t.csv") as b:
    (a / "x").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert len(list(tmp_path.glob(".tmp-*"))) == 2
    mine = [
        ".tmp-mine",
        ".tmp-99999999-00000000-00000000",
        f".tmp-{os.getpid()}-{storage.HERE}-00000000",
        ".tmp-old-00000000",
    ]
    for name in mine:
        (tmp_path / name).write_text("")
    outputs.remove_left.cache_clear()
    outputs.write_output(tmp_path / "next.csv", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine, ".ssld-outputs.json", "next.csv"])


def test_evaluating_on_training_images_is_a_warning(
    digits_pool: Pool, photos: Path, tmp_path: Path, tiny: list[str], no_pictures: None
) -> None:
    run = tmp_path / "run"
    ok("fit", "--data", photos, "--out", run, *tiny, "--set", "pretraining.steps=1", "--set", "training.steps=1", "-q")
    warned = ok("evaluate", run, "--data", photos, *CPU).stderr
    assert "24 of these 24 images trained" in warned
    assert "leave out --data" in warned
    elsewhere = tmp_path / "elsewhere"
    photos.rename(elsewhere)
    assert "images trained" not in ok("evaluate", run, "--data", elsewhere, *CPU).stderr


def test_ids_of_predictions_are_unique(run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_diffusion.inference.predict_files import collect_images

    image = next(photos.rglob("*.png")).read_bytes()
    for name in ("two/a/x/i.png", "two/b/x/i.png", "two/b/x/j.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    monkeypatch.chdir(tmp_path)

    def ids(*inputs: str) -> list[str]:
        return collect_images([Path(each) for each in inputs])[1]

    assert ids("two/a/x") == ["i.png"]
    assert ids("two/a/x", "two/b") == ["x/i.png", "b/x/i.png", "b/x/j.png"]
    assert ids("two/a/x", "two/b/x") == ["a/x/i.png", "b/x/i.png", "b/x/j.png"]
    assert ids("two/a/x/i.png", "two/b/x/i.png") == ["a/x/i.png", "b/x/i.png"]
    assert ids("two/a/x/i.png", "two/a", "two/../two/a/x/i.png") == ["i.png"]
    monkeypatch.chdir("two/a/x")
    assert ids(".", "../../b/x/j.png") == ["x/i.png", "j.png"]
    ok("predict", run, "i.png", "../../b/x/i.png", *CPU, "--out", tmp_path / "p.csv")
    assert [line.split(",")[0] for line in (tmp_path / "p.csv").read_text().splitlines()] == ["id", "a/x/i.png", "b/x/i.png"]
