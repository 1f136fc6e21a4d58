"""Fits of a job: an ordinary run on the labels so far, which then becomes the current model.

A fit trains on the pixels in `images.npy`, so no image file is decoded again, except for a backbone that reads larger images.
Images in shards are read out of them, into memory or a temporary file.
What it is fitted to is first written to `models/NNN.csv`, which the recipe of the run names: `ssld fit`, `ssld evaluate` and
`ssld query` use that file and the image files. An interrupted fit is resumed by the next one if the labels are still the same.
"""

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
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.class_sets import check_columns
from ssl_diffusion.annotation.loop.current_model import publish
from ssl_diffusion.annotation.loop.fit_state import FitState, fit_state, reporting
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.job_backbone import check_fit, picture_fault, with_files
from ssl_diffusion.annotation.loop.lessons import Lessons, Use, lessons_of, with_lessons
from ssl_diffusion.annotation.loop.model_file import (
    FittedTo,
    current_model,
    folder_of,
    label_digest,
    lacking,
    teaches,
    training_labels,
)
from ssl_diffusion.annotation.store import queries
from ssl_diffusion.annotation.store.state import Labels
from ssl_diffusion.data.label_choice import label_name
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.loading import pool_name
from ssl_diffusion.errors import DataError, RunError, StateError
from ssl_diffusion.settings import read_state
from ssl_diffusion.storage import atomic_write_text, default_cache_dir
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions, fit_run, resume_run
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.run_folder import RunFolder

__all__ = ["Background", "fit_job"]

_log = logging.getLogger(__name__)
_NICENESS = 10  # of fits in the background
_PROGRESS_EVERY = 2  # seconds between lines of fit.log


def fit_job(
    job: Job,
    *,
    pretrain: bool = False,
    use_verdicts: Use | None = None,
    options: FitOptions | None = None,
) -> str:
    """Fit a model to the labels of a job and make it the current one.

    Labels of the audit set are left out; labels of the test split only measure the run.

    Args:
        job: Job whose images and labels are used.
        pretrain: Whether to pretrain only, without labels.
        use_verdicts: Whether to learn counterfactuals on which verdicts were given, too; None takes the job's setting.
        options: See :class:`~ssl_diffusion.training.FitOptions`; without a cache the user's cache is used.

    Returns:
        Name of the run below `models/`.

    Raises:
        DataError: If the labels have fewer than two classes, or the test split has a class without a training label.
        RunError: If another process is fitting; or if verdicts are wanted, and the backbone reads other images than models see.
        Interrupted: On Ctrl-C; the next fit resumes if the labels are the same.

    Example:
        >>> fit_job(open_job(Path("job")))  # doctest: +SKIP
        '001'
    """
    options = options or FitOptions()
    cache = options.cache or DenoiserCache(default_cache_dir())
    with job.alone("fit"), reporting(job, options.progress) as progress:
        options = replace(options, cache=cache, progress=progress)
        known, classes = training_labels(job)
        if not pretrain and not teaches(classes):
            raise DataError(_few(job, classes))
        if not pretrain:
            check_fit(job, progress)
        use = "off" if pretrain else _use_of_verdicts(job, use_verdicts)
        lessons = lessons_of(job, use)
        if lessons.left_out or len(lessons):
            _log.info("%s", lessons)
        wanted = FittedTo(
            labels=None if pretrain else label_digest(known, classes),
            n=0 if pretrain else len(known),
            verdicts=lessons.digest if use == "on" else None,
            classes=job.store.classes_in_use if job.store.multilabel and not pretrain else (),
        )
        name = _unfinished(job, wanted) or _next_name(job)
        folder = RunFolder(folder_of(job, name))
        if not folder.finished:
            pool = _pool(job, name, *((known[:0], classes[:0]) if pretrain else (known, classes)), lessons)
            if (folder.path / "pool.json").exists():
                resume_run(folder.path, pool=pool, options=options)
            else:
                table = job.folder("models") / f"{name}.csv"
                _write_table(pool, table, sharded=job.shards is not None)
                atomic_write_text(table.with_suffix(".json"), wanted.model_dump_json() + "\n")
                recipe = _recipe(job, table, pretrain, pool.classes if pool.multilabel else ())
                fit_run(recipe, folder.path, overwrite=folder.path.exists(), pool=pool, options=options)
        publish(job, name, wanted, options.progress)
    return name


