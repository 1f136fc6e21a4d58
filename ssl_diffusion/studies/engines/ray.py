"""Trials as Ray tasks, on this machine or a cluster. Needs `pip install 'ssld[ray]'`.

The study folder and the cache of denoisers must be on a file system that all machines see. A task whose process dies is tried
again, up to three times; since a trial is a function of its settings and its folder is whole or absent, that changes nothing.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from ssl_diffusion.errors import RunError, SSLDError
from ssl_diffusion.studies.attempts import attempt_elsewhere
from ssl_diffusion.studies.trial import Trial
from ssl_diffusion.training.fit import FitOptions

__all__ = ["ray_outcomes"]

_RETRIES = 3


def ray_outcomes(
    path: Path, todo: list[Trial], options: FitOptions, *, workers: int, address: str | None
) -> Iterator[tuple[Trial, str | None]]:
    """Run trials of a study folder and give each with its traceback, if it failed, in the order in which they end.

    Args:
        path: Study folder.
        todo: Trials to run.
        options: Options of the fits, with the cache of denoisers.
        workers: Number of processes where Ray is started here; a cluster has its own.
        address: Address of a running cluster; None starts Ray here and stops it in the end.

    Raises:
        SSLDError: if ray is not installed.
        RunError: if there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise SSLDError("--engine ray needs Ray: pip install 'ssld[ray]'") from error

    own = not ray.is_initialized()
    if own:
        try:
            given = {"num_cpus": workers, "include_dashboard": False} if address is None else {"address": address}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
        except (ConnectionError, ValueError) as error:
            hint = "is it running there? One that asks for a token needs RAY_AUTH_MODE=token here"
            raise RunError(f"no Ray cluster at {address!r} ({error}): {hint}") from None
    try:
        assert options.cache is not None
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(attempt_elsewhere)
        cache = options.cache.folder.parent.resolve()
        pending = {task.remote(path.resolve(), trial, cache, options.cache_dir, 1): trial for trial in todo}
        while pending:
            for done in ray.wait(list(pending), num_returns=1)[0]:
                trial = pending.pop(done)
                try:
                    yield trial, ray.get(done)
                except ray.exceptions.RayError as error:
                    yield trial, f"{type(error).__name__}: {error}"
    finally:
        if own:
            ray.shutdown()
