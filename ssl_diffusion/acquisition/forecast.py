"""What more labels would bring: the accuracy with N more of them, and an interval, from the rounds so far.

The logarithm of the odds of a right prediction grows with every doubling of the labels by a step that shrinks from doubling to
doubling. This is a line with a slope that wanders back to a mean (an integrated Ornstein-Uhlenbeck process), observed with
noise: a Kalman filter gives the forecast in closed form. The few rounds of one curve cannot say how fast slopes shrink and how
much they wander; that comes from curves of many studies (`benchmarks/forecast.py`, where the interval is checked on studies
that had no part in it). With a constant slope this is the power law of learning curves (Viering and Loog 2021, arXiv
2103.10948).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssl_diffusion.errors import DataError

__all__ = ["FEWEST_ROUNDS", "Forecast", "LearningCurvePrior", "forecast"]

FEWEST_ROUNDS = 3
_LEVEL = 10.0  # standard deviation of the first log-odds: they are known from the data alone
_CLOSEST = 1e-3  # to accuracies of 0 and 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LearningCurvePrior:
    """What learning curves are like, in log-odds and doublings of the labels.

    Attributes:
        slope: Mean slope at the first round.
        slope_deviation: Standard deviation of slopes at the first round between curves.
        last_slope: Mean slope after many doublings.
        decay: Rate, per doubling, at which slopes return to it.
        wander: Standard deviation of the change of a slope in one doubling.
        noise: Standard deviation of the log-odds about their curve, also of means over many trials.
        sampling: Noise of one trial's accuracy: what a test split of 1 / sampling^2 images would have.
        firmness: Number of rounds that a curve's own surprises have to outweigh: all variances are scaled by how large they
            were.
    """

    slope: float = 0.32
    slope_deviation: float = 0.29
    last_slope: float = 0.098
    decay: float = 0.26
    wander: float = 0.077
    noise: float = 0.022
    sampling: float = 0.016
    firmness: float = 2.4


@dataclass(frozen=True)
class Forecast:
    """Accuracy that is expected, with its 80 % interval, all in [0, 1].

    Attributes:
        more: Labels more than in the last round.
        accuracy: Expected accuracy, the median of what may come.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    more: int
    accuracy: float
    low: float
    high: float

    def __str__(self) -> str:
        low, high = f"{100 * self.low:.0f}", f"{100 * self.high:.0f}"
        return f"with {self.more:,} more labels {100 * self.accuracy:.0f} % ({low} to {high})"


