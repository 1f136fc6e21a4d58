"""What a strategy is, and the list of all of them.

A *score* gives every candidate a utility (higher = label it sooner) and leaves the choice to the batch builder: the best ones,
or a draw in proportion to them. A *batch* strategy chooses a batch as a whole, because its samples have to differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.errors import SSLDError, nearest_names

__all__ = ["STRATEGIES", "Choice", "Strategy", "batch", "get_strategy", "score", "strategies_frame"]


@dataclass(frozen=True)
class Choice:
    """A batch of candidates.

    Attributes:
        picks: positions among the candidates in the order of choice, int64 (n,).
        utilities: Utilities of all candidates, finite, float64 (N,); higher = label it sooner.
        probabilities: Probability of each pick, given the picks before it, float64 (n,); 1 where nothing was left to
            chance.
        notes: a few words about each pick, what the strategy saw in it, (n,); empty if it has nothing to say.
    """

    picks: NDArray[np.int64]
    utilities: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    notes: tuple[str, ...] = ()


Score = Callable[[Candidates], NDArray[np.floating[Any]]]
BatchStrategy = Callable[[Candidates, int], Choice]


@dataclass(frozen=True)
class Strategy:
    """An acquisition strategy.

    Attributes:
        name: Name in the command line and in results.
        needs: "images" (works without any label), or "labels" (a classifier).
        cost: Cost, in words.
        when: when to use it, in words.
        reference: Source of the method.
        score: gives every candidate a utility; None for batch strategies.
        batch: chooses a batch; None for scores.
    """

    name: str
    needs: str
    cost: str
    when: str
    reference: str
    score: Score | None = None
    batch: BatchStrategy | None = None


STRATEGIES: dict[str, Strategy] = {}


def score(name: str, *, needs: str, cost: str, when: str, reference: str) -> Callable[[Score], Score]:
    """Register a function as a score, see :class:`Strategy`."""

    def register(function: Score) -> Score:
        STRATEGIES[name] = Strategy(name, needs, cost, when, reference, score=function)
        return function

    return register


def batch(name: str, *, needs: str, cost: str, when: str, reference: str) -> Callable[[BatchStrategy], BatchStrategy]:
    """Register a function as a batch strategy, see :class:`Strategy`."""

    def register(function: BatchStrategy) -> BatchStrategy:
        STRATEGIES[name] = Strategy(name, needs, cost, when, reference, batch=function)
        return function

    return register


def get_strategy(name: str) -> Strategy:
    """A strategy by name; raises :class:`SSLDError` with the nearest names if there is none."""
    if name not in STRATEGIES:
        raise SSLDError(f"no strategy {name!r}; {nearest_names(name, STRATEGIES)}")
    return STRATEGIES[name]


def strategies_frame() -> pd.DataFrame:
    """One row a strategy: name, needs, cost, when, reference."""
    columns = ("name", "needs", "cost", "when", "reference")
    return pd.DataFrame([{c: getattr(s, c) for c in columns} for s in STRATEGIES.values()])
