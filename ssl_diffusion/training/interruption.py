"""Ctrl-C and SIGTERM as a flag, so that a loop can finish its step and save its state."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["stop_requested"]


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag; a second SIGINT raises :class:`KeyboardInterrupt` as usual.

    The earlier handlers return when the block ends. Outside the main thread, where Python allows no handlers, the flag is
    never set.

    Yields:
        Function that tells whether a signal has come.

    Example:
        >>> with stop_requested() as stop:
        ...     while not stop():
        ...         step()
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = False

    def request(number: int, frame: object) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
