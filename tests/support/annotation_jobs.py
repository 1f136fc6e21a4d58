"""A job on a few digits for tests of the annotation loop."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pandas as pd
from PIL import Image
from typer.testing import Result

from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.store.store import Action, Actor
from ssl_diffusion.data.pool import Pool
from support.commands import ok, ssld

N = 90


def photos(folder: Path, pool: Pool, n: int = N) -> Path:
    """Digits as PNG files without labels: 0000.png, 0001.png, ..."""
    folder.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(pool.images[i, 0]).save(folder / f"{i:04d}.png")
    return folder


def truth(pool: Pool, id_: str) -> str:
    """What a digit is."""
    return pool.classes[int(pool.labels[int(Path(id_).stem)])]


def make_job(folder: Path, pool: Pool, tiny: list[str], *options: object) -> Job:
    """A job of digits, by the command line; jobs with the same options are copies of one, with photos of their own."""
    words = ("--classes", ",".join(pool.classes), *map(str, options), "--set", "model.stem=1", *tiny)  # for small images
    if {"--store", "--pretrain"} & {*words}:
        ok("loop", "init", folder / "job", "--data", photos(folder / "photos", pool), *words)
        return open_job(folder / "job")
    made = _made_once(words)
    if not (made / "job").exists():
        ok("loop", "init", made / "job", "--data", photos(made / "photos", pool), *words)
    for part in ("job", "photos"):
        shutil.copytree(made / part, folder / part)
    settings = folder / "job" / "job.toml"
    settings.write_text(settings.read_text(encoding="utf-8").replace(str(made.resolve()), str(folder.resolve())), "utf-8")
    return open_job(folder / "job")


def discussed_job(folder: Path, pool: Pool, tiny: list[str]) -> Job:
    """Fifty labels by eve, of which one is wrong; the others of a sample are flagged, skipped, and said something of."""
    made = make_job(folder, pool, tiny, "--n", 10, "--audit", 20)
    ids = made.store.ids[made.store.of_role("pool")].tolist()
    eve = Actor("eve", "page", seconds=2.0)
    made.store.apply([Action("label", id_, eve, truth(pool, id_)) for id_ in ids[:50]])
    made.store.apply([Action("flag", ids[0], eve), Action("skip", ids[60], eve)])
    made.store.apply([Action("comment", ids[1], Actor("bob"), text="a seven?")])
    return made


@cache
def _made_once(words: tuple[str, ...]) -> Path:
    """A folder for what all jobs with these options are copies of; it goes with the process."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    return Path(_FOLDERS[-1].name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


# Options for a model that knows its digits well enough to be explained.
LEARNS = [word for setting in ("pretraining.steps=100", "training.steps=80") for word in ("--set", setting)]


def answer(job: Job, pool: Pool, n: int | None = None) -> Result:
    """Label what the last round asks for, from a file."""
    last = sorted((job.path / "batches").glob("*.csv"))[-1]
    ids = pd.read_csv(last, dtype={"id": str})["id"].tolist()[:n]
    table = job.path.parent / "answers.csv"
    pd.DataFrame({"id": ids, "label": [truth(pool, i) for i in ids]}).to_csv(table, index=False)
    return ok("loop", "import", job.path, table)


def asked(job: Job, *options: object) -> list[str]:
    """Ids of a new round."""
    return list(json.loads(ok("loop", "next", job.path, "--json", *options).stdout)["ids"])


def status(job: Job) -> dict[str, object]:
    """What `ssld loop status` says."""
    return dict(json.loads(ssld("loop", "status", job.path, "--json").stdout))
