"""Files and folders are complete or absent, whatever happens while they are written."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_diffusion.errors import RunError
from ssl_diffusion.storage import TEMPORARY, atomic_file, atomic_folder, atomic_write_text, remove_temporary


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "x.tar.gz"
    with atomic_file(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".gz")
        temporary.write_bytes(b"first")
        assert not path.exists()
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"second")
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["x.tar.gz"]


def test_text_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    atomic_write_text(path, "ü\r\nb\n")
    assert path.read_bytes() == "ü\r\nb\n".encode()


def test_permissions_follow_the_umask_or_the_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    atomic_write_text(tmp_path / "x", "")
    with atomic_folder(tmp_path / "f"):
        pass
    atomic_write_text(tmp_path / "secret", "", mode=0o600)
    with atomic_file(tmp_path / "narrowed") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))
    assert permissions(tmp_path / "x") == permissions(tmp_path / "narrowed") == permissions(tmp_path / "plain")
    assert permissions(tmp_path / "f") == permissions(tmp_path / "folder")
    assert permissions(tmp_path / "secret") == 0o600


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "secret", mode=0o600) as temporary:
        assert permissions(temporary) == 0o600


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    atomic_write_text(tmp_path / "file", "first")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("first")

    def fail_in_file() -> None:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("second")
            raise error

    def fail_in_folder() -> None:
        with atomic_folder(tmp_path / "folder", discard=shutil.rmtree) as temporary:
            (temporary / "a").write_text("second")
            raise error

    for fail in (fail_in_file, fail_in_folder):
        with pytest.raises(error):
            fail()
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "first"
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("where", ["os.replace", "os.fsync", "pathlib.Path.touch", "pathlib.Path.write_text"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "metrics.json"
    atomic_write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(RunError, match=rf"^cannot write {path} \(No space left on device\)$"):
            atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.mkdir", "pathlib.Path.rename"])
@pytest.mark.parametrize("discard", [None, shutil.rmtree])
def test_a_full_disk_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, discard: Callable[[Path], object] | None
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    if discard is not None:
        (path / "a").write_text("old")

    def write() -> None:
        with atomic_folder(path, discard) as temporary:
            (temporary / "a").write_text("new")

    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(RunError, match=r"cannot write .*No space left"):
            write()
    assert [name for name in names(tmp_path) if name.startswith(TEMPORARY)] == []
    if discard is not None:
        assert (path / "a").read_text() == "old"
    write()
    assert (path / "a").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_an_exchange_that_fails_halfway_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "out", Path.rename
    path.mkdir()
    (path / "a").write_text("old")

    def second_fails(self: Path, target: Path) -> Path:
        return full_disk() or self if target == path and not (self / "a").exists() else rename(self, target)

    def write() -> None:
        with atomic_folder(path, shutil.rmtree) as temporary:
            (temporary / "b").write_text("new")

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(RunError, match="cannot write"):
        write()
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_folder_with_files_is_only_replaced_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "own"
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")

    def write(discard: Callable[[Path], object] | None) -> None:
        with atomic_folder(path, discard) as temporary:
            (temporary / "a").touch()

    with pytest.raises(RunError, match=r"cannot write .*own"):
        write(None)
    assert names(path) == ["thesis.txt"]
    discarded: list[list[str]] = []
    write(lambda old: (discarded.append(names(old)), shutil.rmtree(old)))
    assert discarded == [["thesis.txt"]]
    assert names(path) == ["a"]
    assert names(tmp_path) == ["own"]


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "x") as first, atomic_file(tmp_path / "x") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x").read_text() == "first"
    assert names(tmp_path) == ["x"]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder in which a writer of a file and of a folder was killed."""
    code = f"""
import os, signal
from pathlib import Path
from ssl_diffusion.storage import atomic_file, atomic_folder
with atomic_folder(Path({str(tmp_path)!r}) / "folder") as made, atomic_file(Path({str(tmp_path)!r}) / "file") as temporary:
    (made / "a").write_text("half")
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_what_a_killed_writer_leaves_is_known_and_removed(killed: Path) -> None:
    assert [name.startswith(TEMPORARY) for name in names(killed)] == [True, True]
    (killed / "other").touch()
    remove_temporary(killed)
    assert names(killed) == ["other"]
