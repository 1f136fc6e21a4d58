"""A funnel over stored features chooses what a query of the pool does, reads few images, and knows what it may not choose."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.commands import ok, refused

from ssl_diffusion.acquisition import query
from ssl_diffusion.acquisition.funnel import query_features
from ssl_diffusion.data.listings import Listing, Sample
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.pack import pack
from ssl_diffusion.data.shards.source import ShardSource
from ssl_diffusion.errors import DataError, RunError, SSLDError
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.inference.shard_passes import pass_over_shards, shards_for
from ssl_diffusion.training.run_folder import RunFolder
from ssl_diffusion.training.shard_record import record_shards

N = 300


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run, "cpu", "fp32")


@pytest.fixture(scope="module")
def part_of_pool(run: Run, digits_pool: Pool) -> Pool:
    """The samples of the run's labels, others, and some of the test split."""
    labeled = digits_pool.positions(RunFolder(run.path).used_ids())
    rows = np.concatenate([labeled, np.setdiff1d(digits_pool.train, labeled)[: N - 60 - len(labeled)], digits_pool.test[:60]])
    return digits_pool.select(rows)


@pytest.fixture(scope="module")
def folder(run: Run, part_of_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards` and `features` of that pool; not to be changed."""
    folder = tmp_path_factory.mktemp("funnel")
    (folder / "images").mkdir()
    paths = [folder / "images" / f"{i}.png" for i in range(N)]
    for path, image in zip(paths, part_of_pool.images, strict=True):
        Image.fromarray(image[0]).save(path)
    samples = [Sample(None, bool(test)) for test in part_of_pool.is_test]
    pack(Listing(part_of_pool.ids.tolist(), paths, samples), folder / "shards", (1, 8, 8), per_shard=80)
    features(run, folder / "shards", folder / "features")
    return folder


def features(run: Run, shards: Path, out: Path) -> Path:
    pass_over_shards(run, shards_for(run, [str(shards)]), [str(shards)], out, "embed", batch_size=64)
    return out


@pytest.mark.parametrize("strategy", ["margin", "badge", "typiclust", "counterfactual", "auto"])
def test_without_narrowing_the_batch_is_that_of_the_pool(run: Run, folder: Path, part_of_pool: Pool, strategy: str) -> None:
    found = query_features(run, folder / "features", 6, strategy, random_state=3)
    wanted = query(run, part_of_pool, 6, strategy, random_state=3, keep_scores=False)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.predictions[0][0] == wanted.predictions[0][0]
    assert found.reason == wanted.reason


def test_a_narrow_funnel_keeps_the_best_of_all_shards(run: Run, folder: Path, part_of_pool: Pool) -> None:
    wanted = query(run, part_of_pool, 8, "margin", keep_scores=False)
    narrow = query_features(run, folder / "features", 8, "margin", candidates=1)
    assert set(narrow.ids) == set(wanted.ids)
    assert "among 40 of 200 samples, the smallest margins" in narrow.reason


def test_the_sample_does_not_depend_on_the_shards(run: Run, folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "shards")
    at = np.random.default_rng(0).permutation(len(table))
    (tmp_path / "one").mkdir()
    facts = pq.read_metadata(folder / "shards" / "shard-00000.parquet").metadata
    other = json.loads(facts[b"ssld"]) | {"digest": "other"}
    pq.write_table(table.take(at).replace_schema_metadata({"ssld": json.dumps(other)}), tmp_path / "one" / "a.parquet")
    out = features(run, tmp_path / "one", tmp_path / "f")
    one, many = (
        query_features(run, place, 5, "typiclust", candidates=60, random_state=1) for place in (out, folder / "features")
    )
    assert one.ids.tolist() == many.ids.tolist()
    other_seed = query_features(run, out, 5, "random", candidates=60, random_state=2)
    assert set(other_seed.ids) != set(query_features(run, out, 5, "random", candidates=60, random_state=3).ids)


def test_labels_and_the_test_split_are_not_chosen(run: Run, folder: Path, part_of_pool: Pool) -> None:
    everything = query_features(run, folder / "features", 10_000, "random")
    used = set(RunFolder(run.path).used_ids())
    assert set(everything.ids) == set(part_of_pool.ids[part_of_pool.train]) - used
    since = everything.ids[:-3].tolist()
    assert set(query_features(run, folder / "features", 3, "margin", labeled=since).ids) == set(everything.ids[-3:])
    with pytest.raises(DataError, match="nothing is left to choose"):
        query_features(run, folder / "features", 3, "margin", labeled=everything.ids.tolist())


def test_what_the_run_held_out_of_labels_in_shards_is_not_chosen(
    run: Run, folder: Path, part_of_pool: Pool, tmp_path: Path
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run.path, copied)
    candidates = query_features(run, folder / "features", 10_000, "random").ids
    held_out = np.isin(part_of_pool.ids, candidates[:7])
    record_shards(copied, replace(part_of_pool, is_test=held_out, shards=ShardSource(folder / "shards").marks), 0.1)
    found = query_features(load_run(copied, "cpu", "fp32"), folder / "features", 10_000, "random").ids
    assert set(found) == set(candidates[7:])


def test_a_shard_that_changed_since_it_was_embedded_is_named(run: Run, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "shards", tmp_path / "shards")
    out = features(run, tmp_path / "shards", tmp_path / "f")
    shutil.copy(folder / "shards" / "shard-00000.parquet", tmp_path / "shards" / "shard-00002.parquet")
    with pytest.raises(DataError, match=r"shard-00002.parquet has changed since ssld embed read it"):
        query_features(run, out, 4, "linear")


def test_only_the_images_of_the_shortlist_are_read(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = ShardSource.at

    def at(self: ShardSource, positions: np.ndarray) -> np.ndarray:
        read.append(len(positions))
        return plain(self, positions)

    monkeypatch.setattr(ShardSource, "at", at)
    query_features(run, folder / "features", 4, "margin")
    assert not read
    query_features(run, folder / "features", 4, "linear")
    assert sum(read) == 20


def test_what_cannot_be_chosen_from_is_said(run: Run, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no representations: run ssld embed"):
        query_features(run, tmp_path)
    copied = tmp_path / "f"
    shutil.copytree(folder / "features", copied)
    part = next(copied.glob("*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 255
    part.write_bytes(content)
    with pytest.raises(RunError, match=r"shard-.* cannot be read .*run ssld embed again"):
        query_features(run, copied, 3, "badge")
    (copied / "index.json").write_text("{}")
    with pytest.raises(RunError, match=r"index.json is damaged"):
        query_features(run, copied)
    (copied / "index.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        query_features(run, copied)
    other = load_run(run.path, "cpu", "fp32")
    other.precision = "bf16"
    with pytest.raises(RunError, match="by another model"):
        query_features(other, folder / "features")
    with pytest.raises(DataError, match="one sample or more"):
        query_features(run, folder / "features", 0)
    with pytest.raises(SSLDError, match="no strategy 'margn'"):
        query_features(run, folder / "features", 1, "margn")


def test_the_command(folder: Path, tiny_run: Path, tmp_path: Path, part_of_pool: Pool) -> None:
    pool = ("--pool", folder / "features")
    ok("query", tiny_run, *pool, "--n", "3", "--out", tmp_path / "to-label", "--format", "folder", "--candidates", "50")
    file = next((tmp_path / "to-label").glob("*.png"))
    image = np.asarray(Image.open(file))
    assert (part_of_pool.images[:, 0] == image).all(axis=(1, 2)).any()
    said = json.loads(ok("query", tiny_run, *pool, "--n", "3", "--out", tmp_path / "b.csv", "--json").stdout)
    assert len(said["ids"]) == 3
    for more, message in (
        (("--picture",), "--picture is for the images of the run"),
        (("--dedupe",), "--dedupe is for the images of the run"),
        (("--strategy", "margn"), "no strategy"),
    ):
        assert message in refused("query", tiny_run, *pool, *more, "--out", tmp_path / "c.csv")
    assert "--candidates has no effect" in refused("query", tiny_run, "--candidates", "5", "--out", tmp_path / "c.csv")
