"""A phase is planned again while it runs: by a clock that the test moves, so that nothing here depends on the machine."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.jobs import make_job, same

from ssl_diffusion.errors import Interrupted
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.loop import train
from ssl_diffusion.training.pace import Pace
from ssl_diffusion.training.schedule import Schedule
from ssl_diffusion.training.settings import PhaseSettings, TrainingSettings


class Clock:
    """Seconds that pass only when a step is taken: `slow` times as many from step `at` on."""

    def __init__(self, at: int, slow: float) -> None:
        self.at, self.slow, self.now, self.steps = at, slow, 0.0, 0

    def step(self) -> None:
        self.steps += 1
        self.now += 1.0 if self.steps <= self.at else self.slow

    def __call__(self) -> float:
        return self.now


def paced(clock: Clock, steps: int, *, later: float = 0.0, reserve: float = 0.0) -> tuple[Pace, list[dict[str, Any]]]:
    """The pace of so many steps of a second, planned to fill the time together with what comes later."""
    noted: list[dict[str, Any]] = []
    return Pace("training", steps + later + reserve, 1.0, later, reserve, noted.append, clock), noted


def taken(pace: Pace, clock: Clock, steps: int, **settings: float) -> Schedule:
    """The schedule at the end of a phase that takes its steps."""
    schedule = Schedule(PhaseSettings.from_dict({"steps": steps, "warmup": 0.0, **settings}))
    step = 0
    while step < schedule.steps:
        step += 1
        clock.step()
        if again := pace(step, schedule):
            schedule = schedule.again(step, again)
    return schedule


def test_a_machine_as_fast_as_planned_keeps_its_plan() -> None:
    clock = Clock(0, 1.01)
    pace, noted = paced(clock, 400)
    assert taken(pace, clock, 400).replanned == ()
    assert noted == []


@pytest.mark.parametrize("slow", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("at", [0, 150, 250])
def test_a_fit_ends_on_time(slow: float, at: int) -> None:
    """Wherever the machine becomes faster or slower before the last marks."""
    clock = Clock(at, slow)
    pace, noted = paced(clock, 400)
    schedule = taken(pace, clock, 400)
    assert len(schedule.replanned) == 2 * len(noted) > 0
    assert clock.now == pytest.approx(400, rel=0.15)
    assert clock.steps == schedule.steps
    assert (schedule.steps > 400) == (slow < 1)
    without = at + (400 - at) * slow
    assert abs(clock.now - 400) < abs(without - 400) / 2


def test_time_is_shared_with_what_comes_later() -> None:
    clock = Clock(0, 2.0)
    pace, _ = paced(clock, 400, later=400.0, reserve=40.0)
    schedule = taken(pace, clock, 400)
    assert clock.now + 2 * 40 < 840
    assert schedule.steps == pytest.approx(190, abs=15)  # half of the 760 s that the reserve leaves, 2 s a step


def test_a_phase_that_is_too_late_ends_soon_but_not_at_once() -> None:
    """The moving average of the weights must forget those of high learning rates."""
    clock = Clock(0, 100.0)
    pace, noted = paced(clock, 400)
    schedule = taken(pace, clock, 400, ema=0.05)
    assert noted == [{"during": "training", "at": 3, "pace": 100.0, "steps": 23}]
    assert schedule.steps == clock.steps == 23


def test_it_does_not_plan_in_the_warm_up_or_after_the_last_mark() -> None:
    clock = Clock(0, 3.0)
    pace, noted = paced(clock, 400)
    taken(pace, clock, 400, warmup=0.6)
    assert noted[0]["at"] == pytest.approx(240, abs=1)
    clock = Clock(370, 3.0)
    pace, noted = paced(clock, 400)
    assert taken(pace, clock, 400).steps == 400


# ---- in the training loop


@pytest.fixture
def job() -> Phase:
    settings = TrainingSettings(steps=24, batch_size=4, labeled_batch_size=4, warmup=0.1)
    return make_job(settings)


def pacing(clock: Clock, steps: int) -> Callable[[int, Schedule], int]:
    """A pace whose clock is moved by the loop's own calls."""
    pace, _ = paced(clock, steps)

    def call(step: int, schedule: Schedule) -> int:
        clock.step()
        return pace(step, schedule)

    return call


@pytest.mark.parametrize("slow", [0.5, 2.0])
def test_what_was_done_is_repeated_without_a_clock(job: Phase, slow: float) -> None:
    result = train(replace(job, pace=pacing(Clock(0, slow), 24)))
    assert result.replanned
    assert result.steps == result.replanned[-1] != 24
    assert result.history[-1]["learning_rate"] < result.history[0]["learning_rate"]
    again = train(replace(job, settings=job.settings.replace(replanned=result.replanned)))
    assert again.steps == result.steps
    assert same(result.ema, again.ema)
    assert same(result.raw, again.raw)


def test_killed_after_it_was_planned_again_it_ends_bit_identical(job: Phase, tmp_path: Path) -> None:
    """Also where the process that goes on knows nothing of a time."""
    whole = train(replace(job, pace=pacing(Clock(0, 2.0), 24)))
    first = whole.replanned[0]

    class Killed(BaseException):
        pass

    pace = pacing(Clock(0, 2.0), 24)

    def killed(step: int, schedule: Schedule) -> int:
        if schedule.replanned and step == first + 2:
            raise Killed  # not at a checkpoint of its own: the last is that of the new plan
        return pace(step, schedule)

    interrupted = replace(job, pace=killed, checkpoint=tmp_path / "state.safetensors", checkpoint_every=1e9)
    with pytest.raises(Killed):
        train(interrupted)
    going_on = train(replace(interrupted, pace=None))
    assert going_on.replanned == whole.replanned[:2]
    repeated = train(replace(job, settings=job.settings.replace(replanned=whole.replanned[:2])))
    assert same(going_on.ema, repeated.ema)
    assert same(going_on.raw, repeated.raw)


def test_an_interruption_names_the_steps_that_are_planned_now(job: Phase, tmp_path: Path) -> None:
    pace = pacing(Clock(0, 2.0), 24)

    def stopped(step: int, schedule: Schedule) -> int:
        if schedule.replanned:
            signal.raise_signal(signal.SIGINT)
        return pace(step, schedule)

    with pytest.raises(Interrupted, match=r"stopped at step \d+ of 1\d of training"):
        train(replace(job, pace=stopped, checkpoint=tmp_path / "state.safetensors"))
