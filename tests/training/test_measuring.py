"""Times of steps: on the wall, on the processor, and what a busy machine makes of them."""

import numpy as np
import pytest

from ssl_diffusion.data.label_choice import choose_labeled
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.progress import ProgressUpdate
from ssl_diffusion.training import fit_model
from ssl_diffusion.training.clocks import Clocks, StepClock, StepTimes, slowdown
from ssl_diffusion.training.measuring import time_steps
from ssl_diffusion.training.phases import training_job
from ssl_diffusion.training.recipe import Recipe


def times(wall: list[float], alone: list[float]) -> StepTimes:
    return StepTimes(np.array(wall), np.array(alone))


def test_a_disturbed_step_is_left_out() -> None:
    disturbed = times([0.1, 0.1, 0.1, 0.1, 0.1, 10.0, 0.1, 0.1], [0.1] * 8)
    assert disturbed.seconds() == pytest.approx(0.1)
    assert slowdown(disturbed) == pytest.approx(1.0)


def test_what_other_programs_take_is_no_part_of_a_step() -> None:
    busy = times([0.3, 0.28, 0.32, 0.3] * 2, [0.1] * 8)
    assert busy.seconds() == pytest.approx(0.1)
    assert slowdown(busy) == pytest.approx(3.0, rel=0.05)
    assert slowdown(busy, times([0.2] * 24, [0.1] * 24)) == pytest.approx(2.0)  # shared by all that was measured


def test_the_clocks_of_a_fit_on_one_thread(digits_pool: Pool, tiny_recipe: Recipe) -> None:
    measured = time_steps(training_job(tiny_recipe, digits_pool, choose_labeled(digits_pool, 20, seed=0)))
    assert len(measured.wall) == len(measured.alone) == 8
    assert (measured.alone > 0).all()
    assert (measured.alone <= measured.wall).all()


def test_a_clock_reads_differences() -> None:
    clock = StepClock([Clocks(10.0, 1.0, 3.0), Clocks(12.0, 1.5, 3.5), Clocks(15.0, 4.6, 6.6)])
    clock(ProgressUpdate("training", 1, 2))
    assert len(clock.readings) == 4
    first, second = clock.times().wall[:2], clock.times().alone[:2]
    assert first == pytest.approx([2.0, 3.0])
    assert second == pytest.approx([0.5, 3.0])  # never more than the clock on the wall says


def test_the_history_says_what_a_quiet_machine_would_have_taken(digits_pool: Pool, tiny_recipe: Recipe) -> None:
    fitted = fit_model(tiny_recipe, digits_pool, choose_labeled(digits_pool, 20, seed=0))
    for name in ("pretraining", "training"):
        rows = [row for row in fitted.history if row["phase"] == name]
        alone = [row["seconds_alone"] for row in rows]
        assert 0 < alone[0] < alone[-1]
        assert alone == sorted(alone)
        assert all(quiet <= row["seconds"] + 0.002 for quiet, row in zip(alone, rows, strict=True))  # rounded
