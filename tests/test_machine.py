"""Precision by measurement: what decides, and what `ssld doctor` says of it."""

import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from support.commands import ok

from ssl_diffusion import machine
from ssl_diffusion.machine import convolution_times  # before the fixture of all tests takes its place


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The times of a convolution, which a test may choose."""
    times = {"fp32": 4e-4, "bf16": 8e-5}
    monkeypatch.setattr(machine, "convolution_times", lambda: times)
    return times


@pytest.mark.parametrize(
    ("bf16", "precision"),
    [
        (8e-5, "bf16"),  # AMX
        (2.7e-4, "bf16"),  # AVX512-BF16 as wide as fp32
        (3.8e-4, "fp32"),  # AVX512-BF16 that gains nothing
        (4e-3, "fp32"),  # neither
    ],
)
def test_auto_is_what_was_measured_to_be_faster(measured: dict[str, float], bf16: float, precision: str) -> None:
    measured["bf16"] = bf16
    assert machine.resolve_precision("auto", "cpu") == precision
    assert machine.Device.resolve("cpu", "auto").precision == precision


def test_what_is_asked_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "convolution_times", lambda: pytest.fail("measured"))
    assert machine.resolve_precision("bf16", "cpu") == "bf16"
    assert machine.resolve_precision("fp32", "cpu") == "fp32"


def test_the_measurement_leaves_threads_and_random_state_alone() -> None:
    convolution_times.cache_clear()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = convolution_times()
    assert set(found) == {"fp32", "bf16"}
    assert min(found.values()) > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert convolution_times() is found  # once a process


def test_waiting_for_a_core_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = torch.nn.functional.conv2d

    def interrupted(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        time.sleep(0.3 if x.dtype == torch.float32 else 0.0)
        return convolve(x, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", interrupted)
    assert convolution_times.__wrapped__()["fp32"] < 0.3


@pytest.mark.parametrize(("set_before", "bound"), [("1", None), ("2", "true"), (None, "true")])
def test_fewer_threads_than_cores_are_not_bound(
    set_before: str | None, bound: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes of one thread would all be bound to the first core."""
    for name in ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES"):
        monkeypatch.setenv(name, "")  # so that what is set by the function is taken back after the test
        monkeypatch.delenv(name)
    if set_before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", set_before)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    machine.bind_threads()
    assert os.environ.get("OMP_PROC_BIND") == bound


_FAULTS = """
import resource, sys
import torch
from ssl_diffusion.machine import keep_freed_memory

def batch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    maps = [torch.ones(5_000_000) for _ in range(5)]  # 100 MB in parts of 20 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
done = keep_freed_memory()
for _ in range(6):  # it takes a few until the heap is large enough
    batch()
print(int(done), batch())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other thresholds")
def test_memory_that_a_batch_has_freed_serves_the_next() -> None:
    def faults(**environment: str) -> tuple[int, int]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        command = [sys.executable, "-c", _FAULTS]
        done, n = subprocess.run(command, env=clean | environment, check=True, capture_output=True, text=True).stdout.split()
        return int(done), int(n)

    done, kept = faults()
    assert done
    done, given_back = faults(MALLOC_TRIM_THRESHOLD_=str(2**26))  # as somebody asked for; 100 MB are 24,414 pages of 4 KiB
    assert not done
    assert kept < given_back / 5


def test_doctor_shows_the_measurement_and_what_follows(measured: dict[str, float]) -> None:
    assert "bf16       a convolution is 5 times as fast as in fp32 (0.08 against 0.4 ms)\n" in ok("doctor").stdout
    measured["bf16"] = 4e-3
    assert "a convolution is 0.1 times as fast as in fp32 (4 against 0.4 ms); fp32 is used" in ok("doctor").stdout
    printed = json.loads(ok("doctor", "--json").stdout)
    assert printed["convolution_ms"] == {"fp32": 0.4, "bf16": 4.0}
    assert printed["bf16"] is False
