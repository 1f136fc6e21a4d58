"""`ssld` and scripts in processes of their own: forked from a server that has imported everything already."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = [
    "sklearn.model_selection",
    "sklearn.datasets",
    "ssl_diffusion.cli.main",
    "ssl_diffusion.training.fit",  # with lightning_fabric and torch._dynamo: half of the time of a tiny fit
    "ssl_diffusion.studies",
    "ssl_diffusion.studies.report",
    "ssl_diffusion.estimator",
    "ssl_diffusion.testing",
]


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Start `ssld` with these arguments; what it prints is appended to `log`."""
    return _forked(_ssld, list(arguments), log)


def start_to_be_killed(arguments: Sequence[str], log: Path, phase: str, step: int) -> BaseProcess:
    """Start `ssld` with these arguments, and kill it with SIGKILL as soon as the checkpoint of a step of a phase is written.

    It is the process that sends itself the signal: nobody who watches it from outside can be sure to be in time.
    """
    return _forked(_killed, list(arguments), log, phase, step)


def start_to_be_killed_in_part(arguments: Sequence[str], log: Path, shard: int) -> BaseProcess:
    """Start `ssld embed` or `predict` with these arguments, and kill it with SIGKILL after a batch of this shard."""
    return _forked(_killed_in_part, list(arguments), log, shard)


def run_script(script: Path, folder: Path, log: Path) -> int:
    """Run a script as `__main__` in this folder, to its end; what it prints is appended to `log`. Returns the exit status."""
    process = _forked(_script, script, folder, log)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _forked(target: Callable[..., None], *arguments: object) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def _prints_into(log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())


def _script(script: Path, folder: Path, log: Path) -> None:
    _prints_into(log)
    os.chdir(folder)
    sys.argv = [str(script)]
    runpy.run_path(str(script), run_name="__main__")


def _killed(arguments: list[str], log: Path, phase: str, step: int) -> None:
    from ssl_diffusion.training.checkpoint import TrainingState

    save = TrainingState.save

    def save_and_die(self: TrainingState, result: Any) -> None:
        save(self, result)
        if (self.phase.name, result.steps) == (phase, step):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(TrainingState, "save", save_and_die)  # noqa: B010
    _ssld(arguments, log)


def _killed_in_part(arguments: list[str], log: Path, shard: int) -> None:
    from ssl_diffusion.inference import shard_passes

    write_part = shard_passes.write_part

    def write_and_die(run: Any, source: Any, i: int, *rest: Any, **options: Any) -> Any:
        if i == shard:
            options["report"] = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        return write_part(run, source, i, *rest, **options)

    setattr(shard_passes, "write_part", write_and_die)  # noqa: B010
    _ssld(arguments, log)


def _ssld(arguments: list[str], log: Path) -> None:
    _prints_into(log)
    import torch
    from matplotlib.figure import Figure
    from ssl_diffusion.cli.main import app

    from ssl_diffusion.training import figures

    def blank(*_: Any, **__: Any) -> Figure:
        return Figure(figsize=(1, 1))

    for name in ("confusion_figure", "history_figure", "reconstruction_figure"):  # they take longer than tiny trainings
        setattr(figures, name, blank)
    torch.set_num_threads(1)
    app(arguments)


def wait_for(condition: Callable[[], bool], process: BaseProcess, seconds: float = 60.0) -> None:
    """Poll until the condition holds; fails if the process ends before.

    Half a millisecond between two looks is short beside the writing of a file, and leaves the core to other tests.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if not process.is_alive():
            # It may have become true in the process's last moments.
            assert condition(), f"the process ended (exit code {process.exitcode}) before it could be killed"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)


def being_written(folder: Path) -> bool:
    """Whether a file in this folder is being written: its temporary form is there."""
    with contextlib.suppress(FileNotFoundError):
        return any(name.startswith(".") and "tmp" in name for name in os.listdir(folder))
    return False