def forecast(
    n_labeled: ArrayLike,
    accuracy: ArrayLike,
    more: int | None = None,
    *,
    trials: int = 1,
    deviation: float = 0.0,
    prior: LearningCurvePrior | None = None,
    level: float = 0.8,
) -> Forecast:
    """The accuracy with more labels than in the last round.

    Args:
        n_labeled: Numbers of labels, increasing, (R,), three or more.
        accuracy: Accuracy at each of them, in [0, 1], (R,).
        more: Number of labels to add to the last; None doubles them.
        trials: Number of trials that the accuracies are means of.
        deviation: Standard error of the last accuracy where it was measured on few images, in [0, 1]; errors that all rounds
            share, as on one audit set, do not average out.
        prior: Prior of learning curves; None takes that of the committed studies.
        level: Probability that the accuracy is in the interval, in (0, 1).

    Raises:
        DataError: With fewer than three rounds, numbers of labels that do not increase, accuracies outside [0, 1] or fewer than
            one label more.

    Example:
        >>> print(forecast([10, 20, 40], [0.61, 0.73, 0.86]))
        with 40 more labels 91 % (88 to 93)
    """
    from scipy.special import stdtrit

    n, a = np.asarray(n_labeled, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if n.ndim != 1 or n.shape != a.shape:
        raise DataError(f"a forecast needs one accuracy for every number of labels, not {a.size} for {n.size}")
    if len(n) < FEWEST_ROUNDS:
        raise DataError(
            f"a forecast needs {FEWEST_ROUNDS} rounds with a measured accuracy, and there are {len(n)}: label more first"
        )
    if not (n > 0).all() or not (np.diff(n) > 0).all():
        raise DataError("a forecast needs numbers of labels that increase from round to round")
    if not ((a >= 0) & (a <= 1)).all():
        raise DataError("a forecast needs accuracies between 0 and 1")
    more = int(n[-1]) if more is None else more
    if more < 1:
        raise DataError(f"a forecast is for one label more or for several, not for {more}")
    found = predictive(np.log2(n)[None], a[None], np.log2(n[-1:] + more), np.array([trials]), prior or LearningCurvePrior())
    mean, variance, freedom = (float(value[0]) for value in found)
    # A measurement error of the accuracy, at the forecast's own height.
    p = float(_expit(mean))
    variance += (deviation / max(a[-1] * (1 - a[-1]), p * (1 - p), 1e-4)) ** 2
    half = float(stdtrit(freedom, 0.5 + level / 2)) * np.sqrt(variance)
    return Forecast(more, p, float(_expit(mean - half)), float(_expit(mean + half)))


def predictive(
    at: Floats, accuracy: Floats, target: Floats, trials: NDArray[np.int64], prior: LearningCurvePrior
) -> tuple[Floats, Floats, Floats]:
    """Log-odds that will be measured, given those measured before, of B curves: mean, squared scale and degrees of freedom of
    Student's t, (B,) each.

    Args:
        at: Binary logarithms of the numbers of labels, increasing, (B, R).
        accuracy: Accuracy at each of them, (B, R).
        target: Binary logarithms of the numbers of labels of the forecast, (B,).
        trials: Numbers of trials that the accuracies are means of, (B,).
        prior: Prior of learning curves.
    """
    a = accuracy.clip(_CLOSEST, 1 - _CLOSEST)
    odds = np.log(a / (1 - a))
    curves, rounds = odds.shape
    state = np.tile([0.0, prior.slope], (curves, 1))
    spread = np.tile(np.diag([_LEVEL**2, prior.slope_deviation**2]), (curves, 1, 1))
    surprise = np.zeros(curves)
    for k in range(rounds):
        if k:
            state, spread = _advance(state, spread, at[:, k] - at[:, k - 1], prior)
        expected = spread[:, 0, 0] + _noise(a[:, k], trials, prior)
        off = odds[:, k] - state[:, 0]
        surprise += off**2 / expected if k else 0.0  # the first level is as good as unknown
        gain = spread[:, :, 0] / expected[:, None]
        state = state + gain * off[:, None]
        spread = spread - gain[:, :, None] * spread[:, None, 0]
    state, spread = _advance(state, spread, target - at[:, -1], prior)
    height = _expit(state[:, 0]).clip(_CLOSEST, 1 - _CLOSEST)
    freedom = np.full(curves, prior.firmness + rounds - 1)
    scale = (prior.firmness + surprise) / freedom
    return state[:, 0], (spread[:, 0, 0] + _noise(height, trials, prior)) * scale, freedom


def _noise(accuracy: Floats, trials: NDArray[np.int64], prior: LearningCurvePrior) -> Floats:
    """Variances of measured log-odds about their curve."""
    drawn: Floats = prior.noise**2 + prior.sampling**2 / (accuracy * (1 - accuracy) * trials)
    return drawn


def _advance(state: Floats, spread: Floats, d: Floats, prior: LearningCurvePrior) -> tuple[Floats, Floats]:
    """Levels and slopes, (B, 2), after d doublings, (B,), and their covariances, (B, 2, 2)."""
    k, mu = prior.decay, prior.last_slope
    e = np.exp(-k * d)
    way = (1 - e) / k
    step = np.zeros_like(spread)
    step[:, 0, 0], step[:, 0, 1], step[:, 1, 1] = 1.0, way, e
    q = np.empty_like(spread)
    q[:, 0, 0] = (2 * k * d - 3 + 4 * e - e**2) / (2 * k**3)
    q[:, 0, 1] = q[:, 1, 0] = way**2 / 2
    q[:, 1, 1] = (1 - e**2) / (2 * k)
    moved = np.einsum("bij,bj->bi", step, state) + mu * np.stack([d - way, 1 - e], axis=1)
    return moved, step @ spread @ step.transpose(0, 2, 1) + prior.wander**2 * q


def _expit(x: Floats | float) -> Floats:
    p: Floats = 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))
    return p
