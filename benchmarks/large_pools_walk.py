"""The story of docs/how-to/large-pools.md on 200,000 images: every command as a user types it, its time and its memory.

    python benchmarks/large_pools_walk.py --work /tmp/walk                 # 200,000 images of 32 px; a few training steps
    python benchmarks/large_pools_walk.py --work /tmp/walk --images 6000   # the same in minutes

The images are synthetic, ten patterns under noise, PNG files without labels, which `pack` makes the shards of that all other
commands read; only a bucket is left out, of which tests/cli/test_buckets.py has the commands. labels.csv names 5,000. `loop
serve` is asked for the page, for a hundred samples one after the other and their images, and told what they show, by the
requests that the page makes; the second time, by a model of the job, for ten. Then it is stopped as by Ctrl-C. The program is
the one of this Python environment; a command that ended well is not run again. Seconds of the processor, those of Ray's
processes included, are given beside those of the clock, since other programs change them less; memory is that of the largest
process.
"""

import argparse
import io
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from common import RESULTS, high_water, markdown_table, provenance, write_csv
from PIL import Image

SIDE, CLASSES, LABELED, ASKED = 32, 10, 5000, 100
FEW = ("model.channels=8", "model.blocks=1", "model.decoder_blocks=1", "pretraining.steps=60", "training.steps=40")


