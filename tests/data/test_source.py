"""Image sources keep the contract; a source of files decodes what it is asked for, and no more."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.data import images as reading
from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.images import read_images
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.source import FileSource, ImageSource
from ssl_diffusion.errors import DataError
from ssl_diffusion.testing import ImageSourceContract, check


def write_files(folder: Path, n: int = 7) -> list[Path]:
    """PNG files of noise, of several sizes."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(n)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (6 + i % 2, 5, 3), dtype=np.uint8)).save(path)
    return paths


class TestPool(ImageSourceContract):
    @pytest.fixture(autouse=True)
    def _pool(self, small_pool: Pool) -> None:
        self.pool = small_pool

    def make_source(self) -> ImageSource:
        return self.pool


class TestReadOnlyPool(TestPool):
    @pytest.fixture(autouse=True)
    def _pool(self, small_pool: Pool) -> None:
        small_pool.images.flags.writeable = False
        self.pool = small_pool


class TestFiles(ImageSourceContract):
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path) -> None:
        self.paths = write_files(tmp_path / "files")

    def make_source(self) -> ImageSource:
        return FileSource(self.paths, [f"é/{path.name}" for path in self.paths], (3, 6, 5))


def test_files_are_converted_as_a_pool_converts_them(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "files")
    whole = read_images(paths, size=8, channels=1)
    source = FileSource(paths, [path.name for path in paths], (1, 8, 8))
    np.testing.assert_array_equal(source.take(source.ids), whole.images)


def test_only_what_is_asked_for_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_files(tmp_path / "files", 40)
    source = FileSource(paths, [path.name for path in paths], (3, 6, 5))
    decoded: list[str] = []
    decode = reading.decode

    def counted(path: Path, out: NDArray[np.uint8], aspect: Aspect) -> object:
        decoded.append(Path(path).name)
        return decode(path, out, aspect)

    monkeypatch.setattr(reading, "decode", counted)
    source.take(["3.png", "1.png"])
    assert decoded == ["3.png", "1.png"]
    decoded.clear()
    batches: Iterator[object] = source.batches(4)
    assert decoded == []
    next(batches)
    assert len(decoded) <= 8  # this batch, and the next one ahead
    del batches


def test_a_damaged_file_is_named_by_its_id(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "files")
    paths[2].write_bytes(b"")
    source = FileSource(paths, [f"sample {i}" for i in range(7)], (3, 6, 5))
    with pytest.raises(DataError, match="sample 2: zero bytes"):
        source.take(["sample 1", "sample 2"])
    with pytest.raises(DataError, match="sample 2: zero bytes"):
        list(source.batches(3))
    assert len(source.take(["sample 1"])) == 1


@pytest.mark.parametrize(
    ("ids", "shape", "message"),
    [
        (["a", "b"], (3, 6, 5), "2 ids for 3 files"),
        (["a", "b", "a"], (3, 6, 5), "'a' occurs twice"),
        (["a", "b", "c"], (2, 6, 5), "not as"),
    ],
)
def test_impossible_sources_are_refused(tmp_path: Path, ids: list[str], shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FileSource(write_files(tmp_path / "files", 3), ids, shape)


# ---- a contract that cannot fail is no contract


class Deceptive(Pool):
    """A pool with a fault of its own."""


class Unordered(Deceptive):
    def take(self, ids):  # type: ignore[no-untyped-def]
        return np.array(self.images[np.sort(self.positions(ids))])


class Shared(Deceptive):
    def batches(self, size):  # type: ignore[no-untyped-def]
        if size < 1:
            raise DataError("too small")
        return ((self.ids[i : i + size], self.images[i : i + size]) for i in range(0, len(self), size))


class Exhausted(Deceptive):
    def batches(self, size):  # type: ignore[no-untyped-def]
        if size < 1:
            raise DataError("too small")
        if not hasattr(self, "at"):
            self.at = iter(range(len(self)))
        return ((self.ids[i : i + 1], np.array(self.images[i : i + 1])) for i in self.at)


class ShortOfTheLast(Deceptive):
    def batches(self, size):  # type: ignore[no-untyped-def]
        parts = list(super().batches(size))
        return iter(parts[:-1] if len(parts[-1][0]) < size else parts)


class Lenient(Deceptive):
    def take(self, ids):  # type: ignore[no-untyped-def]
        return super().take(i for i in ids if i in self.ids)


@pytest.mark.parametrize("kind", [Unordered, Shared, Exhausted, ShortOfTheLast, Lenient])
def test_the_contract_notices(kind: type[Deceptive], small_pool: Pool) -> None:
    def pool() -> Deceptive:
        p = small_pool
        return kind(p.name, p.images, p.ids, p.labels, p.classes, p.is_test)

    class Contract(ImageSourceContract):
        def make_source(self) -> ImageSource:
            return pool()

    with pytest.raises(AssertionError):
        check(Contract())


def test_check_runs_every_test_once(small_pool: Pool) -> None:
    ran: list[str] = []

    class Contract(ImageSourceContract):
        def make_source(self) -> ImageSource:
            return small_pool

        def test_an_unknown_id_is_named(self) -> None:
            ran.append("mine")

    assert check(Contract()) == len([name for name in dir(ImageSourceContract) if name.startswith("test_")])
    assert ran == ["mine"]
