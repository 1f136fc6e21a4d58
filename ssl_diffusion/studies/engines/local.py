"""Trials in processes of this machine."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from pathlib import Path

from ssl_diffusion.studies.attempts import Outcome, attempt_elsewhere
from ssl_diffusion.studies.trial import Trial
from ssl_diffusion.training.fit import FitOptions

__all__ = ["local_outcomes"]


def local_outcomes(workers: int, path: Path, todo: list[Trial], options: FitOptions) -> Iterator[Outcome]:
    """Run trials of a study folder in worker processes, and give each with its traceback, if it failed, as they end.

    Args:
        workers: Number of processes.
        path: Study folder.
        todo: Trials to run.
        options: Options of the fits, with the cache of denoisers.
    """
    from joblib.externals.loky import get_reusable_executor

    threads = max(1, (os.cpu_count() or 1) // workers)
    assert options.cache is not None
    cache = options.cache.folder.parent.resolve()
    executor = get_reusable_executor(max_workers=workers, timeout=None, env={"OMP_NUM_THREADS": str(threads)})
    futures: dict[Future[str | None], Trial] = {
        executor.submit(attempt_elsewhere, path.resolve(), trial, cache, options.cache_dir, threads): trial for trial in todo
    }
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(wait=True, kill_workers=True)