def make_images(folder: Path, n: int) -> None:
    """Write image files without labels, a thousand in a folder; goes on where it was stopped."""
    patterns = np.random.default_rng(0).integers(0, 256, (CLASSES, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    for start in range(0, n, 1000):
        rows = range(start, min(start + 1000, n))
        if Path(folder, name_of(rows[-1])).exists():
            continue
        noise = np.random.default_rng(start).integers(-40, 41, (len(rows), SIDE, SIDE, 3), dtype=np.int16)
        images = (patterns[np.array(rows) % CLASSES] + noise).clip(0, 255).astype(np.uint8)
        Path(folder, name_of(start)).parent.mkdir(parents=True, exist_ok=True)
        for i, image in zip(rows, images, strict=True):
            Image.fromarray(image).save(Path(folder, name_of(i)), compress_level=1)


def name_of(i: int) -> str:
    """Path of an image in its folder, which is its sample id."""
    return f"unlabeled/{i // 1000:04d}/{i:07d}.png"


def write_labels(file: Path, ids: Iterable[str]) -> None:
    """A CSV file with what images of these ids show."""
    known = list(ids)
    pd.DataFrame({"id": known, "label": [class_of(sample) for sample in known]}).to_csv(file, index=False)


def class_of(sample: str) -> str:
    """What the image of an id shows."""
    return f"c{int(Path(sample).stem) % CLASSES}"


def commands() -> list[tuple[str, ...]]:
    """What docs/how-to/large-pools.md says, with a small network and few steps."""
    few = tuple(word for text in FEW for word in ("--set", text))
    shards = ("--data", "shards/*.parquet")
    fit = ("fit", *shards, "--labels", "labels.csv", "--labeled", "4000", "--no-cache", *few)
    serve = ("loop", "serve", "job/", "--no-open")
    return [
        ("pack", "photos/", "--out", "shards/", "--size", str(SIDE)),
        (*fit, "--out", "runs/R"),
        ("embed", "runs/R", "shards/", "--out", "features/"),
        ("embed", "runs/R", "shards/", "--out", "features-ray/", "--engine", "ray", "--workers", "2"),
        ("query", "runs/R", "--pool", "features/", "--n", "500", "--strategy", "margin", "--out", "batch.csv"),
        ("predict", "runs/R", "shards/", "--out", "predictions/"),
        ("check", "shards/"),
        (*fit, "--stream", "65536", "--out", "runs/S"),
        ("loop", "init", "job/", *shards, "--classes", ",".join(f"c{k}" for k in range(CLASSES)), *few),
        ("loop", "next", "job/", "--n", str(ASKED)),
        serve,
        ("loop", "fit", "job/", "--cache-dir", "cache"),
        ("loop", "next", "job/", "--n", str(ASKED), "--out", "next.csv"),
        serve,
        ("loop", "export", "job/", "--format", "folder", "--out", "labeled/"),
        ("loop", "move", "job/", "--data", "moved/*.parquet"),
    ]


def use_page(port: int, answers: int) -> None:
    """Open the page of a job, and look at samples and label them by what their ids say.

    Args:
        port: Port on this machine.
        answers: Number of samples to label.
    """
    address = f"http://127.0.0.1:{port}/"

    def asked(path: str, said: dict[str, Any] | None = None, **headers: str) -> bytes:
        data = None if said is None else json.dumps(said).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(urllib.parse.urljoin(address, path), data, headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            content: bytes = answer.read()
        return content

    deadline = time.monotonic() + 900
    while True:
        try:
            assert b"<html" in asked("/")
            break
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    token = {"X-CSRF-Token": json.loads(asked("/api/session"))["csrf"]}
    who = {"annotator": "ann", "holder": "walk"}
    seen = set[str]()
    for number in range(answers):
        sample = json.loads(asked("/api/next", who, **token))["sample"]
        assert sample["id"] not in seen
        seen.add(sample["id"])
        with Image.open(io.BytesIO(asked(sample["image"]))) as image:
            assert image.size == (SIDE, SIDE)
        said = {"id": sample["id"], "verb": "label", "label": class_of(sample["id"]), "token": f"{port}-{number}", **who}
        asked("/api/label", said | {"digest": sample["digest"]}, **token)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


def run(work: Path, command: tuple[str, ...], n: int, number: int) -> dict[str, Any]:
    """Run one command in the folder and measure it."""
    begin, peak, spent = time.perf_counter(), 0, dict[tuple[int, float], float]()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    serves, port, trouble = command[:2] == ("loop", "serve"), free_port(), list[BaseException]()
    words = [*command, "--port", str(port)] if serves else command
    process = psutil.Popen([sys.executable, "-m", "ssl_diffusion.cli", *words, "--quiet"], cwd=work, env=environment)

    def visit() -> None:
        try:
            use_page(port, ASKED if commands().index(command) == number else 10)
        except BaseException as error:
            trouble.append(error)
        process.send_signal(signal.SIGINT)

    visitor = threading.Thread(target=visit, daemon=True)
    if serves:
        visitor.start()
    while True:  # the kernel's high-water mark, since rusage counts the size of this process into it
        with suppress(psutil.Error):
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    peak = max(peak, high_water(each.pid))
                    spent[each.pid, each.create_time()] = sum(each.cpu_times()[:2])
        try:
            status = process.wait(timeout=0.2)
            break
        except psutil.TimeoutExpired:
            continue
    if trouble:
        raise trouble[0]
    if status not in ((0, 130) if serves else (0,)):
        raise SystemExit(f"ssld {' '.join(command)} ended with status {status}")
    name = command[:2] if command[0] == "loop" else command[:1]
    name += tuple(option for option in ("--engine", "--stream") if option in command) + (("ray",) if "ray" in command else ())
    return {
        "command": " ".join(("ssld", *name)),
        "images": n,
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(sum(spent.values()), 1),
        "peak_mb": round(peak / 2**20),
    }


def prepare(work: Path, n: int) -> None:
    """Write image files, shards and labels, once."""
    work.mkdir(parents=True, exist_ok=True)
    make_images(work / "photos", n)
    write_labels(work / "labels.csv", (name_of(i) for i in np.random.default_rng(2).permutation(n)[:LABELED]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--ended", action="store_true", help="run nothing, and write the rows of the commands that have ended")
    arguments = parser.parse_args()
    work, n = arguments.work, arguments.images
    if not arguments.ended:
        prepare(work, n)
    rows = []
    for number, command in enumerate(commands()):
        done = work / f"done-{number}.json"
        if not done.exists():
            if arguments.ended:
                continue
            if command[:2] == ("loop", "move"):
                (work / "shards").rename(work / "moved")
            done.write_text(json.dumps(run(work, command, n, number)))
        rows.append(json.loads(done.read_text()))
        print(rows[-1], flush=True)
    about = provenance()
    write_csv(RESULTS / f"large_pools_walk-{n}.csv", [row | about for row in rows])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
