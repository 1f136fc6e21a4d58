"""Wrong input, a line a case: exit code 2, one sentence that says what is wrong, nothing written, nothing deleted.

A case is a line of a table in `bad_input/`: a command and a pattern of its message, with => between them; the message is
compared in lower case. Commands run in the folder of the fixture `world`; {nul}, {long}, {bytes} and the like stand
for what a line cannot hold. A case that would wait for ever if nothing guarded it may also stand in :data:`SLOW`, which runs
each in a process of its own.
"""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image
from support.commands import ssld
from support.tried import tried
from support.wrong_words import check_refused, words_of

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


@pytest.mark.timeout(60, func_only=True)  # without the folder of cases, which the first of them makes
@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("command", "words"), cases(), ids=[command[:60] for command, _ in cases()])
def test_wrong_input_is_one_sentence(command: str, words: str) -> None:
    with tried("command lines"):
        check_refused(ssld(*words_of(command), "--quiet"), words)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("command", SLOW.split("\n")[1:-1])
def test_nothing_waits_for_a_pipe(command: str) -> None:
    program = [sys.executable, "-m", "ssl_diffusion.cli", *command.split(), "--quiet"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") <= 2, done.stderr


@pytest.mark.usefixtures("_here")
def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check_refused(
            ssld("loop", "serve", "job", "--no-open", "--port", port), f"port {port} .address already in use.: choose"
        )


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
