"""Learning rates of a phase whose number of steps is planned again while it runs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_diffusion.errors import RecipeError
from ssl_diffusion.training.schedule import Schedule
from ssl_diffusion.training.settings import PhaseSettings, TrainingSettings

SETTINGS = PhaseSettings(steps=100, learning_rate=1.0, warmup=0.1)


def test_warm_up_and_half_a_cosine() -> None:
    schedule = Schedule(SETTINGS)
    assert schedule.steps == 100
    assert [schedule.rate(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert schedule.rate(55) == pytest.approx(0.5)
    assert schedule.progress(100) == 1
    assert schedule.rate(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


@given(st.integers(10, 99), st.integers(1, 300), st.integers(1, 300))
def test_a_new_number_of_steps_bends_the_rate_but_does_not_break_it(at: int, more: int, again: int) -> None:
    """Until then all is as before; from there on the rate falls from where it is to zero."""
    plain = Schedule(SETTINGS)
    bent = plain.again(at, at + more)
    assert bent.steps == at + more
    assert [bent.rate(step) for step in range(at + 1)] == pytest.approx([plain.rate(step) for step in range(at + 1)])
    assert bent.progress(at + more) == pytest.approx(1)
    later = at + (more + 1) // 2
    if later < at + more:
        twice = bent.again(later, later + again)
        assert twice.progress(later) == pytest.approx(bent.progress(later))
        assert twice.progress(later + again) == pytest.approx(1)
        rates = [twice.rate(step) for step in range(10, twice.steps)]
        assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "replanned", [(25,), (25, 20), (25, 25), (100, 120), (0, 50), (25, 50, 25, 60), (25, 50, 40, 30), (25, 50, 60, 80)]
)
def test_what_is_no_schedule_is_refused(replanned: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match="replanned is a list of pairs"):
        TrainingSettings(steps=100, replanned=replanned)
    assert Schedule(SETTINGS, (25, 50, 40, 90)).steps == 90
