"""The annotation loop at size and under load.

    python benchmarks/annotation.py store --work DIR       # a million samples: a round, a label, an image of the page
    python benchmarks/annotation.py load --work DIR        # 20 annotators for a minute while a model is fitted
    python benchmarks/annotation.py kill --work DIR        # kill -9 of the server, 50 times, while they label
    python benchmarks/annotation.py table

Photos are the digits of scikit-learn, as hard links to 1,797 PNG files where more are needed; jobs are kept in DIR and used
again. The server is `ssld loop serve` in a process of its own, on loopback, and its store is SQLite.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import RESULTS, append_row, markdown_table, provenance, ssld
from PIL import Image
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.annotators import Annotator

from ssl_diffusion.annotation.loop.current_model import present_model
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.loop.model_file import training_labels
from ssl_diffusion.annotation.loop.rounds import choose_round, next_round, rerank
from ssl_diffusion.annotation.loop.snapshot import take_snapshot
from ssl_diffusion.annotation.store import leases, queries
from ssl_diffusion.annotation.store.state import read_state
from ssl_diffusion.annotation.store.store import Action, Actor

CSV = RESULTS / "annotation.csv"
SHORT = [
    "model.stem=1",
    "model.channels=16",
    "model.groups=8",
    "model.pool_grids=[2]",
    "pretraining.steps=20",
    "training.steps=20",
]


def make_job(folder: Path, n: int, settings: Sequence[str] = SHORT) -> Job:
    """A job of n photos without labels; the one that is there is used again."""
    if not (folder / "job" / "job.toml").exists():
        digits = load_digits()
        photos, source = folder / "photos", folder / "digits"
        source.mkdir(parents=True, exist_ok=True)
        photos.mkdir(exist_ok=True)
        for i, image in enumerate(digits.images):
            Image.fromarray((image * 15.9).astype(np.uint8)).save(source / f"{i:04d}.png")
        for i in range(n):
            place = photos / f"{i:07d}.png"
            if not place.exists():
                os.link(source / f"{i % len(digits.images):04d}.png", place)
        command = [ssld(), "loop", "init", str(folder / "job"), "--data", str(photos), "--classes", "0,1,2,3,4,5,6,7,8,9"]
        for value in settings:
            command += ["--set", value]
        subprocess.run(command, check=True)
    return open_job(folder / "job")


def label_some(job: Job, n: int) -> None:
    """Label n samples by chance, with the truth."""
    truth = load_digits().target
    ids = np.random.default_rng(0).choice(job.store.ids, n, replace=False)
    by = Actor("somebody")
    job.store.apply([Action("label", str(id_), by, str(truth[int(Path(id_).stem) % len(truth)])) for id_ in ids])


def timed(task: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    task()
    return time.perf_counter() - began


def report(what: str, samples: int, seconds: Sequence[float], **more: Any) -> None:
    """Print and keep a row: milliseconds."""
    ms = np.array(seconds) * 1000
    median, p95, most = (round(float(v), 2) for v in (np.median(ms), np.quantile(ms, 0.95), ms.max()))
    row = {"what": what, "samples": samples, "times": len(ms), "median_ms": median, "p95_ms": p95, "max_ms": most}
    row |= {"lost": "", "doubled": "", "note": ""} | more | provenance()
    append_row(CSV, row)
    print(row, flush=True)


@contextmanager
def serving(job: Path, log: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """The page of a job: its port and process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(s.getsockname()[1])
    with log.open("ab") as out:
        command = [ssld(), "loop", "serve", str(job), "--port", str(port), "--no-open"]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise SystemExit(log.read_text()[-2000:]) from None
                time.sleep(0.02)
        yield port, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


