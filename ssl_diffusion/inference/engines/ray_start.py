"""Ray is started in a thread of its own, so that a command opens its run and its shards meanwhile."""

import logging
import os
from threading import Event, Thread
from typing import Any

from ssl_diffusion.errors import RunError, SSLDError, first_line
from ssl_diffusion.machine import usable_cores

__all__ = ["RayStart"]

_OBJECTS = 256 * 2**20  # bytes of Ray's object store, which holds numbers of shards only


class RayStart:
    """Ray that is being started here, or connected to; one that this process uses already is left as it is.

    It should begin before torch binds this thread to a core (:func:`~ssl_diffusion.machine.bind_threads`), since its processes
    inherit the cores of the thread that starts them.

    Args:
        address: Address of a running cluster, or "auto"; None starts Ray here.
        workers: Number of actors that there will be; None for one a processor core or accelerator, as Ray finds them.

    Example:
        >>> start = RayStart(None, 2)  # doctest: +SKIP
        >>> start.wait()  # doctest: +SKIP
        >>> start.stop()  # doctest: +SKIP
    """

    def __init__(self, address: str | None, workers: int | None) -> None:
        self._address, self._workers, self._own = address, workers, False
        self._error: BaseException | None = None
        self._cores = usable_cores()
        self._begun, self._ended = Event(), Event()
        # Linux ends Ray's processes together with the thread that has started them, so that it waits until they may end.
        self._thread = Thread(target=self._live, name="ray", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when Ray is there.

        Raises:
            SSLDError: If ray is not installed.
            RunError: If there is no cluster at the address.
        """
        self._begun.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop what was started here, or leave the cluster; without effect if it is done already."""
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # is raised in the thread that waits
            self._error = error
        finally:
            self._begun.set()
        self._ended.wait()
        if self._own:
            import ray

            ray.shutdown()

    def _begin(self) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise SSLDError("--engine ray needs Ray Data: pip install 'ssld[ray]'") from error
        if ray.is_initialized():
            return
        # By its default Ray starts workers at niceness 15, at which on a busy machine they wait for minutes to be started.
        os.environ.setdefault("RAY_worker_niceness", "0")
        here: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECTS}
        if self._workers is not None:
            here["num_cpus"] = self._workers
        if os.environ.get("OMP_PROC_BIND", "false") != "false":  # actors bound like this process would share its first core
            threads = max(1, self._cores // (self._workers or self._cores))
            here["runtime_env"] = {"env_vars": {"OMP_PROC_BIND": "false", "OMP_NUM_THREADS": str(threads)}}
        given = here if self._address is None else {"address": self._address}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
            self._own = True
        except (ConnectionError, ValueError, RuntimeError) as error:
            hint = "is it running there? One that asks for a token needs RAY_AUTH_MODE=token here"
            raise RunError(f"no Ray cluster at {self._address!r} ({first_line(error)}): {hint}") from None
