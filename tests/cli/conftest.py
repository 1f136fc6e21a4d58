"""A folder for wrong commands: what they are given lies in it, and none of them may change it."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.bad_files import IMAGES, TABLES
from support.bad_labels import LABELS
from support.bad_settings import JOBS, RECIPES, STUDIES
from support.commands import ok, write_digits

from ssl_diffusion.annotation.loop.current_model import present_model
from ssl_diffusion.annotation.loop.job import open_job
from ssl_diffusion.data.pool import Pool


@pytest.fixture(scope="session")
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
    (root / "tables").mkdir()
    for name, content in TABLES.items():
        (root / "tables" / f"{name}.csv").write_bytes(content)
    write_settings(root)
    (root / "labels").mkdir()
    for name, content in LABELS.items():
        (root / "labels" / name).write_bytes(content.replace(b"SAMPLE", names[0].removeprefix("photos/").encode()))
    (root / "unlabeled").mkdir()
    for i, name in enumerate(names[:4]):
        shutil.copy(root / name, root / "unlabeled" / f"{i}.png")
    for name, content in IMAGES.items():
        (root / name).mkdir()
        (root / name / "x.png").write_bytes(content)
    (root / "pipes" / "link.png").symlink_to("../fifo")
    (root / "dangling").symlink_to("nowhere")
    (root / "round").symlink_to("round")
    before = os.getcwd()
    os.chdir(root)  # the name of a socket may have 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
        ok("loop", "init", "job", "--data", "photos", "--folders", "classes", "-q")
        ok("loop", "init", "unlabeled-job", "--data", "unlabeled", "-q")
        for name in ("job", "unlabeled-job"):  # what the first round keeps there, even if it then refuses a strategy
            present_model(open_job(Path(name)))
    finally:
        os.chdir(before)
    return root


def write_settings(root: Path) -> None:
    """Faulty recipes and studies as files, and folders of jobs and studies that hold nothing but faulty settings."""
    for folder, contents, name in (
        ("recipes", RECIPES, "{}.toml"),
        ("studies", STUDIES, "{}.toml"),
        ("study-folders", STUDIES, "{}/study.toml"),
        ("jobs", JOBS, "{}/job.toml"),
    ):
        for fault, content in contents.items():
            path = root / folder / name.format(fault)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def postscript() -> bytes:
    """An EPS file that Pillow can identify."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"


def state(root: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a folder, but for databases and locks, which are opened.

    Written with `os.scandir`: it is asked twice a case, and with paths it took three times as long as the commands.
    """
    found = {}
    left = [os.fspath(root)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if ".db" in entry.name or ".lock" in entry.name:
                    continue
                facts, is_folder = entry.stat(follow_symlinks=False), entry.is_dir(follow_symlinks=False)
                found[entry.path] = (facts.st_mode, facts.st_size, 0 if is_folder else facts.st_mtime_ns)
                if is_folder:
                    left.append(entry.path)
    return found


@pytest.fixture
def _here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands run in the folder, and leave it as it is."""
    monkeypatch.chdir(world)
    monkeypatch.setattr("ssl_diffusion.machine.bind_threads", lambda threads: None)
    before = state(world)
    yield
    assert state(world) == before
