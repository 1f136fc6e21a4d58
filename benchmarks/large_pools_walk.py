"""The story of docs/how-to/large-pools.md on 200,000 images: every command as a user types it, its time and its memory.

    python benchmarks/large_pools_walk.py --work /tmp/walk                 # 200,000 images of 32 px; a few training steps
    python benchmarks/large_pools_walk.py --work /tmp/walk --images 6000   # the same in minutes

The images are synthetic, ten patterns under noise. `pack` makes shards of a tenth of them, PNG files without labels; the shards
of all, as it would have made them, are written directly. labels.csv names 5,000. A command that ended well is not run again.
Seconds of the processor are given beside those of the clock, since other programs change them less.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, high_water, markdown_table, provenance, write_csv
from large_pools_data import make_shards
from PIL import Image

SIDE, CLASSES, LABELED = 32, 10, 5000
FEW = ("model.channels=8", "model.blocks=1", "model.decoder_blocks=1", "pretraining.steps=60", "training.steps=40")


def make_images(folder: Path, n: int) -> None:
    """Write image files without labels, a thousand in a folder; goes on where it was stopped."""
    for start in range(0, n, 1000):
        place = folder / "unlabeled" / f"{start // 1000:04d}"
        rows = range(start, min(start + 1000, n))
        if (place / f"{rows[-1]:07d}.png").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(start).integers(0, 256, (len(rows), SIDE, SIDE, 3), dtype=np.uint8)
        for i, image in zip(rows, images, strict=True):
            Image.fromarray(image).save(place / f"{i:07d}.png", compress_level=1)


def write_labels(file: Path, ids: Iterable[str]) -> None:
    """A CSV file with what images of these ids show."""
    known = list(ids)
    pd.DataFrame({"id": known, "label": [f"c{int(sample) % CLASSES}" for sample in known]}).to_csv(file, index=False)


def commands() -> list[tuple[str, ...]]:
    """What docs/how-to/large-pools.md says, with a small network and few steps."""
    few = tuple(word for text in FEW for word in ("--set", text))
    shards = ("--data", "shards/*.parquet")
    return [
        ("pack", "photos/", "--out", "packed/", "--size", str(SIDE)),
        ("fit", *shards, "--labels", "labels.csv", "--labeled", "4000", "--out", "runs/R", "--no-cache", *few),
        ("embed", "runs/R", "shards/", "--out", "features/"),
        ("query", "runs/R", "--pool", "features/", "--n", "500", "--strategy", "margin", "--out", "batch.csv"),
        ("loop", "init", "job/", *shards, "--classes", ",".join(f"c{k}" for k in range(CLASSES)), *few),
        ("loop", "next", "job/", "--n", "100"),
        ("loop", "import", "job/", "answers.csv"),
        ("loop", "fit", "job/", "--cache-dir", "cache"),
        ("loop", "next", "job/", "--n", "100", "--out", "next.csv"),
        ("loop", "export", "job/", "--format", "folder", "--out", "labeled/"),
        ("predict", "runs/R", "shards/", "--out", "predictions/"),
    ]


def run(work: Path, command: tuple[str, ...], n: int) -> dict[str, Any]:
    """Run one command in the folder and measure it."""
    begin, peak, ended = time.perf_counter(), 0.0, 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "ssl_diffusion.cli", *command, "--quiet"], cwd=work, env=environment)
    while not ended:  # the kernel's high-water mark, since rusage counts the size of this process into it
        peak = max(peak, high_water(process.pid))
        time.sleep(0.2)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    if status:
        raise SystemExit(f"ssld {' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    name = command[:2] if command[0] == "loop" else command[:1]
    return {
        "command": " ".join(("ssld", *name)),
        "images": n,
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(peak / 2**20),
    }


def prepare(work: Path, n: int) -> None:
    """Write image files, shards and labels, once."""
    work.mkdir(parents=True, exist_ok=True)
    make_images(work / "photos", n // 10)
    make_shards(work / "shards", n, labeled=False)
    write_labels(work / "labels.csv", (f"{i:09d}" for i in np.random.default_rng(2).permutation(n)[:LABELED]))


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
            if command[:2] == ("loop", "import"):
                asked = max((work / "job" / "batches").glob("*.csv"))
                write_labels(work / "answers.csv", pd.read_csv(asked, dtype={"id": str})["id"])
            done.write_text(json.dumps(run(work, command, n // 10 if command[0] == "pack" else n)))
        rows.append(json.loads(done.read_text()))
        print(rows[-1], flush=True)
    about = provenance()
    write_csv(RESULTS / f"large_pools_walk-{n}.csv", [row | about for row in rows])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
