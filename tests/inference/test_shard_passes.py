"""A pass over shards gives what a pass over the images gives, shard by shard, and goes on where it was stopped."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import ok, pack_digits, refused

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.inference.embedding import embed
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.inference.shard_parts import INDEX
from ssl_diffusion.inference.shard_passes import Pass, pass_over_shards, read_index, shards_for

N = 50


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Path:
    """Fifty digits in three shards; not to be changed."""
    return pack_digits(tmp_path_factory.mktemp("digits"), digits_pool, N, per_shard=20)


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run, "cpu", "fp32")


def passed(run: Run, shards: Path, out: Path, kind: str = "embed", **options: object) -> Pass:
    source = shards_for(run, [str(shards)], skip_bad=bool(options.pop("skip_bad", False)))
    return pass_over_shards(run, source, [str(shards)], out, kind, **options)


def vectors(path: Path, name: str) -> np.ndarray:
    return np.array(pq.read_table(path)[name].to_pylist(), dtype=np.float32)


def test_representations_and_probabilities_are_those_of_the_pool(
    run: Run, shards: Path, digits_pool: Pool, tmp_path: Path
) -> None:
    done = passed(run, shards, tmp_path / "f", batch_size=7)
    assert (done.images, len(done.parts), done.kept) == (N, 3, 0)
    ids = [sample for path in done.parts for sample in pq.read_table(path)["id"].to_pylist()]
    order = [int(sample.partition("/")[2][:4]) for sample in ids]
    assert sorted(order) == list(range(N))
    wanted = embed(run.model, digits_pool.images[order])
    for name, values in (("embedding", wanted.representation), ("probabilities", wanted.probabilities)):
        found = np.concatenate([vectors(path, name) for path in done.parts])
        np.testing.assert_allclose(found, values, atol=1e-5)
    index = read_index(tmp_path / "f", "embed")
    assert (index.images, index.classes, index.parts) == (N, run.classes, tuple(path.name for path in done.parts))


def test_predictions_are_those_of_the_run(run: Run, shards: Path, digits_pool: Pool, tmp_path: Path) -> None:
    done = passed(run, shards, tmp_path / "p", "predict")
    rows = [row for path in done.parts for row in pq.read_table(path).to_pylist()]
    order = [int(row["id"].partition("/")[2][:4]) for row in rows]
    p = run.predict_proba(digits_pool.images[order])
    assert [row["label"] for row in rows] == [run.classes[k] for k in p.argmax(axis=1)]
    np.testing.assert_allclose([[row[f"p({name})"] for name in run.classes] for row in rows], p, atol=1e-5)


def test_a_pass_goes_on_behind_the_parts_that_are_there(run: Run, shards: Path, tmp_path: Path) -> None:
    copies, out = tmp_path / "s", tmp_path / "f"
    shutil.copytree(shards, copies)
    last = copies / "shard-00002.parquet"
    content = bytearray(last.read_bytes())
    at = pq.ParquetFile(last).metadata.row_group(0).column(1).data_page_offset + 100
    last.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    with pytest.raises(DataError, match=r"shard-00002.parquet, rows 0 to 9: .*--skip-bad"):
        passed(run, copies, out)
    assert len(list(out.glob("*.parquet"))) == 2
    with pytest.raises(RunError, match="is not finished: run ssld embed"):
        read_index(out, "embed")
    done = passed(run, copies, out, skip_bad=True)
    assert (done.images, done.kept) == (40, 2)
    assert done.skipped[0][0].endswith("shard-00002.parquet, rows 0 to 9")
    with pytest.raises(DataError, match="rows 0 to 9"):  # what was skipped is no part for those who skip nothing
        passed(run, copies, out)
    last.write_bytes(content)
    assert passed(run, copies, out).kept == 2
    shutil.move(copies, tmp_path / "moved")  # parts are known by the content of their shards
    assert passed(run, tmp_path / "moved", out).kept == 3
    (tmp_path / "moved" / "shard-00000.parquet").unlink()
    assert passed(run, tmp_path / "moved", out).images == 30
    assert len(list(out.glob("*.parquet"))) == 2


def test_parts_of_another_model_are_made_again(run: Run, shards: Path, tmp_path: Path, tiny_run: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    passed(run, shards, tmp_path / "f")
    changed = load_run(other, "cpu", "fp32")
    changed.precision = "bf16"
    assert passed(changed, shards, tmp_path / "f").kept == 0


def test_parts_of_a_shard_whose_split_changed_are_made_again(run: Run, shards: Path, tmp_path: Path) -> None:
    copies = tmp_path / "s"
    shutil.copytree(shards, copies)
    assert passed(run, copies, tmp_path / "f").kept == 0
    path = copies / "shard-00001.parquet"
    table, digest = pq.read_table(path), ShardSource(copies).fingerprint
    split = table.schema.get_field_index("split")
    facts = {b"ssld": pq.read_metadata(path).metadata[b"ssld"]}
    others = table.set_column(split, "split", pa.array(["test"] * len(table)))
    pq.write_table(others.replace_schema_metadata(facts), path)
    assert ShardSource(copies).fingerprint == digest  # the images are the same
    done = passed(run, copies, tmp_path / "f")
    assert done.kept == 2
    assert set(pq.read_table(done.parts[1])["split"].to_pylist()) == {"test"}


def test_the_commands(shards: Path, tiny_run: Path, tmp_path: Path) -> None:
    said = json.loads(ok("embed", tiny_run, f"{shards}/*.parquet", "--out", tmp_path / "f", "--json").stdout)
    assert (said["n"], len(said["parts"]), said["kept"]) == (N, 3, 0)
    assert "(3 were there already)" in ok("embed", tiny_run, shards, "--out", tmp_path / "f").stdout
    assert f"{N} predictions in 3 parts" in ok("predict", tiny_run, shards, "--out", tmp_path / "p").stdout
    (tmp_path / "images").mkdir()
    for arguments, message in (
        (("embed", tiny_run, shards, "--out", tmp_path / "p"), "which ssld embed did not write"),
        (("embed", tiny_run, shards, "--out", shards), "which holds the images that are read"),
        (("predict", tiny_run, shards, tmp_path / "images"), "read one kind at a time"),
        (("embed", tiny_run, "--id-column", "x"), "--id-column is for Parquet or tar shards"),
        (("embed", tiny_run, f"{tmp_path}/*.parquet"), "no shard matches"),
        (("predict", tiny_run, shards, "--out", tmp_path / "f" / INDEX), "is a file, and of shards a folder is written"),
        (("predict", tiny_run, shards, "--out", tmp_path / "q", "--id-column", "nr"), "has no column 'nr'"),
    ):
        assert message in refused(*arguments)
