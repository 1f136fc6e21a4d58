"""Shards keep the contract of image sources, and read no more than they are asked for."""

from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.shards import SHAPE, noise, write_packed, write_parquet, write_tar

from ssl_diffusion.data import images as reading
from ssl_diffusion.data.shards.places import expand_braces, find_shards, is_sharded
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.data.source import ImageSource
from ssl_diffusion.errors import DataError
from ssl_diffusion.testing import ImageSourceContract

WRITERS = {"packed": write_packed, "parquet": write_parquet, "tar": write_tar}


class _Shards(ImageSourceContract):
    kind = "packed"

    @pytest.fixture(autouse=True)
    def _shards(self, tmp_path: Path) -> None:
        self.folder = WRITERS[self.kind](tmp_path / "shards")

    def make_source(self) -> ImageSource:
        return ShardSource(self.folder)


class TestPacked(_Shards):
    pass


class TestParquetOfFiles(_Shards):
    kind = "parquet"


class TestTar(_Shards):
    kind = "tar"


del _Shards


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_images_are_those_that_were_written(tmp_path: Path, kind: str) -> None:
    source = ShardSource(WRITERS[kind](tmp_path / "s"))
    assert source.image_shape == SHAPE
    np.testing.assert_array_equal(source.take(source.ids), noise(10).transpose(0, 3, 1, 2))
    assert source.texts("label") == [str(i % 3) for i in range(10)]
    assert source.texts("split") == [None] * 10


def test_structs_of_bytes_and_path_are_images(tmp_path: Path) -> None:
    source = ShardSource(write_parquet(tmp_path / "s", struct=True), (3, 6, 5))
    np.testing.assert_array_equal(source.at(np.array([7, 0])), noise(10).transpose(0, 3, 1, 2)[[7, 0]])


@pytest.mark.parametrize("kind", list(WRITERS))
def test_counts_and_ids_need_no_image(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = WRITERS[kind](tmp_path / "s")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(reading, "decode", refuse)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    source = ShardSource(folder, SHAPE)
    assert len(source) == len(source.ids) > 9
    assert len(source.fingerprint) == 64


def test_a_batch_is_read_from_its_row_group_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ShardSource(write_parquet(tmp_path / "s", (10,)), SHAPE)
    groups: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def seen(self: object, *args: object, row_groups: list[int], **options: object) -> object:
        groups.extend(row_groups)
        return plain(self, *args, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    source.at(np.array([9, 4, 8]))
    assert groups == [2, 4]
    groups.clear()
    assert [batch.rows.tolist() for batch in source.shard_batches(0, 4, 3, 6)] == [[3], [4, 5]]
    assert groups == [1, 2]


def test_equal_content_has_one_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    one, two = (ShardSource(write_packed(tmp_path / name)) for name in ("a", "b"))
    other = ShardSource(write_packed(tmp_path / "c", 13))
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_other_file_systems_are_read(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in write_parquet(tmp_path / "s").iterdir():
        memory.pipe(f"/pool/{path.name}", path.read_bytes())
    try:
        source = ShardSource("memory://pool/{0..1}.parquet")
        assert [shard.place.name for shard in source.shards] == ["memory:///pool/0.parquet", "memory:///pool/1.parquet"]
        np.testing.assert_array_equal(source.take(source.ids[::-1]), noise(10).transpose(0, 3, 1, 2)[:5][::-1])
    finally:
        memory.rm("/pool", recursive=True)


def test_braces_stand_for_what_a_shell_writes() -> None:
    assert expand_braces("a-{1..3}.tar") == ["a-1.tar", "a-2.tar", "a-3.tar"]
    assert expand_braces("{a,b}/{09..10}") == ["a/09", "a/10", "b/09", "b/10"]
    assert expand_braces("plain") == ["plain"]
    with pytest.raises(DataError, match="more than"):
        expand_braces("{0..999999999}")
    with pytest.raises(DataError, match="more than"):
        expand_braces("{0..9999}/{0..9999}")


def test_what_names_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "s")
    assert is_sharded(tmp_path / "s")
    assert not is_sharded(tmp_path)
    assert is_sharded("s3://bucket/pool/")
    assert not is_sharded("https://host/labels.csv")


def test_several_places_are_one_pool_and_none_counts_twice(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "s")
    found = find_shards([folder / "*.parquet", str(folder), f"{folder}/{{0,1}}.parquet"])
    assert [place.stem for place in found] == ["0", "1", "2"]
