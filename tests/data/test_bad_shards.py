"""What is wrong with shards is said in one sentence that names shard and row; --skip-bad goes on."""

import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry
from support.shards import SHAPE, noise, png, write_folder, write_packed, write_parquet, write_tar

from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.shards import places
from ssl_diffusion.data.shards.base import Columns
from ssl_diffusion.data.shards.pack import pack
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError


def table(path: Path, **columns: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


def _nothing(folder: Path) -> str:
    folder.mkdir()
    return f"{folder}/*.parquet"


def _missing(folder: Path) -> str:
    return f"{write_tar(folder)}/{{00..07}}.tar"


def _no_column(folder: Path) -> Path:
    return table(folder / "a.parquet", id=["a"], picture=[png(noise(1)[0])])


def _no_id(folder: Path) -> Path:
    return table(folder / "a.parquet", name=["a"], image=[png(noise(1)[0])])


def _text(folder: Path) -> Path:
    return table(folder / "a.parquet", id=["a"], image=["cat.jpg"])


def _empty_id(folder: Path) -> Path:
    return table(folder / "a.parquet", id=["a", None], image=[png(x) for x in noise(2)])


def _schemas(folder: Path) -> Path:
    write_parquet(folder)
    table(folder / "z.parquet", key=["a"], image=[png(noise(1)[0])])
    return folder


def _twice(folder: Path) -> Path:
    write_parquet(folder)
    table(folder / "z.parquet", id=["x", "é2"], image=[png(x) for x in noise(2)], label=[0, 1])
    return folder


def _no_parquet(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.parquet").write_bytes(b"PAR1 this is none PAR1")
    return folder


def _no_tar(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.tar").write_bytes(b"x" * 1024)
    return folder


def _cut_tar(folder: Path) -> Path:
    path = write_tar(folder, (4,)) / "00.tar"
    path.write_bytes(path.read_bytes()[:1600])
    return folder


def _empty_tar(folder: Path) -> Path:
    folder.mkdir()
    tarfile.open(folder / "a.tar", "w").close()
    return folder


def _two_images(folder: Path) -> Path:
    path = write_tar(folder, (1,)) / "00.tar"
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("a/0.jpg")
        archive.addfile(member)
    return folder


def _both(folder: Path) -> Path:
    write_tar(folder)
    return write_parquet(folder)


def _zipped(folder: Path) -> str:
    return str(folder / "a.tar.gz")


def _protocol(folder: Path) -> str:
    return "nosuch://bucket/*.parquet"


BAD: list[tuple[Callable[[Path], Path | str], str]] = [
    (_nothing, "no shard matches .*/s/\\*.parquet"),
    (_missing, "03.tar does not exist"),
    (_no_column, "a.parquet has no column of images.*--image-column, among 'id', 'picture'"),
    (_no_id, "a.parquet has no column of sample ids.*--id-column, among 'name', 'image'"),
    (_text, "the column 'image' holds string and no images"),
    (_empty_id, "a.parquet, row 1: the column 'id' has no id"),
    (_schemas, "different schemas: .*0.parquet has ids in 'id'.*z.parquet has ids in 'key'"),
    (_twice, "'é2' is at .*0.parquet, row 2 and at .*z.parquet, row 1"),
    (_no_parquet, "a.parquet is no Parquet file, or is damaged"),
    (_no_tar, "a.tar is no tar file, or is damaged"),
    (_cut_tar, "00.tar is no tar file, or is damaged"),
    (_empty_tar, "a.tar holds no images"),
    (_two_images, "the sample 'a/0' has two images"),
    (_both, "is Parquet and .* is tar"),
    (_zipped, "is compressed.*unpack it"),
    (_protocol, "cannot be read: .*nosuch"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_what_is_wrong_is_said(tmp_path: Path, make: Callable[[Path], Path | str], message: str) -> None:
    given = make(tmp_path / "s")
    with pytest.raises(DataError, match=message) as caught:
        ShardSource(given, SHAPE).ids  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_bucket_without_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(places.LocalFileSystem, "glob", refuse)
    with pytest.raises(DataError, match=r"pool/\*.parquet cannot be read: permission denied \(Access Denied\)$"):
        ShardSource("pool/*.parquet")


@pytest.mark.parametrize(
    ("url", "package"), [("s3://b/*.parquet", "s3fs"), ("gs://b/{0..2}.tar", "gcsfs"), ("abfs://b/pool/", "adlfs")]
)
def test_a_file_system_that_is_not_installed_says_what_to_install(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(_registry, url.partition(":")[0], raising=False)
    with pytest.raises(DataError, match=f"cannot be read: it needs {package}: pip install {package}$"):
        ShardSource(url)


def test_a_damaged_image_is_named_with_shard_and_row(tmp_path: Path) -> None:
    files = [png(x) for x in noise(5)]
    files[3] = b"no image"
    path = table(tmp_path / "s" / "a.parquet", id=list("abcde"), image=[*files[:1], None, *files[2:]])
    with pytest.raises(DataError, match=r"row 1 \('b'\): zero bytes\n.*row 3 \('d'\): not an image"):
        list(ShardSource(path, SHAPE).batches(4))
    with pytest.raises(DataError, match=r"a.parquet, row 3 \('d'\): not an image"):
        ShardSource(path, SHAPE, skip_bad=True).take(["a", "d"])
    batches = list(ShardSource(path, SHAPE, skip_bad=True).shard_batches(0, 4))
    assert [batch.ids.tolist() for batch in batches] == [["a", "c"], ["e"]]
    assert [len(batch.skipped) for batch in batches] == [2, 0]
    np.testing.assert_array_equal(batches[1].images[0], noise(5)[4].transpose(2, 0, 1))


def test_a_damaged_row_group_is_found_by_its_checksum_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    pack(list_folder(write_folder(tmp_path / "images", 90)), folder, SHAPE)
    path = folder / "shard-00000.parquet"
    whole = ShardSource(folder)
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    flip(path, column.data_page_offset + column.total_compressed_size // 2)
    with pytest.raises(DataError, match=r"shard-00000.parquet, rows 0 to 89: .*(CRC|corrupt|damaged)"):
        list(ShardSource(folder).batches(50))
    with pytest.raises(DataError, match="has changed since"):
        list(whole.batches(50))
    (only,) = ShardSource(folder, skip_bad=True).shard_batches(0, 50)
    assert len(only.ids) == 0
    assert only.skipped[0][0].endswith("rows 0 to 89")


def test_a_damaged_shard_is_left_out(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "s")
    (folder / "1.parquet").write_bytes(b"")
    source = ShardSource(folder, SHAPE, skip_bad=True)
    assert len(source) == 9
    assert source.skipped[0][0].endswith("1.parquet")
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the 3 shards can be read"):
        ShardSource(folder, SHAPE, skip_bad=True)


def test_a_shard_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "s")
    source = ShardSource(folder, SHAPE)
    batches = source.batches(2)
    next(batches)
    os.utime(folder / "0.parquet", (1, 1))  # while it is being read
    with pytest.raises(DataError, match=r"0.parquet has changed since it was first read"):
        list(batches)
    (folder / "2.parquet").unlink()
    with pytest.raises(DataError, match=r"2.parquet does not exist"):
        source.at(np.array([9]))


def test_packed_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="packed images of 3 x 6 x 5, not of 1 x 8 x 8"):
        ShardSource(write_packed(tmp_path / "s"), (1, 8, 8))


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = table(tmp_path / "s" / "a.parquet", nr=[7, 8], picture=[png(x) for x in noise(2)], kind=["x", " "])
    source = ShardSource(path, SHAPE, columns=Columns("nr", "picture", "kind"))
    assert source.ids.tolist() == ["7", "8"]
    assert source.texts("label") == ["x", None]
    with pytest.raises(DataError, match="has no column 'pictures'; did you mean picture"):
        ShardSource(path, SHAPE, columns=Columns("nr", "pictures"))
