"""The real Label Studio for tests, where SSLD_LABEL_STUDIO names its program, and what its annotators do."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ssl_diffusion.annotation.label_studio.client import LabelStudio

TOKEN = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = os.environ.get("SSLD_LABEL_STUDIO")
needs_server = pytest.mark.skipif(PROGRAM is None, reason="SSLD_LABEL_STUDIO does not name the label-studio program")
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    + "".join(f'<Choice value="{k}"/>' for k in range(10))
    + "</Choices></View>"
)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def eventually(holds: Callable[[], bool], seconds: float = 90, pause: float = 0.05) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(pause)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a server answers; the first start of Label Studio takes a minute or two."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


@contextmanager
def label_studio_server(folder: Path) -> Iterator[LabelStudio]:
    """A server of its own, with one user, which may call programs on this machine."""
    environment = {
        **os.environ,
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_USERNAME": "ann@example.test",
        "LABEL_STUDIO_PASSWORD": "a password for a test",
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "WEBHOOK_TIMEOUT": "5",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    assert PROGRAM is not None
    port, log = free_port(), folder / "log.txt"
    command = [PROGRAM, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        with LabelStudio(f"http://127.0.0.1:{port}", TOKEN) as server:
            yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def new_project(server: LabelStudio) -> int:
    return int(server.call("POST", "/api/projects/", {"title": "digits", "label_config": CONFIG})["id"])


def choice(label: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}


def next_task(server: LabelStudio, project: int) -> dict[str, Any]:
    """What an annotator gets next."""
    return dict(server.call("GET", f"/api/projects/{project}/next"))


def annotate(server: LabelStudio, task: int, label: str | None, **more: Any) -> dict[str, Any]:
    """What a click does; None skips."""
    body = {"result": [] if label is None else [choice(label)], "was_cancelled": label is None, **more}
    return dict(server.call("POST", f"/api/tasks/{task}/annotations/", body))
