"""One process at a time fits a run; a killed one blocks nobody."""

import multiprocessing
import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from support.commands import files, refused

from ssl_diffusion.errors import RunError
from ssl_diffusion.training.run_folder import RunFolder


def hold(path: Path, ready: Connection) -> None:
    with RunFolder(path).alone():
        ready.send(os.getpid())
        signal.pause()


def test_the_second_is_refused_until_the_first_is_killed(unfinished: Path) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(unfinished, there))
    process.start()
    try:
        holder = here.recv()
        before = files(unfinished)
        assert f"is being fitted by process {holder} on {socket.gethostname()}" in refused("fit", "--resume", unfinished, "-q")
        with pytest.raises(RunError, match="is being fitted by"), RunFolder(unfinished).alone():
            pass
        assert files(unfinished) == before
    finally:
        process.kill()
        process.join()
    with RunFolder(unfinished).alone():
        assert str(os.getpid()) in (unfinished / ".ssld-lock-holder").read_text()


def test_a_finished_run_keeps_no_lock(copy: Path) -> None:
    before = files(copy)
    with RunFolder(copy).alone():
        pass
    assert files(copy) == before


def test_a_folder_that_cannot_be_written_is_refused(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("ssl_diffusion.training.run_folder.FileLock.acquire", read_only)
    assert refused("fit", "--resume", unfinished, "-q") == f"cannot write {unfinished} (Read-only file system)"
