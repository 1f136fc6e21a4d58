"""The images of a mapped pool are asked for one step before they are needed, each alone, and the batches are the same."""

import ctypes
import mmap
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import make_job

from ssl_diffusion.machine import read_ahead
from ssl_diffusion.models.build import build_model
from ssl_diffusion.training import batches
from ssl_diffusion.training.batches import BatchSampler, Phase


def sampler(phase: Phase) -> BatchSampler:
    return BatchSampler(phase, build_model(phase.config, 0).noise)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Addresses that the kernel is asked for."""
    addresses: list[int] = []
    monkeypatch.setattr(batches, "read_ahead", lambda address, n_bytes: addresses.append(address))
    return addresses


def test_the_images_of_every_step_are_asked_for_once_and_before(asked: list[int]) -> None:
    phase = make_job()
    mapped = sampler(replace(phase, data=replace(phase.data, mapped=True)))
    held = sampler(phase)
    images, n_bytes = phase.data.images, phase.data.images[0].nbytes
    wanted = [[*held._denoising.rows(s).tolist(), *held._labeled.rows(s).tolist()] for s in range(5)]  # type: ignore[union-attr]
    for step in range(5):
        batch, other = mapped(step), held(step)
        mapped._asking.result()
        assert torch.equal(batch.denoising.clean, other.denoising.clean)  # type: ignore[union-attr]
        assert torch.equal(batch.labeled.images, other.labeled.images)  # type: ignore[union-attr]
        so_far = [row for rows in wanted[: step + 2] for row in rows]
        assert [(address - images.data_ptr()) // n_bytes for address in asked] == so_far
    assert len(asked) == 5 * 8


def test_a_resumed_phase_asks_for_its_first_step_too(asked: list[int]) -> None:
    phase = make_job()
    resumed = sampler(replace(phase, data=replace(phase.data, mapped=True)))
    resumed(3)
    resumed._asking.result()
    assert len(asked) == 2 * 8


def test_a_pool_in_memory_asks_for_nothing(asked: list[int]) -> None:
    sampler(make_job())(0)
    assert not asked


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED") or not hasattr(os, "posix_fadvise"), reason="Linux only")
def test_the_kernel_reads_what_it_is_asked_for_and_nothing_else(tmp_path: Path) -> None:
    pages, path = 4096, tmp_path / "images"
    path.write_bytes(os.urandom(pages * mmap.PAGESIZE))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        images = np.memmap(file, dtype=np.uint8, mode="r+")
    residency = (ctypes.c_ubyte * pages)()

    def resident() -> list[int]:
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(images.ctypes.data), ctypes.c_size_t(len(images)), residency) == 0
        return [i for i in range(pages) if residency[i] & 1]

    if resident():
        pytest.skip("this file system keeps its files in memory")
    rows = [7, 2000, 3111]  # a stretch that reaches over the end of a page has two
    for row in rows:
        assert read_ahead(images.ctypes.data + row * mmap.PAGESIZE + 3000, 3072)
    wanted, deadline = [page for row in rows for page in (row, row + 1)], time.monotonic() + 30
    while resident() != wanted:
        assert time.monotonic() < deadline, resident()
        time.sleep(0.01)
