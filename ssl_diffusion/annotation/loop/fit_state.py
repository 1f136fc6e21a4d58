"""State of the fit of a job, whoever started it: the process that holds the lock "fit" writes it to `fit.json`.

The page, `ssld loop status` and the fit itself may be different processes, so the lock says whether a fit is running, and the
file how far it is or how it ended.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.errors import Interrupted, SSLDError
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.storage import atomic_write_text

__all__ = ["FitState", "fit_state", "reporting"]

_EVERY = 2.0  # seconds between reports
_CONTINUED = "the next fit continues it if the labels are the same"


@dataclass(frozen=True)
class FitState:
    """State of the last fit of a job.

    Attributes:
        state: Whether there was a fit, and how it is going.
        began: Start of the fit, in seconds since 1970; 0 without one.
        seconds: Seconds since then, up to now or to its end.
        task: Part of the fit that is running, such as "pretraining"; empty if unknown.
        done: Fraction of this part that is done, in [0, 1].
        seconds_left: Seconds that this part still takes; None if unknown.
        process: Process that is fitting; None if none is.
        message: Reason for the end of a fit that failed or was stopped.
    """

    state: Literal["none", "running", "done", "stopped", "failed"] = "none"
    began: float = 0.0
    seconds: float = 0.0
    task: str = ""
    done: float = 0.0
    seconds_left: float | None = None
    process: str | None = None
    message: str = ""


_FILE = TypeAdapter(FitState)


def fit_state(job: Job) -> FitState:
    """State of the last fit of a job, by whichever process."""
    for _ in range(2):  # a fit that ends between the two looks is looked at again
        known, process = _read(job), job.busy_with("fit")
        if process is not None:
            running = known if known.state == "running" else FitState("running", began=time.time())
            return replace(running, seconds=_since(running.began), process=process)
        if known.state != "running":
            return known
    return replace(known, state="failed", seconds_left=None, message=f"the process was killed; {_CONTINUED}")


@contextmanager
def reporting(job: Job, progress: ProgressCallback | None) -> Iterator[ProgressCallback]:
    """Context of a fit that writes its state to `fit.json`; the caller holds the lock "fit".

    Args:
        job: Job that is fitted.
        progress: Callback that gets the progress, too.

    Yields:
        Callback for the progress.
    """
    report = _Report(job, progress)
    report.write(FitState("running"))
    try:
        yield report
    except (Interrupted, KeyboardInterrupt):
        report.write(FitState("stopped", message=f"stopped; {_CONTINUED}"))
        raise
    except BaseException as error:
        message = str(error) if isinstance(error, SSLDError) else f"{type(error).__name__}: {error}"
        report.write(FitState("failed", message=message))
        raise
    report.write(FitState("done", done=1.0))


class _Report:
    def __init__(self, job: Job, progress: ProgressCallback | None) -> None:
        self.path, self.progress, self.began = job.path / "fit.json", progress, time.time()
        self._task, self._first, self._since = "", 0, 0.0  # the present task, its first report, and the time of that
        self._written = 0.0

    def __call__(self, update: ProgressUpdate) -> None:
        if self.progress is not None:
            self.progress(update)
        now = time.monotonic()
        if update.task != self._task:  # what was done before a resume took no time now
            self._task, self._first, self._since, self._written = update.task, update.done, now, 0.0
        if now - self._written < _EVERY:
            return
        self._written = now
        rate = (update.done - self._first) / max(now - self._since, 1e-9)
        left = (update.total - update.done) / rate if rate > 0 else None
        self.write(FitState("running", task=update.task, done=update.done / max(1, update.total), seconds_left=left))

    def write(self, state: FitState) -> None:
        state = replace(state, began=self.began, seconds=_since(self.began))
        atomic_write_text(self.path, _FILE.dump_json(state).decode())


def _read(job: Job) -> FitState:
    try:
        return _FILE.validate_json((job.path / "fit.json").read_bytes())
    except (OSError, ValidationError):  # a report only: without it the lock still says whether a fit is running
        return FitState()


def _since(began: float) -> float:
    return round(max(0.0, time.time() - began), 1)