def fetch(url: str) -> bytes:
    """What is at an address."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def store(work: Path, n: int) -> None:
    """A million samples: rounds of 100, labels, images of the page."""
    job = make_job(work / f"store-{n}", n)
    if not len(training_labels(job)[0]):
        label_some(job, 1000)
    if not (job.path / "model.json").exists():
        subprocess.run([ssld(), "loop", "fit", str(job.path)], check=True)
    report("a process opens the job", n, [timed(lambda: (open_job(job.path).store.ids, present_model(job)))])
    model = present_model(job)
    snapshot = take_snapshot(job, model, fast=True)
    classifier = snapshot.classifier
    assert classifier is not None
    pool = job.store.by_id(np.setdiff1d(job.store.of_role("pool"), queries.touched(job.store)))
    report("the pool is scored", n, [timed(lambda: classifier.probabilities(pool))])
    times = []
    for _ in range(9):
        with job.alone("next"):
            times.append(timed(lambda: choose_round(replace(snapshot, state=read_state(job.store)), 100, "margin")))
    report("round of 100 once scored", n, times)
    again = [timed(lambda: rerank(take_snapshot(job, model, fast=True))) for _ in range(9)]
    report("a probe on 1,000 labels and the round in its order", n, again)
    rng = np.random.default_rng(time.time_ns())
    ids = [str(id_) for id_ in rng.choice(job.store.ids, 1000, replace=False)]
    report("one label, on disk", n, [timed(lambda id_=id_: job.store.label(id_, "3", Actor("somebody"))) for id_ in ids])
    with serving(job.path, work / "serve.log") as (port, _):
        urls = [f"http://127.0.0.1:{port}/image?id={urllib.parse.quote(id_, safe='')}" for id_ in ids[:300]]
        fetch(urls[0])
        report("one image of the page", n, [timed(lambda url=url: fetch(url)) for url in urls])


def load(work: Path, n: int, people: int, seconds: float, pause: float) -> None:
    """Annotators at work while a model is fitted."""
    slow = ["model.stem=1", "pretraining.steps=100000", "training.steps=100000"]
    job = make_job(work / f"load-{n}", n, slow)
    if not len(training_labels(job)[0]):
        label_some(job, 100)
    next_round(job, min(10_000, n // 2), "random", seed=time.time_ns() % 2**31)
    before = {(row["id"], who) for row in queries.listing(job.store) for who in row["votes"]}
    with serving(job.path, work / "serve.log") as (port, _):
        team = [Annotator(port, f"{time.time_ns()}-{i}", pause) for i in range(people)]
        csrf = team[0].call("/api/session", None)["csrf"]
        team[0].call("/api/fit", {}, csrf)
        while (fit := team[0].call("/api/state", None)["status"]["fit"])["task"] != "training" and fit["seconds"] < 30:
            time.sleep(0.2)
        for person in team:
            person.start()
        time.sleep(seconds)
        fit = team[0].__class__(port, "looks").call("/api/state", None)["status"]["fit"]
        for person in team:
            person.stop.set()
        for person in team:
            person.join()
    if fit["state"] != "running":
        raise SystemExit(f"the fit was not running any more: {fit}")
    told = {(id_, p.who["annotator"]): label for p in team for id_, label in p.acknowledged}
    note = f"{people} people, {pause} s of thought, {len(told) / seconds:.0f} labels a second, a fit beside them"
    report("one label over the page", n, [s for p in team for s in p.seconds], **_check(job, told, before), note=note)


def kill(work: Path, n: int, people: int, times: int) -> None:
    """kill -9 of the server again and again."""
    job = make_job(work / f"kill-{n}", n)
    told: dict[tuple[str, str], str] = {}
    before = {(row["id"], who) for row in queries.listing(job.store) for who in row["votes"]}
    rng, seconds = np.random.default_rng(0), []
    for attempt in range(times):
        if len(leases.pending(job.store)) < 500:
            next_round(job, 2000, "random", seed=time.time_ns() % 2**31)
        with serving(job.path, work / "serve.log") as (port, process):
            team = [Annotator(port, f"{time.time_ns()}-{i}") for i in range(people)]
            for person in team:
                person.start()
            while sum(len(person.acknowledged) for person in team) < people:
                if not any(person.is_alive() for person in team):
                    raise SystemExit("nobody was answered within a minute: is something else running?")
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            process.kill()
            process.wait()
        for person in team:
            person.join()
            assert person.killed
            told |= {(id_, person.who["annotator"]): label for id_, label in person.acknowledged}
            seconds += person.seconds
        queries.check(job.store)
        print(f"{attempt + 1} of {times}: {len(told)} labels acknowledged", flush=True)
    note = f"{people} people without a pause, {times} kills, {len(told)} labels acknowledged"
    report("kill -9 of the server", n, seconds, **_check(job, told, before, unheard=people * times), note=note)


def _check(job: Job, told: dict[tuple[str, str], str], before: set[tuple[str, str]], unheard: int = 0) -> dict[str, int]:
    """Labels that were acknowledged and are not there, and samples that two were given; both should be 0."""
    queries.check(job.store)
    votes = {(row["id"], who): label for row in queries.listing(job.store) for who, label in row["votes"].items()}
    new = {key: label for key, label in votes.items() if key not in before}
    if len(new) > len(told) + unheard:
        raise SystemExit(f"{len(new)} labels are new, of {len(told)} that were acknowledged")
    doubled = len(new) - len({id_ for id_, _ in new})
    return {"lost": sum(votes.get(key) != label for key, label in told.items()), "doubled": doubled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["store", "load", "kill", "table"])
    parser.add_argument("--work", type=Path, help="folder of the jobs")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0.25, help="seconds of thought (load)")
    parser.add_argument("--times", type=int, default=50, help="kills")
    a = parser.parse_args()
    if a.what != "table" and a.work is None:
        parser.error("--work is missing")
    if a.what == "store":
        store(a.work, a.samples or 1_000_000)
    elif a.what == "load":
        load(a.work, a.samples or 60_000, a.people, a.seconds, a.pause)
    elif a.what == "kill":
        kill(a.work, a.samples or 60_000, a.people, a.times)
    frame = pd.read_csv(CSV, keep_default_na=False)
    columns = ["what", "samples", "times", "median_ms", "p95_ms", "max_ms", "lost", "doubled", "note"]
    print(markdown_table(frame.drop_duplicates("what", keep="last")[columns].to_dict("records")))


if __name__ == "__main__":
    main()
