"""Precision by measurement: what decides, and what `ssld doctor` says of it."""

import json

import pytest
import torch
from support.commands import ok

from ssl_diffusion import machine


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
    machine.convolution_times.cache_clear()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = machine.convolution_times()
    assert set(found) == {"fp32", "bf16"}
    assert min(found.values()) > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert machine.convolution_times() is found  # once a process


def test_doctor_shows_the_measurement_and_what_follows(measured: dict[str, float]) -> None:
    assert "bf16       a convolution is 5 times as fast as in fp32 (0.08 against 0.4 ms)\n" in ok("doctor").stdout
    measured["bf16"] = 4e-3
    assert "a convolution is 0.1 times as fast as in fp32 (4 against 0.4 ms); fp32 is used" in ok("doctor").stdout
    printed = json.loads(ok("doctor", "--json").stdout)
    assert printed["convolution_ms"] == {"fp32": 0.4, "bf16": 4.0}
    assert printed["bf16"] is False
