"""Images that are streamed out of shards: each once a pass, in an order that seed and offset alone decide, in two buffers."""

import gc
import os
import pickle
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.shards import write_packed, write_parquet, write_tar

from ssl_diffusion.data.shards.rows import ShardImages
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, SSLDError
from ssl_diffusion.training import streaming
from ssl_diffusion.training.streaming import ShardStream, StreamedImages

BUFFER = 16


class Here:
    """Decodes in this process, so that most tests start no other one."""

    def __init__(self, workers: int, context: Any, initializer: Any, initargs: tuple[ShardSource]) -> None:
        del workers, context, initializer
        self.source = pickle.loads(pickle.dumps(initargs[0]))  # as it reaches another process

    def submit(self, read: Any, positions: NDArray[np.int64]) -> Any:
        from concurrent.futures import Future

        future: Future[NDArray[np.uint8]] = Future()
        streaming._source = self.source
        try:
            future.set_result(read(positions))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "ProcessPoolExecutor", Here)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packed(tmp_path_factory.mktemp("packed") / "s", n=53, per_shard=5)


def stream_of(folder: Path, rows: NDArray[np.int64] | None = None, buffer: int = BUFFER) -> ShardStream:
    images = ShardImages(ShardSource(folder))
    return ShardStream(images, np.arange(len(images)) if rows is None else rows, buffer)


