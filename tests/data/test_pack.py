"""Packing decodes images once; a run that is killed leaves whole shards, and the next one goes on."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.commands import ok, refused
from support.shards import SHAPE, write_folder, write_packed

from ssl_diffusion.data.folders import load_folder
from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.shards.pack import pack
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, RunError


def test_shards_hold_what_the_folder_holds(tmp_path: Path) -> None:
    source = ShardSource(write_packed(tmp_path / "s"))
    pool = load_folder(tmp_path / "s-images")
    assert source.ids.tolist() == pool.ids.tolist()
    np.testing.assert_array_equal(source.take(pool.ids), pool.images)
    assert source.texts("label") == [pool.classes[k] for k in pool.labels]


def test_only_what_changed_is_packed_again(tmp_path: Path) -> None:
    images, out = write_folder(tmp_path / "images"), tmp_path / "s"

    def run() -> tuple[int, int]:
        done = pack(list_folder(images), out, SHAPE, per_shard=5)
        return len(done.shards), done.kept

    assert run() == (3, 0)
    assert run() == (3, 3)
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(images / "bee" / "00.png")  # of the second shard: ant comes first
    assert run() == (3, 2)
    (out / "shard-00002.parquet").write_bytes(b"PAR1 damaged PAR1")
    with pytest.raises(RunError, match="did not write"):
        run()
    (out / "shard-00002.parquet").unlink()
    assert run() == (3, 2)
    for path in (images / "bee").iterdir():
        path.unlink()
    assert run()[0] == 2
    assert sorted(path.name for path in out.iterdir()) == ["shard-00000.parquet", "shard-00001.parquet"]


def test_unreadable_files_are_named_or_left_out(tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", 6)
    (images / "ant" / "01.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"ant/01.png: not an image"):
        pack(list_folder(images), tmp_path / "s", SHAPE)
    assert not list((tmp_path / "s").iterdir())
    for _ in range(2):  # what was left out is known from the footer
        done = pack(list_folder(images), tmp_path / "s", SHAPE, skip_bad=True)
        assert (done.images, [sample for sample, _ in done.skipped]) == (5, ["ant/01.png"])


def test_a_full_disk_is_one_sentence_and_leaves_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, out = write_folder(tmp_path / "images"), tmp_path / "s"
    plain = pq.ParquetWriter.write_table
    written: list[object] = []

    def full(self: object, *args: object, **options: object) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(args)
        plain(self, *args, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RunError, match=r"cannot write .*shard-00002.parquet .No space left on device"):
        pack(list_folder(images), out, SHAPE, per_shard=5)
    assert sorted(path.name for path in out.iterdir()) == ["shard-00000.parquet", "shard-00001.parquet"]


def test_a_killed_run_leaves_nothing_half_and_goes_on(tmp_path: Path) -> None:
    images, out = write_folder(tmp_path / "images", 60), tmp_path / "s"
    slow = (
        "import sys, time; from pathlib import Path\n"
        "from ssl_diffusion.data import images\n"
        "plain = images.decode\n"
        "images.decode = lambda *a: (time.sleep(0.02), plain(*a))[1]\n"
        "from ssl_diffusion.data.listings import list_folder\n"
        "from ssl_diffusion.data.shards.pack import pack\n"
        f"pack(list_folder(Path({str(images)!r})), Path({str(out)!r}), {SHAPE}, per_shard=10)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow])
    try:
        wait = time.monotonic() + 60
        while not (out / "shard-00001.parquet").exists() or not list(out.glob(".tmp*")):
            assert process.poll() is None
            assert time.monotonic() < wait
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = sorted(path.name for path in out.glob("shard-*"))
    assert 2 <= len(there) < 6
    assert len(ShardSource(out)) == 10 * len(there)  # shards are whole
    done = pack(list_folder(images), out, SHAPE, per_shard=10)
    assert (done.images, done.kept) == (60, len(there))
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_command(tmp_path: Path) -> None:
    images, out = write_folder(tmp_path / "images"), tmp_path / "s"
    said = json.loads(ok("pack", images, "--out", out, "--size", "4", "--per-shard", "10", "--json").stdout)
    assert (said["images"], len(said["shards"]), said["shape"], said["kept"]) == (14, 2, [3, 4, 4], 0)
    assert "2 were there already" in ok("pack", images, "--out", out, "--size", "4", "--per-shard", "10").stdout
    table = tmp_path / "labels.csv"
    table.write_text("file,label,split\nant/01.png,x,train\nbee/00.png,,test\n")
    ok("pack", table, "--image-root", images, "--out", tmp_path / "t", "--color", "gray")
    source = ShardSource(tmp_path / "t")
    assert (source.ids.tolist(), source.image_shape) == (["ant/01.png", "bee/00.png"], (1, 6, 5))
    assert (source.texts("label"), source.texts("split")) == (["x", None], ["train", "test"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}", "--out", "{images}/s"], "which holds the images that are read"),
        (["{images}", "--color", "blue"], "--color cannot be 'blue'"),
        (["{images}", "--aspect", "cut"], "--aspect cannot be 'cut'"),
        (["{images}", "--image-root", "{images}"], "--image-root is for a CSV file"),
        (["{images}", "--label-column", "x"], "--label-column is for a CSV file"),
        (["{images}/none", "--out", "{out}"], "does not exist"),
        (["{images}", "--out", "{other}/notes.txt"], "is a file"),
        (["{images}", "--out", "{other}"], "did not write"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    images, other = write_folder(tmp_path / "images", 4), tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    given = [text.format(images=images, out=tmp_path / "s", other=other) for text in arguments]
    assert message in refused("pack", *given)
