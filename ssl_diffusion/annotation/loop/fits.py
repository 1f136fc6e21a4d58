"""Fits of a job: an ordinary run on the labels there are, which then becomes the present model.

What is fitted to is written down first (`models/NNN.csv`), so that the run can be made again with `ssld fit`. A fit that was
stopped is continued by the next one if the labels are still the same.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ssl_diffusion.annotation.loop.current_model import folder_of, label_digest, publish, training_labels
from ssl_diffusion.annotation.loop.job import Job, open_job
from ssl_diffusion.annotation.store.queries import labels
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.machine import bind_threads
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.storage import atomic_write_text, default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_run, resume_run
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.run_folder import RunFolder

__all__ = ["Background", "fit_job"]

_log = logging.getLogger(__name__)
_TELL_EVERY = 2.0  # seconds


def fit_job(job: Job, *, pretrain: bool = False, options: FitOptions | None = None) -> str:
    """Fit a model to the labels of a job and make it the present one; returns its name.

    Labels of the audit are left out, those of the test split measure the run.

    Args:
        job: the job.
        pretrain: only pretrain, without labels.
        options: see :class:`~ssl_diffusion.training.FitOptions`; without a cache the user's is taken.

    Raises:
        DataError: if there are labels of fewer than two classes.
        RunError: if another process is fitting.
        Interrupted: on Ctrl-C; the next fit continues if the labels are the same.
    """
    options = options or FitOptions()
    options = replace(options, cache=options.cache or DenoiserCache(default_cache_dir()))
    with job.alone("fit"):
        known, classes = training_labels(job)
        if not pretrain and len(np.unique(classes)) < 2:
            raise DataError(f"{job.path} has labels of {len(np.unique(classes))} classes: label samples of two or more first")
        digest = None if pretrain else label_digest(known, classes)
        name = _unfinished(job, digest) or _next_name(job)
        folder = RunFolder(folder_of(job, name))
        if folder.path.exists() and not folder.finished and (folder.path / "pool.json").exists():
            resume_run(folder.path, options=options)
        elif not folder.finished:
            table = job.folder("models") / f"{name}.csv"
            _write_table(job, table, set() if pretrain else set(known.tolist()))
            atomic_write_text(table.with_suffix(".json"), json.dumps({"labels": digest, "n": 0 if pretrain else len(known)}))
            fit_run(_recipe(job, table, pretrain), folder.path, overwrite=folder.path.exists(), options=options)
        publish(job, name, digest, options.progress)
    return name


@dataclass
class Background:
    """A fit in a process of its own, so that labeling never waits; what becomes of it is in a file.

    Attributes:
        job: the job.
        process: the process that was started last, if any.
    """

    job: Job
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0

    @property
    def log(self) -> Path:
        """What the process says."""
        return self.job.path / "fit.log"

    def start(self, *, pretrain: bool = False) -> bool:
        """Start a fit unless one is running; returns whether it was started."""
        if self.running:
            return False
        command = [sys.executable, "-P", "-m", "ssl_diffusion.annotation.loop.fits", str(self.job.path.resolve())]
        command += ["--pretrain"] if pretrain else []
        if nice := shutil.which("nice"):  # labeling comes first
            command = [nice, "-n", "10", *command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.began = time.time()
        return True

    @property
    def running(self) -> bool:
        """Whether a fit that was started here is under way."""
        return self.process is not None and self.process.poll() is None

    def state(self) -> dict[str, Any]:
        """What to show: state ("none", "running", "done" or "failed"), seconds, and the last line of what it said."""
        if self.process is None:
            return {"state": "none", "seconds": 0.0, "said": ""}
        code = self.process.poll()
        text = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        state = "running" if code is None else "done" if code == 0 else "failed"
        return {"state": state, "seconds": round(time.time() - self.began, 1), "said": text[-1] if text else ""}

    def stop(self) -> None:
        """Interrupt a fit as Ctrl-C does: its state is saved, and the next fit continues."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _next_name(job: Job) -> str:
    numbers = [int(path.stem) for path in job.folder("models").glob("*.csv") if path.stem.isdigit()]
    return f"{max(numbers, default=0) + 1:03d}"


def _unfinished(job: Job, digest: str | None) -> str | None:
    """The last fit, if it was to the same labels and has not become a model."""
    for note in sorted(job.folder("models").glob("*.json"), reverse=True):
        try:
            same = json.loads(note.read_text(encoding="utf-8"))["labels"] == digest
        except (OSError, ValueError, KeyError):
            return None
        present = job.path / "model.json"
        used = present.exists() and json.loads(present.read_text(encoding="utf-8"))["model"] == note.stem
        return note.stem if same and not used else None
    return None


def _write_table(job: Job, path: Path, known: set[int]) -> None:
    """All samples with the labels that may be used."""
    names, ids = job.store.classes, job.store.ids
    test = set(job.store.of_role("test").tolist())
    label = {p: names[k] for p, k in zip(*(values.tolist() for values in labels(job.store)), strict=True)}
    usable = known | test if known else set()
    rows = {
        "path": ids,
        "label": [label.get(i, "") if i in usable else "" for i in range(len(ids))],
        "split": ["test" if i in test else "train" for i in range(len(ids))],
    }
    atomic_write_text(path, pd.DataFrame(rows).to_csv(index=False))


def _recipe(job: Job, table: Path, pretrain: bool) -> Recipe:
    recipe, settings = job.settings.recipe, job.settings
    data = replace(
        recipe.data,
        path=str(table.resolve()),
        image_root=str(job.image_root.resolve()),
        image_column="path",
        label_column="label",
        test_fraction=0.0,
    )
    labeled = replace(recipe.labels, budget=-1, allow_missing_classes=True)
    recipe = replace(recipe, data=data, labels=labeled).with_setting("training.seed", settings.seed)
    return recipe.with_setting("training.objective", "denoise-only") if pretrain else recipe


def _teller() -> ProgressCallback:
    """Progress as lines of a log, one every two seconds at most."""
    last = 0.0

    def tell(update: ProgressUpdate) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _TELL_EVERY:
            last = now
            _log.info("%s %.0f %%", update.task, 100 * update.done / max(1, update.total))

    return tell


def _main(arguments: list[str]) -> int:
    """What runs in the process of :class:`Background`: JOB [--pretrain]."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bind_threads(1)
    try:
        fit_job(open_job(Path(arguments[0])), pretrain="--pretrain" in arguments, options=FitOptions(progress=_teller()))
    except SSLDError as error:
        _log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
