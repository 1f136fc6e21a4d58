"""Trials in processes of this machine."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from pathlib import Path

from ssl_diffusion.studies.attempts import Outcome, attempt_elsewhere
from ssl_diffusion.studies.trial import Trial
from ssl_diffusion.training.fit import FitOptions


def _with_workers(workers: int, path: Path, todo: list[Trial], options: FitOptions) -> Iterator[Outcome]:
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
