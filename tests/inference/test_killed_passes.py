"""`ssld embed` and `predict` on shards, killed in the middle: the next call makes what is missing, bit for bit, and no more."""

import signal
import sys
from pathlib import Path

import psutil
import pytest
from support import processes
from support.commands import CPU, pack_digits

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.inference.shard_parts import INDEX

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
BATCH = ["--batch-size", "3"]


def finished(arguments: list[str], log: Path) -> None:
    process = processes.start(arguments, log)
    process.join()
    assert process.exitcode == 0, log.read_text()


def contents(out: Path) -> dict[str, bytes]:
    """The parts of a folder, to the last byte."""
    return {path.name: path.read_bytes() for path in out.glob("shard-*.parquet")}


def versions(out: Path) -> dict[str, tuple[int, int]]:
    """What changes when a part is written again, even with the same content."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("shard-*.parquet")}


@pytest.mark.parametrize("command", ["embed", "predict"])
def test_a_command_killed_within_a_shard_goes_on_with_that_shard(
    tiny_run: Path, digits_pool: Pool, tmp_path: Path, command: str
) -> None:
    shards, out, log = pack_digits(tmp_path, digits_pool, 50, 10), tmp_path / "out", tmp_path / "log.txt"
    arguments = [command, str(tiny_run), str(shards), *CPU, *BATCH, "--out"]
    for shard in (2, 3):  # twice: what the second one finds was itself gone on with
        process = processes.start_to_be_killed_in_part([*arguments, str(out)], log, shard)
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        assert len(contents(out)) == shard
        assert processes.being_written(out)  # it was within the shard
        assert not (out / INDEX).exists()
    before = versions(out)
    finished([*arguments, str(out)], log)
    assert before.items() < versions(out).items()
    assert f"in 5 parts in {out} (3 were there already)" in log.read_text()
    finished([*arguments, str(tmp_path / "whole")], log)
    assert contents(out) == contents(tmp_path / "whole")
    assert not processes.being_written(out)


@pytest.mark.slow  # Ray starts a dozen processes, twice
def test_a_command_on_ray_that_is_killed_goes_on_behind_its_parts(tiny_run: Path, digits_pool: Pool, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'ssld[ray]'")
    shards, out, log = pack_digits(tmp_path, digits_pool, 600, 2), tmp_path / "out", tmp_path / "log.txt"
    arguments = ["embed", str(tiny_run), str(shards), *CPU, "--out"]
    on_ray = ["--engine", "ray", "--workers", "2"]
    process = processes.start([*arguments, str(out), *on_ray], log)
    processes.wait_for(lambda: len(contents(out)) > 10, process, seconds=180)
    assert process.pid is not None
    of_ray = psutil.Process(process.pid).children(recursive=True)
    of_ray = [each for each in of_ray if not each.name().endswith("Agent")]  # these look for their parent every minute or two
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    _, alive = psutil.wait_procs(of_ray, timeout=60)
    assert not alive  # Ray ends with the command that started it
    before = versions(out)
    assert 10 < len(before) < 300
    assert not (out / INDEX).exists()
    finished([*arguments, str(out), *on_ray], log)
    assert before.items() < versions(out).items()
    assert f"in 300 parts in {out} ({len(before)} were there already)" in log.read_text()
    finished([*arguments, str(tmp_path / "whole")], log)  # by the local engine, never killed
    assert contents(out) == contents(tmp_path / "whole")
    assert {path.name for path in out.iterdir()} == {*contents(out), INDEX}
