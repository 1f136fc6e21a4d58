"""Keys of a pool in shards come from footers, and what they stand for can be verified."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import ok, refused
from support.shards import write_packed, write_parquet, write_tar

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shards import digests
from ssl_diffusion.data.shards.marks import ShardMark, changed_shards
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.data.shards.verifying import verify_shards
from ssl_diffusion.errors import DataError


def flip(path: Path, at: int) -> None:
    """Change a byte and leave the time of the last change as it was."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tamper(folder: Path) -> Path:
    """Change a pixel of the last packed shard, and nothing in its footer."""
    path = sorted(folder.glob("*.parquet"))[-1]
    table = pq.read_table(path)
    rows = [bytes([row[0] ^ 1]) + row[1:] for row in table["image"].to_pylist()]
    image = table.schema.get_field_index("image")
    field, facts = table.schema.field(image), pq.read_metadata(path).metadata[b"ssld"]
    other = table.set_column(image, field, pa.array(rows, field.type))
    pq.write_table(other.replace_schema_metadata({b"ssld": facts}), path)
    return path


def test_the_fingerprint_of_a_pool_reads_no_pixel(tmp_path: Path) -> None:
    pool = load_pool(DataSettings(path=str(write_packed(tmp_path / "s"))))
    assert [shard.images for shard in pool.shards] == [5, 5, 4]
    fingerprint = pool.fingerprint()
    assert replace(pool, images=255 - pool.images).fingerprint() == fingerprint
    again = load_pool(DataSettings(path=str(write_packed(tmp_path / "t"))))
    assert again.fingerprint() == fingerprint
    others = [shard._replace(digest="x") for shard in pool.shards]
    for other in (
        replace(pool, shards=tuple(others)),
        replace(pool, shards=pool.shards[::-1]),
        replace(pool, is_test=np.arange(14) == 3),
        replace(pool, aspect="crop"),
    ):
        assert other.fingerprint() != fingerprint


@pytest.mark.parametrize("write", [write_parquet, write_tar])
def test_without_a_digest_in_the_footer_time_and_a_sample_tell_shards_apart(tmp_path: Path, write: object) -> None:
    folder = write(tmp_path / "s")
    path = min(folder.iterdir())
    before = ShardSource(folder).marks
    assert ShardSource(folder).marks == before
    flip(path, 600)  # in an image: the footer and the headers stay as they are
    sample = ShardSource(folder).marks
    assert [a == b for a, b in zip(before, sample, strict=True)] == [False, True, True]
    os.utime(path, (1, 1))
    assert ShardSource(folder).marks[0] not in (before[0], sample[0])


def test_the_sample_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = ShardSource(write_tar(tmp_path / "s", (40,))).shards
    monkeypatch.setattr(digests, "_BLOCK", 64)
    read: list[int] = []
    plain = shard.place.system.cat_ranges

    def seen(paths: list[str], starts: list[int], ends: list[int], **options: object) -> object:
        read.extend(end - start for start, end in zip(starts, ends, strict=True))
        return plain(paths, starts, ends, **options)

    monkeypatch.setattr(shard.place.system, "cat_ranges", seen)
    assert len(shard.digest) == 64
    assert read == [64] * 8


def test_digests_are_verified_on_demand(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "s")
    source = ShardSource(folder)
    assert verify_shards(source) == 3
    assert verify_shards(ShardSource(write_parquet(tmp_path / "p"))) == 0
    path = tamper(folder)
    assert ShardSource(folder).fingerprint == source.fingerprint
    with pytest.raises(DataError, match=rf"{path.name} does not hold the ids and images that its footer says: pack it again"):
        verify_shards(ShardSource(folder))


def test_a_check_verifies_shards(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "s", 24, 8)
    assert "3 of 3 shards hold what their footers say" in ok("check", folder, "--out", tmp_path / "c").stdout
    tamper(folder)
    assert "does not hold the ids and images" in refused("check", folder, "--out", tmp_path / "d")


def test_changed_shards_are_named() -> None:
    before = [ShardMark(f"s/{i}.tar", f"d{i}", 5) for i in range(6)]
    moved = [mark._replace(name=mark.name.replace("s/", "t/")) for mark in before]
    assert changed_shards(before, moved) == []
    assert changed_shards(before, moved[::-1]) == ["the shards have another order"]
    now = [mark._replace(digest="x" + mark.digest) for mark in moved[:4]] + [ShardMark("t/9.tar", "d9", 5)]
    assert changed_shards(before, now) == [
        "4 of 6 shards have another content: t/0.tar, t/1.tar, t/2.tar ...",
        "2 of 6 shards are gone: s/4.tar, s/5.tar",
        "1 of 6 shards is new: t/9.tar",
    ]
    copied = [moved[0], moved[1]._replace(digest="d0"), *moved[2:]]
    assert changed_shards(before, copied) == ["1 of 6 shards has another content: t/1.tar"]
