"""A fit from shards that is killed in the middle of a pass over them ends bit-identical to one that never was."""

import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
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
from ssl_diffusion.data.shards.rows import ShardImages
from ssl_diffusion.models.weights import load_tensors

IMAGES, BATCH, BUFFER = 53, 16, 20  # so that no step of the run ends with a pass: a kill is always within one
OPTIONS = TINY_RUN[TINY_RUN.index("--labeled") :]
not_windows = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")


@pytest.fixture
def shards(tmp_path: Path, digits_pool: Pool) -> Path:
    """Digits in shards of ten."""
    folder = write_digits(tmp_path / "images", digits_pool, range(IMAGES))
    pack(list_folder(folder), tmp_path / "shards", (1, 8, 8), per_shard=10)
    return tmp_path / "shards"


def weights(run: Path) -> dict[str, Tensor]:
    return load_tensors(run / "model.safetensors")[0]


@not_windows
@pytest.mark.parametrize("way", ["mapped", "streamed"])
def test_a_fit_from_shards_killed_within_a_pass_ends_bit_identical(tmp_path: Path, shards: Path, way: str) -> None:
    run, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log.txt"
    stream = ["--stream", str(BUFFER)] if way == "streamed" else []
    mapped = ["--max-memory", "0"] if way == "mapped" else []
    fit = ["fit", "--data", f"{shards}/*.parquet", *OPTIONS, *stream, "--no-cache", "--checkpoint-every", "0"]
    resume = ["fit", "--resume", str(run), "--quiet", "--no-cache", "--checkpoint-every", "0", *mapped]
    for phase, step in (("pretraining", 7), ("training", 6)):
        assert step * BATCH > IMAGES
        assert step * BATCH % IMAGES  # within the second pass
        process = processes.start_to_be_killed(resume if run.exists() else [*fit, *mapped, "--out", str(run)], log, phase, step)
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
    for command in (resume, [*fit, "--out", str(whole)]):  # of mapped images the one that is never killed holds them in memory
        process = processes.start(command, log)
        process.join()
        assert process.exitcode == 0, log.read_text()
    assert same(weights(run), weights(whole))


@not_windows
def test_processes_that_decode_do_not_outlive_a_fit_that_is_killed(tmp_path: Path, shards: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    command = ["fit", "--data", str(shards), *OPTIONS, "--stream", "20", "--no-cache", "--checkpoint-every", "0"]
    command += ["--out", str(tmp_path / "run")]
    process = processes.start_to_be_killed(command, tmp_path / "log.txt", "pretraining", 3)
    process.join()
    assert process.exitcode == -signal.SIGKILL

    def left() -> list[psutil.Process]:
        found = []
        for other in psutil.process_iter():
            try:
                if other.pid not in before and any("spawn_main" in word for word in other.cmdline()):
                    found.append(other)
            except psutil.Error:
                continue
        return [other for other in found if str(tmp_path) in open_files(other) or other.ppid() in (1, process.pid)]

    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left()


def open_files(process: psutil.Process) -> str:
    try:
        return " ".join(file.path for file in process.open_files())
    except psutil.Error:
        return ""


def test_a_mapped_pool_is_no_array_in_memory(shards: Path) -> None:
    data = DataSettings(path=f"{shards}/*.parquet")
    mapped, held = load_pool(data, max_memory=0), load_pool(data)
    assert isinstance(mapped.images, np.memmap)
    assert not isinstance(held.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, held.images)
    assert mapped.sigma_data() == held.sigma_data()


def test_images_that_are_streamed_stay_in_their_shards(shards: Path) -> None:
    streamed = load_pool(DataSettings(path=str(shards), stream=BUFFER))
    held = load_pool(DataSettings(path=str(shards)))
    assert isinstance(streamed.images, ShardImages)
    np.testing.assert_array_equal(streamed.images[[40, 3]], held.images[[40, 3]])
    assert streamed.sigma_data() == pytest.approx(held.sigma_data(), rel=1e-6)  # of so few images both see all
    assert streamed.fingerprint() == held.fingerprint()
