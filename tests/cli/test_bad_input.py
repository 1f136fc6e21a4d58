"""Wrong input, a line a case: exit code 2, one sentence that says what is wrong, nothing written, nothing deleted.

A case is a line of a table in `bad_input/`: a command and a pattern of its message, with => between them; the message is
compared in lower case. Commands run in a folder that holds what :func:`world` makes; {nul}, {long}, {bytes} and the like stand
for what a line cannot hold. A case that would wait for ever if nothing guarded it may also stand in :data:`SLOW`, which runs
each in a process of its own.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import ok, ssld, write_digits

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError

SLOW = """
predict run pipes
fit --data fifo
loop import job fifo
"""


def cases() -> list[tuple[str, str]]:
    """Commands and words of their messages, from all tables."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).with_name("bad_input").glob("*.txt"))]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    return [(command, words) for command, words in (line.split(" => ") for line in lines)]


STANDS_FOR = {
    "{nul}": "a\0b",
    "{long}": "n" * 300,
    "{bytes}": os.fsdecode(b"caf\xe9"),
    "{400 digits}": "9" * 400,
}


def words_of(command: str) -> list[str]:
    """The words of a command line, with what the placeholders stand for."""
    names = {name: f"@{i}@" for i, name in enumerate(STANDS_FOR)}
    for name, mark in names.items():
        command = command.replace(name, mark)
    words = shlex.split(command)
    for name, mark in names.items():
        words = [word.replace(mark, STANDS_FOR[name]) for word in words]
    return words


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool, tiny_run: Path) -> Path:
    """A folder with images, a table, a run, a job, and things that are no files; no case changes it."""
    root = tmp_path_factory.mktemp("world")
    chosen = np.concatenate([np.flatnonzero(digits_pool.labels == k)[:3] for k in range(3)]).tolist()
    photos = write_digits(root / "photos", digits_pool, chosen)
    names = sorted(path.relative_to(root).as_posix() for path in photos.rglob("*.png"))
    (root / "table.csv").write_text("path,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in names))
    (root / "latin1.csv").write_bytes("path,label\ncaf\xe9.png,a\n".encode("latin-1"))
    (root / "longcell.csv").write_text(f"path,label\n{'n' * 300}.png,a\n")
    shutil.copy(root / names[0], root / "x.png")
    shutil.copytree(tiny_run, root / "run")
    for name in ("empty", "folder.csv", "other", "pipes", "eps"):
        (root / name).mkdir()
    (root / "other" / "note.txt").write_text("mine")
    (root / "eps" / "e.png").write_bytes(postscript())
    for name in ("fifo", "fifo.csv", "fifo.toml"):
        os.mkfifo(root / name)
    (root / "pipes" / "link.png").symlink_to("../fifo")
    (root / "dangling").symlink_to("nowhere")
    (root / "round").symlink_to("round")
    before = os.getcwd()
    os.chdir(root)  # the name of a socket may have 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
        ok("loop", "init", "job", "--data", "photos", "-q")
    finally:
        os.chdir(before)
    return root


def postscript() -> bytes:
    """An EPS file that Pillow can identify."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a folder, but for the databases that are opened."""
    found = {}
    for path in [root, *root.rglob("*")]:
        if ".db" not in path.name:  # nor looked at: a connection that is closed late takes its journal with it
            facts = path.lstat()
            changed = 0 if path.is_dir() and not path.is_symlink() else facts.st_mtime_ns
            found[path.relative_to(root).as_posix()] = (facts.st_mode, facts.st_size, changed)
    return found


@pytest.fixture
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands run in the folder, and leave it as it is."""
    monkeypatch.chdir(world)
    monkeypatch.setattr("ssl_diffusion.machine.bind_threads", lambda threads: None)
    before = state(world)
    yield
    assert state(world) == before


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("command", "words"), cases(), ids=[command[:60] for command, _ in cases()])
def test_wrong_input_is_one_sentence(command: str, words: str) -> None:
    result = ssld(*words_of(command), "--quiet")
    said = result.stderr
    assert result.exit_code == 2, (result.exit_code, said, result.exception)
    assert result.stdout == ""
    assert said.count("ssld: error: ") == 1, said
    assert said.startswith("ssld: error: "), said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 3, said
    assert len(said) < 700, said
    assert re.search(words, said.lower()), said


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("command", SLOW.split("\n")[1:-1])
def test_nothing_waits_for_a_pipe(command: str) -> None:
    program = [sys.executable, "-m", "ssl_diffusion.cli", *command.split(), "--quiet"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") <= 2, done.stderr


@pytest.mark.usefixtures("_here")
def test_no_image_is_given_to_ghostscript(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_diffusion.data.thumbnails import shown_image

    called = tmp_path / "called"
    fake = tmp_path / "gs"
    fake.write_text(f"#!/bin/sh\ntouch {called}\necho 10.0\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    file = world / "eps" / "e.png"
    ssld("predict", "run", "eps")
    with pytest.raises(DataError, match="not an image"):
        shown_image(file, 4)
    assert not called.exists()
    with Image.open(file) as image, suppress(OSError):  # what has been kept away; the false interpreter draws nothing
        image.load()
    assert called.exists()
