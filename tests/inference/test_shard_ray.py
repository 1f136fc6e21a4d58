"""Shards read on Ray: the same parts as here, also when an actor dies."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.commands import pack_digits, refused

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import SSLDError
from ssl_diffusion.inference.engines.ray import _ATTEMPTS, _attempts, _Reader
from ssl_diffusion.inference.engines.ray_start import RayStart
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.inference.shard_passes import Pass, pass_over_shards, shards_for
from ssl_diffusion.progress import ProgressUpdate


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, digits_pool: Pool) -> Path:
    """Forty digits in eight shards; not to be changed."""
    return pack_digits(tmp_path_factory.mktemp("digits"), digits_pool, 40, per_shard=5)


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Run:
    return load_run(tiny_run, "cpu", "fp32")


def passed(run: Run, shards: Path, out: Path, **options: object) -> Pass:
    return pass_over_shards(run, shards_for(run, [str(shards)]), [str(shards)], out, "embed", **options)


def test_an_actor_writes_the_parts_that_a_pass_writes(run: Run, shards: Path, tmp_path: Path) -> None:
    copies = tmp_path / "s"
    shutil.copytree(shards, copies)
    here = passed(run, copies, tmp_path / "here")
    source = shards_for(run, [str(copies)])
    actor = _Reader(str(run.path), "cpu", "fp32", source, str(tmp_path / "there"), "embed", f"{run.digest()} fp32", 256)
    (copies / "shard-00002.parquet").unlink()
    said = actor({"shard": np.array([0, 2])})
    assert said["error"][0] == ""
    assert "shard-00002.parquet does not exist" in said["error"][1]
    (part,) = (tmp_path / "there").glob("*.parquet")
    assert pq.read_table(part).equals(pq.read_table(here.parts[0]))
    assert pq.read_metadata(part).metadata[b"ssld"] == pq.read_metadata(here.parts[0]).metadata[b"ssld"]


def test_without_ray_it_says_what_to_install(
    run: Run, shards: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SSLDError, match=r"--engine ray needs Ray Data: pip install 'ssld\[ray\]'"):
        passed(run, shards, tmp_path / "f", engine="ray")
    for options, message in (
        (("--engine", "rya"), "--engine cannot be 'rya'; did you mean ray"),
        (("--workers", "2"), "--workers has no effect without --engine ray"),
        (("--address", "auto"), "--address has no effect without --engine ray"),
    ):
        assert message in refused("embed", tiny_run, shards, "--out", tmp_path / "f", *options)
    assert "--engine is for Parquet or tar shards" in refused("embed", tiny_run, "--engine", "ray", "--out", tmp_path / "f.npz")


def test_a_shard_that_ends_its_actors_is_named_after_some_attempts(run: Run, shards: Path, tmp_path: Path) -> None:
    source = shards_for(run, [str(shards)])
    actor = _Reader(str(run.path), "cpu", "fp32", source, str(tmp_path), "embed", f"{run.digest()} fp32", 256)
    assert actor({"shard": np.array([0])})["error"] == [""]
    (part,) = tmp_path.iterdir()  # what counts attempts is gone
    part.unlink()
    _attempts(part).write_bytes(b"." * (_ATTEMPTS - 1))  # as of actors that were killed while they read it
    assert actor({"shard": np.array([0])})["error"] == [""]
    part.unlink()
    _attempts(part).write_bytes(b"." * _ATTEMPTS)
    (error,) = actor({"shard": np.array([0])})["error"]
    assert "shard-00000.parquet has ended 4 actors that read it" in error
    assert not part.exists()


def test_what_stops_ray_from_starting_is_raised_where_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    start = RayStart(None, 2)
    with pytest.raises(SSLDError, match=r"pip install 'ssld\[ray\]'"):
        start.wait()
    start.stop()
    start.stop()  # is no error


@pytest.mark.slow  # Ray starts a dozen processes
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to cores here")
def test_actors_are_not_bound_to_the_core_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs ray: pip install 'ssld[ray]'")
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    start = RayStart(None, 1)
    try:
        start.wait()
        found = ray.get(ray.remote(lambda: (os.environ["OMP_PROC_BIND"], os.sched_getaffinity(0))).remote())
        assert found == ("false", os.sched_getaffinity(0))
    finally:
        start.stop()
    assert not ray.is_initialized()


@pytest.mark.slow  # Ray starts a dozen processes
def test_ray_writes_the_same_when_an_actor_is_killed(run: Run, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'ssld[ray]'")
    import psutil

    killed: list[int] = []

    def kill_one(update: ProgressUpdate) -> None:
        actors = [p for p in psutil.Process().children(recursive=True) if "MapWorker" in p.name() or "_Reader" in p.name()]
        if actors and not killed:
            killed.append(actors[0].pid)
            actors[0].kill()

    here = passed(run, shards, tmp_path / "here")
    there = passed(run, shards, tmp_path / "there", engine="ray", workers=2, progress=kill_one)
    assert killed
    assert [part.name for part in there.parts] == [part.name for part in here.parts]
    for one, other in zip(here.parts, there.parts, strict=True):
        assert other.read_bytes() == one.read_bytes()  # ids and features, to the last bit
    assert passed(run, shards, tmp_path / "there").kept == 8
