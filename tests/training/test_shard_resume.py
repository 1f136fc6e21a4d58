"""A fit from shards that is killed in the middle of a pass over them ends bit-identical to one that never was."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from support import processes
from support.commands import write_digits
from support.jobs import TINY_RUN, same
from torch import Tensor

from ssl_diffusion.data.listings import list_folder
from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.data.shards.pack import pack
from ssl_diffusion.models.weights import load_tensors

IMAGES, BATCH = 53, 16  # so that no pass of the run ends with a step: a kill is always within one
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")


@pytest.fixture
def shards(tmp_path: Path, digits_pool: Pool) -> Path:
    """Digits in shards of ten."""
    folder = write_digits(tmp_path / "images", digits_pool, range(IMAGES))
    pack(list_folder(folder), tmp_path / "shards", (1, 8, 8), per_shard=10)
    return tmp_path / "shards"


def weights(run: Path) -> dict[str, Tensor]:
    return load_tensors(run / "model.safetensors")[0]


def test_a_fit_from_shards_killed_within_a_pass_ends_bit_identical(tmp_path: Path, shards: Path) -> None:
    run, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log.txt"
    options = TINY_RUN[TINY_RUN.index("--labeled") :]
    fit = ["fit", "--data", f"{shards}/*.parquet", *options, "--no-cache", "--checkpoint-every", "0"]
    resume = ["fit", "--resume", str(run), "--quiet", "--no-cache", "--checkpoint-every", "0", "--max-memory", "0"]

    def steps(name: str) -> int:
        path = run / "last" / name
        return int(load_tensors(path)[1]["steps"]) if path.exists() else 0

    stopped = []
    for name in ("pretraining.safetensors", "checkpoint.safetensors"):
        command = resume if run.exists() else [*fit, "--max-memory", "0", "--out", str(run)]
        process = processes.start(command, log)
        processes.wait_for(lambda name=name: steps(name) >= 5, process)  # type: ignore[misc]
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        stopped.append(steps(name))
    assert [0 < step < last for step, last in zip(stopped, (10, 16), strict=True)] == [True, True]
    assert all(step * BATCH > IMAGES and step * BATCH % IMAGES for step in stopped)  # within the second pass or a later one
    for command in (resume, [*fit, "--out", str(whole)]):  # the one that is never killed holds its images in memory
        process = processes.start(command, log)
        process.join()
        assert process.exitcode == 0, log.read_text()
    assert same(weights(run), weights(whole))


def test_a_mapped_pool_is_no_array_in_memory(shards: Path) -> None:
    data = DataSettings(path=f"{shards}/*.parquet")
    mapped, held = load_pool(data, max_memory=0), load_pool(data)
    assert isinstance(mapped.images, np.memmap)
    assert not isinstance(held.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, held.images)
