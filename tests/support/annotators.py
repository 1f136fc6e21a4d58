"""People who label what the page gives them, as threads that speak its JSON; also used by benchmarks/annotation.py."""

import json
import threading
import time
import uuid
from http.client import HTTPConnection, HTTPException
from typing import Any


class Annotator(threading.Thread):
    """Labels what it gets until it is told to stop or the server is gone.

    Args:
        port: of the page on this machine.
        name: of the annotator.
        pause: seconds of thought before every label.

    Attributes:
        acknowledged: ids and labels that the server has confirmed, in order.
        seconds: that each confirmation took.
        killed: whether the server went away.
    """

    def __init__(self, port: int, name: str, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.who = {"annotator": name, "holder": name}
        self.pause = pause
        self.acknowledged: list[tuple[str, str]] = []
        self.seconds: list[float] = []
        self.killed = False
        self.stop = threading.Event()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def call(self, path: str, body: dict[str, Any] | None, csrf: str = "") -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "X-CSRF-Token": csrf}
        self._connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status} {text[:200]!r}")
        return dict(json.loads(text))

    def run(self) -> None:
        try:
            csrf = self.call("/api/session", None)["csrf"]
            while not self.stop.is_set():
                sample = self.call("/api/next", self.who, csrf)["sample"]
                if sample is None:
                    time.sleep(0.02)
                    continue
                self.stop.wait(self.pause)
                label = str(len(self.acknowledged) % 10)
                body = {**self.who, "id": sample["id"], "verb": "label", "label": label, "digest": sample["digest"]}
                body["token"] = str(uuid.uuid4())
                began = time.perf_counter()
                self.call("/api/label", body, csrf)
                self.seconds.append(time.perf_counter() - began)
                self.acknowledged.append((sample["id"], label))
        except (OSError, HTTPException, ValueError):
            self.killed = True