def _few(job: Job, classes: NDArray[np.int64]) -> str:
    """What the labels of a job lack for a fit, in words."""
    if classes.ndim == 2:
        return f"a fit of {job.path} needs {lacking(multilabel=True)}: label more samples first"
    return f"{job.path} has labels of {len(np.unique(classes))} classes: label samples of two or more first"


def _use_of_verdicts(job: Job, wanted: Use | None) -> Use:
    """Whether a fit learns the counterfactuals on which verdicts were given.

    Args:
        job: Job to fit.
        wanted: Choice of the user; None takes the job's setting, and "off" where that is not possible.
    """
    use = wanted or job.settings.verdicts
    fault = "a multi-label job has no counterfactuals to judge" if job.store.multilabel else ""
    if use == "off" or not (fault := fault or picture_fault(job)):
        return use
    if wanted == "on":
        raise RunError(f"{fault}: leave out --verdicts")
    _log.warning("%s", fault)
    return "off"


@dataclass
class Background:
    """Fits in their own process (`ssld loop fit`), so that labeling never waits; the output goes to `fit.log`.

    Attributes:
        job: Job to fit.
        process: Process that was started last, if any.
        began: Time of that start, in seconds since 1970.
    """

    job: Job
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0

    @property
    def log(self) -> Path:
        """File with the output of the process."""
        return self.job.path / "fit.log"

    def start(self, *, pretrain: bool = False) -> bool:
        """Start a fit unless one is running, started here or elsewhere; returns whether it was started."""
        if self.running:
            return False
        command = [sys.executable, "-P", "-m", "ssl_diffusion.cli", "loop", "fit", str(self.job.path.resolve())]
        command += ["--threads", "1", "--progress-every", str(_PROGRESS_EVERY), *(["--pretrain"] if pretrain else [])]
        if nice := shutil.which("nice"):  # labeling comes first
            command = [nice, "-n", str(_NICENESS), *command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.began = time.time()
        return True

    @property
    def running(self) -> bool:
        """Whether a fit is running, started here or elsewhere."""
        return self._own or self.job.busy_with("fit") is not None

    @property
    def _own(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def state(self) -> FitState:
        """State of the last fit, started here or elsewhere."""
        found = fit_state(self.job)
        if self.process is None or found.state == "running" or found.began >= self.began:
            return found
        # The process started here has not written anything.
        seconds, code = round(time.time() - self.began, 1), self.process.poll()
        if code is None:
            return FitState("running", self.began, seconds, process=f"process {self.process.pid}")
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        message = lines[-1].removeprefix("ssld: error: ") if lines else f"the process ended with status {code}"
        return FitState("failed", self.began, seconds, message=message)

    def stop(self) -> bool:
        """Interrupt a fit that was started here as Ctrl-C does: its state is saved, and the next fit resumes it.

        Returns:
            Whether there was one.
        """
        if self.process is None or not self._own:
            return False
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return True


def _next_name(job: Job) -> str:
    numbers = [int(path.stem) for path in job.folder("models").glob("*.csv") if path.stem.isdigit()]
    return f"{max(numbers, default=0) + 1:03d}"


def _unfinished(job: Job, wanted: FittedTo) -> str | None:
    """Name of the last fit if it had the same labels and judged pictures and has not become the current model."""
    for note in sorted(job.folder("models").glob("*.json"), reverse=True):
        try:
            found = read_state(note, FittedTo, remedy="")
            same = (found.labels, found.verdicts, found.classes) == (wanted.labels, wanted.verdicts, wanted.classes)
            present = current_model(job)
        except StateError as error:
            _log.warning("%s; a new fit takes its place", error)
            return None
        return note.stem if same and (present is None or present.model != note.stem) else None
    return None


def _pool(job: Job, name: str, known: NDArray[np.int64], classes: NDArray[np.int64], lessons: Lessons) -> Pool:
    """All images of a job with the labels that a run may use; no labels at all without training labels.

    Args:
        job: Job with the images.
        name: Name of the run; the pool has the name that reading its table would give.
        known: Positions of the training labels, (n,).
        classes: Class numbers of the job, (n,), or 0/1 for every class, (n, K).
        lessons: Judged pictures to learn, too.
    """
    store = job.store
    tested, tested_classes = queries.labels(store, "test") if len(known) else (known, classes)
    if store.multilabel and len(known):
        return _multilabel_pool(job, name, (known, classes), (tested, tested_classes))
    classes, tested_classes = (each.reshape(-1) if not len(known) else each for each in (classes, tested_classes))
    if unknown := sorted({store.classes[k] for k in set(tested_classes.tolist()) - set(classes.tolist())}):
        raise DataError(
            f"the test split of {job.path} has images of {', '.join(map(repr, unknown))}, but no sample for training has "
            "such a label: label one of each first"
        )
    names = store.classes
    used = sorted(
        {*classes.tolist(), *lessons.classes.tolist()}, key=lambda k: names[k]
    )  # as a run sorts the classes of a table
    number = np.full(len(names), -1, dtype=np.int64)
    number[used] = np.arange(len(used))
    # Copy on write: torch takes only arrays that may be written to, and the file stays as it is.
    images = job.open_images("c")
    labels, is_test = np.full(len(images), -1, dtype=np.int64), np.zeros(len(images), dtype=np.bool_)
    labels[known], labels[tested] = number[classes], number[tested_classes]
    is_test[store.of_role("test")] = True
    used_names = tuple(names[k] for k in used)
    if job.shards is not None:
        pool = job.shards.pool(pool_name(job.settings.recipe.data.path), images, store.ids)
        pool = replace(pool, labels=labels, classes=used_names, is_test=is_test)
    else:
        pool = with_files(job, Pool(name, images, store.ids, labels, used_names, is_test))
    return with_lessons(pool, lessons, number)


def _multilabel_pool(job: Job, name: str, train: Labels, test: Labels) -> Pool:
    """All images of a multi-label job with the sets that a run may use, of the classes in use."""
    store = job.store
    names, names_in_use = store.classes, store.classes_in_use
    check_columns(names_in_use, ("path", "split"))
    images, columns = job.open_images("c"), [names.index(name_) for name_ in names_in_use]
    labels, is_test = np.full((len(images), len(columns)), -1, dtype=np.int64), np.zeros(len(images), dtype=np.bool_)
    for positions, sets in (train, test):
        labels[positions] = sets[:, columns]
    is_test[store.of_role("test")] = True
    return with_files(job, Pool(name, images, store.ids, labels, names_in_use, is_test, multilabel=True))


def _write_table(pool: Pool, path: Path, *, sharded: bool) -> None:
    """Write the samples of a pool as a table that `ssld fit` reads; of shards only those of which something is to be said."""
    written = np.ones(len(pool), dtype=np.bool_) if pool.extra is None else ~pool.extra  # of the others there are no files
    if sharded:
        first = np.flatnonzero(written)[0]
        written &= pool.has_label | pool.is_test
        written[first] = True  # a table has a row
    rows: dict[str, Any] = {"id" if sharded else "path": pool.ids[written]}
    if pool.multilabel:
        known = pool.has_label[written]
        rows |= {name: np.where(known, pool.labels[written, k].astype(str), "") for k, name in enumerate(pool.classes)}
    else:
        rows["label"] = [label_name(label, pool.classes) for label in pool.labels[written]]
    rows["split"] = np.where(pool.is_test[written], "test", "train")
    atomic_write_text(path, pd.DataFrame(rows).to_csv(index=False))


def _recipe(job: Job, table: Path, pretrain: bool, label_columns: tuple[str, ...]) -> Recipe:
    recipe, settings = job.settings.recipe, job.settings
    place: dict[str, Any]
    if job.shards is None:
        place = {"path": str(table.resolve()), "image_root": str(job.image_root.resolve()), "image_column": "path"}
    else:
        place = {"labels": str(table.resolve())}
    place |= {"label_column": "" if label_columns else "label", "label_columns": label_columns}
    data = recipe.data.replace(test_fraction=0.0, multilabel=False, separator="|", **place)
    labeled = recipe.labels.replace(budget=-1, allow_missing_classes=True)
    recipe = recipe.replace(data=data, labels=labeled).with_setting("training.seed", settings.seed)
    if not pretrain:
        return recipe
    return recipe.with_settings({"training.objective": "denoise-only", "backbone.name": "none", "backbone.weights": ""})
