"""Images of shards that are streamed through a buffer, for a pool whose decoded pixels are too large for memory and disk.

A pass puts the stretches of all shards (row groups, or parts of them) into an order drawn from (seed, pass). Stretches that
follow each other fill a buffer of at most B images, and the images in it are drawn in an order from (seed, pass, buffer). So
every image comes once a pass, what comes at an offset of the stream is a function of seed and offset alone, and a run that goes
on reads one buffer and nothing else. While the images of one buffer are drawn, processes decode the next one; no third one is
held.
"""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.shards.rows import ShardImages
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.machine import usable_cores

__all__ = ["ShardStream", "StreamedImages"]

_log = logging.getLogger(__name__)

_LEAST_STRETCHES, _LONGEST = 8, 2**26  # of a full buffer, and bytes of pixels: larger row groups are divided
_MOST_WORKERS = 8
_WORTH_SAYING, _MOST_WAITING = 5.0, 0.1  # seconds of waiting, and of the time that a stream is read
_AHEAD, _ON_THE_WAY = 2, 4  # stretches that a process is asked for beforehand, of a fourth of a buffer at most


@dataclass(frozen=True)
class ShardStream:
    """What is streamed; :class:`StreamedImages` does it.

    Attributes:
        images: Images of shards.
        rows: Numbers of the images to stream, ascending, int64 (n,).
        buffer: Number of images in a buffer, at most.
    """

    images: ShardImages
    rows: NDArray[np.int64]
    buffer: int

    def stretches(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The stretches that are read as one, as place of the first image among the rows and number of images, int64 (s,) each.

        A stretch lies in a part of a shard that can be read alone, and holds an eighth of a buffer or 64 MiB of pixels at most.
        """
        source, at = self.images.source, self.images.rows[self.rows]
        parts = [start + shard.parts for start, shard in zip(source.starts.tolist(), source.shards, strict=False)]
        edges = np.unique(np.searchsorted(at, np.concatenate([*parts, [len(source)]])))
        first, size = edges[:-1], np.diff(edges)
        most = max(1, min(self.buffer // _LEAST_STRETCHES, _LONGEST // int(np.prod(source.image_shape))))
        n = -(-size // most)  # into as many, as even as can be
        number = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        divided = np.repeat(first, n) + number * np.repeat(size, n) // np.repeat(n, n)
        return divided, np.diff(np.append(divided, len(at)))


class StreamedImages:
    """An endless stream of images, of which two buffers are in memory, and a fourth of one on its way; to be closed.

    Args:
        stream: Shards, the rows of them to stream, and the size of the buffer.
        seed: Random seed of the order.
        workers: Number of processes that decode; None takes one for each two cores, at most 8.

    Attributes:
        n: Number of images of a pass.

    Raises:
        ValueError: If there is no image to stream, or no room for one.
    """

    def __init__(self, stream: ShardStream, seed: int, workers: int | None = None) -> None:
        if not len(stream.rows) or stream.buffer < 1:
            raise ValueError("a stream has images, and a buffer of one or more")
        self.n, self.seed = len(stream.rows), seed
        self._stream = stream
        self._at = stream.images.rows[stream.rows]
        self._first, self._size = stream.stretches()
        self._passes: dict[int, _Pass] = {}
        self._buffers: dict[tuple[int, int], Future[NDArray[np.uint8]]] = {}
        self._workers = workers or max(1, min(_MOST_WORKERS, usable_cores() // 2))
        self._decoding: ProcessPoolExecutor | None = None
        self._loading = ThreadPoolExecutor(1)
        self._closed = threading.Event()
        self._began: float | None = None  # when the first buffer was there
        self._waited = 0.0  # seconds for later ones

    def rows(self, start: int, size: int) -> NDArray[np.int64]:
        """The images from an offset of the stream on, as numbers among those that are streamed, int64 (size,); reads none."""
        return np.concatenate([a_pass.rows(number)[low:high] for a_pass, number, low, high in self._parts(start, size)])

    def take(self, start: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The images from an offset of the stream on.

        Args:
            start: Offset.
            size: Number of images, at least 1.

        Returns:
            Their numbers among those that are streamed, int64 (size,), and the images, uint8 (size, C, H, W).

        Raises:
            DataError: If an image cannot be read, or a shard has changed; names it.
            SSLDError: If a process that decodes has been ended.
        """
        rows, images = [], []
        for a_pass, number, low, high in self._parts(start, size):
            rows.append(a_pass.rows(number)[low:high])
            images.append(self._buffer(a_pass, number)[a_pass.order(number)[low:high]])
        return np.concatenate(rows), np.concatenate(images)

    def close(self) -> None:
        """End the processes that decode, and let go of the buffers; a warning says if training waited long for them."""
        self._closed.set()
        spent = 0.0 if self._began is None else time.monotonic() - self._began
        if self._waited > max(_WORTH_SAYING, _MOST_WAITING * spent):
            _log.warning(
                "for %.0f of %.0f s training waited for images to be decoded out of the shards: pack them (ssld pack), or give "
                "it more cores",
                self._waited,
                spent,
            )
        self._loading.shutdown(wait=True, cancel_futures=True)
        if self._decoding is not None:
            self._decoding.shutdown(wait=True, cancel_futures=True)
        self._buffers.clear()

    def _parts(self, start: int, size: int) -> Iterator[tuple["_Pass", int, int, int]]:
        """The buffers that a stretch of the stream lies in, and from where to where."""
        while size > 0:
            index, offset = divmod(start, self.n)
            a_pass = self._pass(index)
            number = a_pass.number(offset)
            low = offset - int(a_pass.starts[number])
            high = min(low + size, int(a_pass.starts[number + 1] - a_pass.starts[number]))
            yield a_pass, number, low, high
            start, size = start + high - low, size - (high - low)

    def _pass(self, index: int) -> "_Pass":
        if index not in self._passes:
            self._passes = {i: a_pass for i, a_pass in self._passes.items() if abs(i - index) == 1}
            self._passes[index] = _Pass(self._first, self._size, self._stream.buffer, self.seed, index)
        return self._passes[index]

    def _buffer(self, a_pass: "_Pass", number: int) -> NDArray[np.uint8]:
        """The images of a buffer; the one before is let go, and the next one asked for."""
        wanted = [(a_pass, number), (a_pass, number + 1)]
        if number + 1 == len(a_pass.starts) - 1:
            wanted[1] = (self._pass(a_pass.index + 1), 0)
        keys = [(of.index, at) for of, at in wanted]
        for key in [key for key in self._buffers if key not in keys]:
            self._buffers.pop(key).cancel()
        for key, (of, at) in zip(keys, wanted, strict=True):
            if key not in self._buffers:
                self._buffers[key] = self._loading.submit(self._load, of.stretches(at))
        began = time.monotonic()
        images = self._buffers[keys[0]].result()
        now = time.monotonic()
        if self._began is None:
            self._began = now
        else:
            self._waited += now - began
        return images

    def _load(self, stretches: list[NDArray[np.int64]]) -> NDArray[np.uint8]:
        """The images of some stretches, one behind the other."""
        if self._decoding is None:
            self._decoding = ProcessPoolExecutor(
                self._workers, get_context("spawn"), initializer=_begin, initargs=(self._stream.images.source,)
            )
        images = np.empty((sum(map(len, stretches)), *self._stream.images.shape[1:]), dtype=np.uint8)
        left, n, on_the_way = deque(stretches), 0, 0
        asked: deque[Future[NDArray[np.uint8]]] = deque()
        try:
            while left or asked:
                while left and self._may_ask(len(asked), on_the_way + len(left[0])):
                    on_the_way += len(left[0])
                    asked.append(self._decoding.submit(_read, self._at[left.popleft()]))
                part = asked.popleft().result()
                images[n : n + len(part)] = part
                n, on_the_way = n + len(part), on_the_way - len(part)
                if self._closed.is_set():
                    break
        except BrokenProcessPool:
            raise SSLDError(
                "a process that decodes images of the stream has been ended, often because memory was short, or could not be "
                "started; --resume goes on, with a smaller --stream it is another run"
            ) from None
        finally:
            for future in asked:
                future.cancel()
        return images

    def _may_ask(self, stretches: int, images: int) -> bool:
        """Whether one more stretch is asked for, with which so many images are on their way beside the buffers."""
        return not stretches or (stretches < _AHEAD * self._workers and images <= self._stream.buffer // _ON_THE_WAY)


class _Pass:
    """The order of one pass: which stretches are in which buffer, and how the images of each are shuffled.

    Args:
        first: Place of the first image of each stretch among the rows, int64 (s,).
        size: Number of images of each stretch, int64 (s,).
        buffer: Number of images in a buffer, at most.
        seed: Random seed.
        index: Number of the pass.

    Attributes:
        index: Number of the pass.
        starts: Offset of each buffer in the pass, and that of its end, int64 (b + 1,).
    """

    def __init__(self, first: NDArray[np.int64], size: NDArray[np.int64], buffer: int, seed: int, index: int) -> None:
        self.index, self._seed = index, seed
        order = np.random.default_rng([seed, index]).permutation(len(size))
        self._first, self._size = first[order], size[order]
        ends = np.concatenate([[0], np.cumsum(self._size)])
        bounds = [0]
        while bounds[-1] < len(order):
            bounds.append(int(np.searchsorted(ends, ends[bounds[-1]] + buffer, side="right")) - 1)
        self._bounds, self.starts = bounds, ends[bounds]
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._rows: dict[int, NDArray[np.int64]] = {}

    def number(self, offset: int) -> int:
        """The buffer that an offset of the pass lies in."""
        return int(np.searchsorted(self.starts, offset, side="right")) - 1

    def stretches(self, number: int) -> list[NDArray[np.int64]]:
        """Numbers of the images of a buffer, stretch by stretch."""
        inside = slice(self._bounds[number], self._bounds[number + 1])
        return [np.arange(a, a + n) for a, n in zip(self._first[inside].tolist(), self._size[inside].tolist(), strict=True)]

    def order(self, number: int) -> NDArray[np.int64]:
        """The order in which the images of a buffer are drawn, int64 (n,), as their places in it."""
        if number not in self._orders:
            rng = np.random.default_rng([self._seed, self.index, number])
            self._orders = {number: rng.permutation(int(self.starts[number + 1] - self.starts[number]))}
        return self._orders[number]

    def rows(self, number: int) -> NDArray[np.int64]:
        """Numbers of the images of a buffer in the order in which they are drawn, int64 (n,)."""
        if number not in self._rows:
            self._rows = {number: np.concatenate(self.stretches(number))[self.order(number)]}
        return self._rows[number]


# -- in the processes that decode -----------------------------------------------------------------------------------------

_source: ShardSource


def _begin(source: ShardSource) -> None:
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the group, and the one that trains ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that waits for work does not notice by itself that the one that gives it was killed."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _read(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images of one shard."""
    place = _source.shards[_source.locate(int(positions[0]))[0]].place
    place.check()  # a shard that is kept open would go on giving what was there
    images = _source.at(positions)
    place.check()
    return images
