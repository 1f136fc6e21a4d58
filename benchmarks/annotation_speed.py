"""Labels a minute on the page, one image at a time and on sheets, by a scripted annotator in a real browser.

    python benchmarks/annotation_speed.py --work DIR --seed 0     # a minute each; then seeds 1 and 2
    python benchmarks/annotation_speed.py table

The annotator knows the truth and needs 0.6 s for a decision: a class, or that an image is to be clicked out. In the mode
"sheet, glances" a glance at each image of a sheet costs 0.1 s besides. 2 % of the decisions are slips: another class, or an
image that is overlooked. A class that is wrong for a whole sheet is seen in the message, and taken back. The photos are the
digits of scikit-learn; the page knows 60 labels and the principal components of the pixels, no trained model.
"""

import argparse
import asyncio
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import RESULTS, append_row, markdown_table, provenance, ssld_json
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.browser import browse, open_page, shown

from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.store import Action, Actor

CSV = RESULTS / "annotation_speed.csv"
DECISION, GLANCE, SLIPS = 0.6, 0.1, 0.02
FIRST = 60  # labels that the page knows at the beginning


def make_job(folder: Path) -> tuple[Job, dict[str, str]]:
    """A job of all digits, and what each is."""
    shutil.rmtree(folder, ignore_errors=True)
    digits, photos = load_digits(), folder / "photos"
    photos.mkdir(parents=True)
    truth = {}
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        Image.fromarray((image * 255 / 16).astype("uint8")).save(photos / f"{i:04d}.png")
        truth[f"{i:04d}.png"] = str(label)
    classes = ",".join(map(str, range(10)))
    ssld_json("loop", "init", folder / "job", "--data", photos, "--classes", classes, "--set", "model.stem=1")
    job = open_job(folder / "job")
    some = random.Random(0).sample(sorted(truth), FIRST)
    job.store.apply([Action("label", id_, Actor("somebody"), truth[id_]) for id_ in some])
    return job, truth


class Person:
    """Somebody who decides, and slips now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def slips(self) -> bool:
        return self.random.random() < SLIPS

    def key(self, label: str) -> str:
        return self.random.choice([str(k) for k in range(10) if str(k) != label]) if self.slips() else label


async def one_at_a_time(page: Any, truth: dict[str, str], person: Person, until: float) -> None:
    id_ = ""
    while time.monotonic() < until:
        id_ = await shown(page, id_)
        await asyncio.sleep(DECISION)
        await page.keyboard.press(person.key(truth[id_]))


async def on_sheets(page: Any, truth: dict[str, str], person: Person, until: float, glance: float = 0.0) -> None:
    ready = "() => ssld.now.sheet && !ssld.now.busy"
    await page.keyboard.press(" ")
    while time.monotonic() < until:
        await page.wait_for_function(ready)
        ids = await page.evaluate("() => [...document.querySelectorAll('#tiles button')].map((tile) => tile.title)")
        label = await page.evaluate("() => ssld.now.suggested")
        if not ids:
            return
        if label is None:  # similar images: most of them are of one class
            label = max(set(map(truth.get, ids)), key=[truth[id_] for id_ in ids].count)
        await asyncio.sleep(glance * len(ids))
        for k, id_ in enumerate(ids):
            if truth[id_] != label and not person.slips():
                await asyncio.sleep(DECISION)
                await page.locator("#tiles button").nth(k).click()
        await asyncio.sleep(DECISION)
        key = person.key(label)
        await page.keyboard.press(key)
        await page.wait_for_function(ready)
        if key != label:  # the message says so
            await asyncio.sleep(DECISION)
            await page.keyboard.press("u")


async def with_glances(page: Any, truth: dict[str, str], person: Person, until: float) -> None:
    await on_sheets(page, truth, person, until, GLANCE)


MODES = {"single": one_at_a_time, "sheet": on_sheets, "sheet, glances": with_glances}


def measure(work: Path, mode: str, seconds: float, seed: int) -> dict[str, Any]:
    """One row: labels a minute, and how many of them are right."""
    job, truth = make_job(work / mode.partition(",")[0])
    took = 0.0

    async def scenario(context: Any, url: str) -> None:
        nonlocal took
        page = await open_page(context, url)
        await shown(page)
        began = time.monotonic()
        await MODES[mode](page, truth, Person(seed), began + seconds)
        await page.wait_for_function("() => !ssld.now.busy")
        took = time.monotonic() - began

    browse(job, scenario, viewport={"width": 1280, "height": 900})
    own = [row for row in queries.listing(job.store, "labeled") if "ann" in row["votes"]]
    right = sum(row["label"] == truth[row["id"]] for row in own)
    facts = {"mode": mode, "seconds": round(took, 1), "labels": len(own), "a_minute": round(60 * len(own) / took, 1)}
    return facts | {"accuracy": round(right / max(1, len(own)), 4), "seed": seed}


def table() -> str:
    """Means and ranges over seeds of the last rows of each mode, also as multiples of one at a time with the same seed."""
    rows = pd.read_csv(CSV).groupby(["mode", "seed"]).tail(1).set_index(["mode", "seed"])
    speed, accuracy = (rows[name].unstack("mode") for name in ("a_minute", "accuracy"))
    ratio = speed.div(speed["single"], axis=0)
    found = []
    for mode in MODES:
        each = {"labels a minute": speed[mode], "times single": ratio[mode], "right": accuracy[mode]}
        spread = {name: f"{v.mean():.3g} ({v.min():.3g} to {v.max():.3g})" for name, v in each.items()}
        found.append({"mode": mode, "seeds": int(speed[mode].count())} | spread)
    return markdown_table(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="measure", choices=["measure", "table"])
    parser.add_argument("--work", type=Path, default=Path("annotation-speed"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "measure":
        for mode in arguments.modes:
            append_row(CSV, measure(arguments.work, mode, arguments.seconds, arguments.seed) | provenance())
    print(table())


if __name__ == "__main__":
    main()
