"""How commands talk to their users: results, log messages, progress bars, and errors as one sentence with exit code 2.

Results go to standard output (as one JSON object with `--json`), everything else to standard error.
"""

import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from .failures import failure_of
from .program import ASKS_TO_EXIT, end_quietly, report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ssl_diffusion.progress import ProgressUpdate

__all__ = ["Output", "needing"]


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Context in which a missing package is reported as the extra of `ssld` that installs it.

    Args:
        extra: Name of the extra.

    Raises:
        SSLDError: If an import fails.
    """
    from ssl_diffusion.errors import SSLDError

    try:
        yield
    except ImportError as error:
        raise SSLDError(f"this needs the package {error.name}: pip install 'ssld[{extra}]'") from None


class ProgressBars:
    """Progress on stderr: bars in a terminal; elsewhere (files, pipes, CI) one line now and then.

    The bars are created on first use, so that the object can be pickled and sent to a spawned process.

    Args:
        every: Seconds between lines.
    """

    def __init__(self, every: float = 30.0) -> None:
        self.every = every
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._last_line = 0.0
        self._first_done = 0
        self._done: dict[str, int] = {}

    def __call__(self, update: "ProgressUpdate") -> None:
        """Show an update."""
        if update.done < self._done.get(update.task, 0):  # a fit has a backbone read more than once
            self._begin_again(update.task)
        self._done[update.task] = update.done
        if sys.stderr.isatty():
            self._bar(update)
        else:
            self._line(update)

    def close(self) -> None:
        """Stop drawing and leave the bars as they are."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks = {}

    def _begin_again(self, task: str) -> None:
        self._began.pop(task, None)
        if self._progress is not None and task in self._tasks:
            self._progress.reset(self._tasks[task])

    def _bar(self, update: "ProgressUpdate") -> None:
        if self._progress is None:
            self._progress = _make_progress()
            self._progress.start()
        if update.task not in self._tasks:
            self._tasks[update.task] = self._progress.add_task(update.task, total=update.total, info="", rate="")
        task = self._tasks[update.task]
        speed = self._progress.tasks[task].speed
        rate = f"{speed:,.0f} {update.unit}/s" if speed else ""
        self._progress.update(task, completed=update.done, total=update.total, info=update.info, rate=rate)
        if update.done >= update.total:
            self._progress.refresh()

    def _line(self, update: "ProgressUpdate") -> None:
        now = time.monotonic()
        # A task is timed from its first report, so that the work before a resume does not count as speed.
        first = self._began.setdefault(update.task, now)
        if first == now:
            self._first_done = update.done
            self._last_line = now
        elif now - self._last_line > self.every:
            self._last_line = now
            rate = (update.done - self._first_done) / (now - first)
            left = (update.total - update.done) / max(rate, 1e-9)
            fraction = update.done / update.total
            line = f"{update.task} {fraction:.0%}, {rate:,.0f} {update.unit}/s, {left / 60:.1f} min left   {update.info}"
            typer.echo(line.rstrip(), err=True)


def _make_progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[info]}", style="dim"),
        console=Console(stderr=True),
    )


class Output:
    """How one invocation talks to its user.

    Args:
        as_json: Whether to print the result as one JSON object.
        quiet: Whether to print only the result.
        debug: Whether to show where an error that nobody foresaw was raised.
    """

    def __init__(self, as_json: bool, quiet: bool, debug: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self.bars = None if quiet else ProgressBars()

    def result(self, values: dict[str, Any], text: str) -> None:
        """Print the result.

        Args:
            values: Result in JSON types (anything else is written as text), printed with --json.
            text: Result for people, printed without.
        """
        if self.bars is not None:
            self.bars.close()
        if self.as_json:
            typer.echo(json.dumps(values, default=str))
        else:
            typer.echo(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context of a command's work: sets up logging, and turns whatever is raised into a sentence and an exit code."""
        _configure_logging(self.quiet)
        try:
            with warnings.catch_warnings():
                if not self.debug:  # those of other packages; ours are sentences of the log
                    warnings.simplefilter("ignore")
                yield
        except ASKS_TO_EXIT:
            raise
        except BrokenPipeError:
            end_quietly()
            raise typer.Exit(1) from None
        except (Exception, KeyboardInterrupt) as error:
            self._close_bars()
            if self.debug:
                traceback.print_exception(error)
            raise typer.Exit(report(failure_of(error), self.as_json)) from None
        finally:
            self._close_bars()

    def _close_bars(self) -> None:
        if self.bars is not None:
            self.bars.close()


def _configure_logging(quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("ssl_diffusion")
    logger.handlers = [handler]
    # The level is the handler's, because the log file of a run also records what the terminal does not show.
    handler.setLevel(logging.ERROR if quiet else logging.INFO)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # Fabric announces precision and ranks on every start; ours are in metrics.json and `ssld doctor`.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.ERROR)