def drawn(stream: ShardStream, start: int, size: int, step: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """What a stream gives from one offset on, `step` images at a time."""
    streamed = StreamedImages(stream, seed)
    parts = [streamed.take(at, min(step, start + size - at)) for at in range(start, start + size, step)]
    streamed.close()
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def take_all(streamed: StreamedImages) -> None:
    for start in range(0, 4 * streamed.n, 2):
        streamed.take(start, 2)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("write", [write_packed, write_parquet, write_tar])
def test_every_image_comes_once_a_pass_and_is_the_one_that_it_is_said_to_be(tmp_path: Path, write: Any) -> None:
    stream = stream_of(write(tmp_path / "s"), buffer=4)
    n, images = len(stream.rows), stream.images[np.arange(len(stream.rows))]
    rows, found = drawn(stream, 0, 3 * n, 3)
    np.testing.assert_array_equal(found, images[rows])
    passes = rows.reshape(3, n)
    assert [sorted(one) for one in passes.tolist()] == [list(range(n))] * 3
    assert len({tuple(one) for one in passes.tolist()}) == 3


@pytest.mark.usefixtures("in_this_process")
def test_what_comes_depends_on_seed_and_offset_alone(packed: Path) -> None:
    stream = stream_of(packed)
    rows, images = drawn(stream, 0, 130, 7)
    for start, size, step in ((40, 60, 60), (51, 79, 4), (129, 1, 1)):  # within a buffer, across passes
        again = drawn(stream, start, size, step)
        np.testing.assert_array_equal(again[0], rows[start : start + size])
        np.testing.assert_array_equal(again[1], images[start : start + size])
    assert StreamedImages(stream, 0).rows(40, 60).tolist() == rows[40:100].tolist()
    assert drawn(stream, 0, 53, 53, seed=1)[0].tolist() != rows[:53].tolist()


@pytest.mark.usefixtures("in_this_process")
def test_test_images_are_left_out(packed: Path) -> None:
    rows = np.flatnonzero(np.arange(53) % 4 > 0)
    stream = stream_of(packed, rows)
    found, images = drawn(stream, 0, len(rows), 8)
    np.testing.assert_array_equal(images, stream.images[rows[found]])
    assert sorted(found.tolist()) == list(range(len(rows)))


def test_a_buffer_holds_images_from_many_places(packed: Path) -> None:
    streamed = StreamedImages(stream_of(packed, buffer=24), 0)
    a_pass = streamed._pass(0)
    sizes = np.diff(a_pass.starts)
    assert sizes.max() <= 24
    assert sizes.sum() == 53
    assert all(len(a_pass.stretches(i)) >= 8 for i in range(len(sizes) - 1))
    assert max(len(part) for i in range(len(sizes)) for part in a_pass.stretches(i)) <= 3  # an eighth


@pytest.mark.usefixtures("in_this_process")
def test_no_more_than_two_buffers_are_in_memory(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0
    load = StreamedImages._load

    def counted(self: StreamedImages, stretches: list[NDArray[np.int64]]) -> NDArray[np.uint8]:
        nonlocal most
        images = load(self, stretches)
        assert len(images) <= BUFFER
        alive.append(weakref.ref(images))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return images

    monkeypatch.setattr(StreamedImages, "_load", counted)
    drawn(stream_of(packed), 0, 300, 10)
    assert most == 2
    assert len(alive) >= 300 / BUFFER
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_other_processes_decode_and_end_with_the_stream(packed: Path) -> None:
    stream = stream_of(packed)
    streamed = StreamedImages(stream, 0, workers=2)
    rows, images = streamed.take(0, 60)
    np.testing.assert_array_equal(images, stream.images[rows])
    assert streamed._decoding is not None
    processes = list(streamed._decoding._processes.values())
    assert processes
    assert os.getpid() not in {process.pid for process in processes}
    streamed.close()
    assert not any(process.is_alive() for process in processes)


def test_a_process_that_is_killed_ends_the_stream_with_a_sentence(packed: Path) -> None:
    streamed = StreamedImages(stream_of(packed), 0, workers=1)
    streamed.take(0, 5)
    assert streamed._decoding is not None
    for process in list(streamed._decoding._processes.values()):
        process.kill()
        process.join()
    with pytest.raises(SSLDError, match="a process that decodes images of the stream has been ended"):
        take_all(streamed)
    streamed.close()


@pytest.mark.usefixtures("in_this_process")
def test_a_shard_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "s", n=53)
    streamed = StreamedImages(stream_of(folder), 0)
    streamed.take(0, 5)
    changed = sorted(folder.glob("*.parquet"))[3]
    changed.write_bytes(changed.read_bytes() + b"more")
    time.sleep(0.01)
    with pytest.raises(DataError, match=changed.name):
        take_all(streamed)
    streamed.close()


@pytest.mark.usefixtures("in_this_process")
def test_a_damaged_image_is_named_with_shard_and_row(tmp_path: Path) -> None:
    folder = write_tar(tmp_path / "s")
    source = ShardSource(folder, (3, 6, 5))
    shard = folder / "02.tar"
    content = bytearray(shard.read_bytes())
    start, size = source.shards[2]._spans[3].tolist()  # type: ignore[attr-defined]
    content[start + 8 : start + size] = bytes(size - 8)
    shard.write_bytes(content)
    images = ShardImages(ShardSource(folder, (3, 6, 5)))
    streamed = StreamedImages(ShardStream(images, np.arange(len(images)), 4), 0)
    with pytest.raises(DataError, match=r"02\.tar, row 3 \('a/8'\)"):
        take_all(streamed)
    streamed.close()


@pytest.mark.usefixtures("in_this_process")
def test_whoever_waits_for_slow_decoding_is_told(
    packed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = StreamedImages._load

    def slow(self: StreamedImages, stretches: list[NDArray[np.int64]]) -> NDArray[np.uint8]:
        time.sleep(0.1)
        return load(self, stretches)

    monkeypatch.setattr(StreamedImages, "_load", slow)
    drawn(stream_of(packed), 0, 100, 10)
    assert not caplog.records  # of less than five seconds nobody need know
    monkeypatch.setattr(streaming, "_WORTH_SAYING", 0.2)
    drawn(stream_of(packed), 0, 100, 10)
    assert "training waited for images to be decoded" in caplog.text
    caplog.clear()
    drawn(stream_of(packed), 0, BUFFER // 2, 1)  # the first buffer is always waited for
    assert not caplog.records


def test_a_stream_of_nothing_is_refused(packed: Path) -> None:
    with pytest.raises(ValueError, match="a stream has images"):
        StreamedImages(stream_of(packed, np.zeros(0, np.int64)), 0)
    with pytest.raises(ValueError, match="one or more"):
        StreamedImages(stream_of(packed, buffer=0), 0)
