"""Images of two digits, or one, or none, and jobs whose images may have several classes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.data.pool import Pool
from support.commands import ok

CLASSES = ("zero", "one", "two")
N = 80


def pictures(folder: Path, pool: Pool, n: int = N) -> dict[str, tuple[str, ...]]:
    """Write PNG files with two places side by side, each with a digit below three or nothing; returns what is on each."""
    folder.mkdir(parents=True)
    rng, found = np.random.default_rng(0), {}
    of_class = [np.flatnonzero(pool.labels == k) for k in range(len(CLASSES))]
    for i in range(n):
        canvas, there = np.zeros((16, 16), dtype=np.uint8), set()
        for left in (0, 8):
            k = int(rng.integers(-1, len(CLASSES)))
            if k >= 0:
                top = int(rng.integers(0, 9))
                canvas[top : top + 8, left : left + 8] = pool.images[int(rng.choice(of_class[k])), 0]
                there.add(k)
        Image.fromarray(canvas).save(folder / f"{i:03d}.png")
        found[f"{i:03d}.png"] = tuple(CLASSES[k] for k in sorted(there))
    return found


def make_sets_job(folder: Path, pool: Pool, tiny: list[str], *options: object) -> tuple[Job, dict[str, tuple[str, ...]]]:
    """A multi-label job, by the command line, and what is on its images."""
    truth = pictures(folder / "photos", pool)
    words = ("--classes", ",".join(CLASSES), "--multilabel", "--objective", "probe", "--set", "model.stem=1", *tiny)
    ok("loop", "init", folder / "job", "--data", folder / "photos", *words, *options)
    return open_job(folder / "job"), truth


def write_sets(path: Path, sets: dict[str, tuple[str, ...]], classes: tuple[str, ...] = CLASSES) -> Path:
    """Write a table with a column of 0 and 1 for each class."""
    rows = [{"id": id_, **{name: int(name in names) for name in classes}} for id_, names in sets.items()]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def answer_sets(job: Job, truth: dict[str, tuple[str, ...]]) -> list[str]:
    """Choose a round and label it rightly, from a file; returns the ids."""
    ids = list(json.loads(ok("loop", "next", job.path, "--json").stdout)["ids"])
    ok("loop", "import", job.path, write_sets(job.path.parent / "answers.csv", {id_: truth[id_] for id_ in ids}))
    return ids
