"""What a strategy is, and the list of all of them.

A *score* gives every candidate a utility (higher = label it sooner) and leaves the choice to the batch builder: the best ones,
or a draw in proportion to them. A *batch* strategy chooses a batch as a whole, because its samples have to differ.

Distributions offer strategies of their own by entry points of the group "ssld.strategies", which are imported when a name is
not known or all names are listed. The tests of :class:`ssl_diffusion.testing.StrategyContract` are there for each to inherit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.errors import SSLDError, nearest_names, shown
from ssl_diffusion.machine import load_plugins

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PLUGINS",
    "STRATEGIES",
    "Choice",
    "Strategy",
    "get_strategy",
    "register_batch",
    "register_score",
    "strategies_frame",
    "strategy_rows",
]

PLUGINS = "ssld.strategies"
_OWN = "ssl_diffusion.acquisition.strategies"


@dataclass(frozen=True)
class Choice:
    """A batch of candidates.

    Attributes:
        picks: positions among the candidates in the order of choice, int64 (n,).
        utilities: Utilities of all candidates, finite, float64 (N,); higher = label it sooner.
        probabilities: Probability of each pick, given the picks before it, float64 (n,); 1 where nothing was left to
            chance.
        notes: a few words about each pick, what the strategy saw in it, (n,); empty if it has nothing to say.
        again: Positions among the labeled samples of those to ask for again instead of for new ones, int64 (k,); the batch has
            k samples less then. For candidates with `asked_again` only.
    """

    picks: NDArray[np.int64]
    utilities: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    again: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


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
        reads_labeled: Whether it looks at images, representations or classes of labeled samples; a query by one that
            does not leaves them unread.
        reads_representation: Whether it looks at representations, and not only at class probabilities and images.
    """

    name: str
    needs: str
    cost: str
    when: str
    reference: str
    score: Score | None = None
    batch: BatchStrategy | None = None
    reads_labeled: bool = True
    reads_representation: bool = True


STRATEGIES: dict[str, Strategy] = {}


def register_score(
    name: str,
    *,
    needs: str,
    cost: str,
    when: str,
    reference: str,
    reads_labeled: bool = True,
    reads_representation: bool = True,
) -> Callable[[Score], Score]:
    """Register a function as a score under a name; see :class:`Strategy` for the arguments.

    Raises:
        SSLDError: If the name is taken or cannot be a name, or `needs` is neither "images" nor "labels".

    Example:
        >>> @register_score("tail", needs="labels", cost="one pass", when="rare classes", reference="this example")
        ... def tail(c: Candidates) -> np.ndarray:
        ...     return 1 - c.p.max(axis=1)
    """

    def register(function: Score) -> Score:
        _add(Strategy(name, needs, cost, when, reference, function, None, reads_labeled, reads_representation))
        return function

    return register


def register_batch(
    name: str,
    *,
    needs: str,
    cost: str,
    when: str,
    reference: str,
    reads_labeled: bool = True,
    reads_representation: bool = True,
) -> Callable[[BatchStrategy], BatchStrategy]:
    """Register a function as a batch strategy under a name; arguments and errors as :func:`register_score`.

    Example:
        >>> @register_batch("first", needs="images", cost="none", when="a baseline", reference="this example")
        ... def first(c: Candidates, n: int) -> Choice:
        ...     return Choice(np.arange(n), np.zeros(len(c)), np.ones(n))
    """

    def register(function: BatchStrategy) -> BatchStrategy:
        _add(Strategy(name, needs, cost, when, reference, None, function, reads_labeled, reads_representation))
        return function

    return register


def _add(strategy: Strategy) -> None:
    name = strategy.name
    if not _home(strategy).startswith(f"{_OWN}."):
        import_module(_OWN)  # a name that this package uses is refused to others
    if name == "auto" or not name or any(c in ":," or c.isspace() for c in name):
        raise SSLDError(f"a strategy cannot be called {name!r}: choose a word without colon, comma or space, other than auto")
    if strategy.needs not in ("images", "labels"):
        raise SSLDError(f"the strategy {name!r} needs images or labels, not {strategy.needs!r}")
    # The same function may register again: a cell of a notebook is run twice.
    if name in STRATEGIES and _home(STRATEGIES[name]) != _home(strategy):
        raise SSLDError(f"the strategy name {name!r} is taken by {_home(STRATEGIES[name])}: choose another")
    STRATEGIES[name] = strategy


def _home(strategy: Strategy) -> str:
    function = strategy.score or strategy.batch
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"


def get_strategy(name: str) -> Strategy:
    """A strategy by name, of this package or of an installed plug-in.

    Raises:
        SSLDError: If there is none, with the nearest names; or if the plug-in that offers it cannot be loaded.

    Example:
        >>> get_strategy("margin").needs
        'labels'
    """
    import_module(_OWN)
    if name not in STRATEGIES:
        broken = load_plugins(PLUGINS)
        if name not in STRATEGIES:
            why = broken.get(name) or nearest_names(name, STRATEGIES)
            raise SSLDError(f"no strategy {shown(name)}; {why}")
    return STRATEGIES[name]


def strategies_frame() -> "pd.DataFrame":
    """One row a strategy, those of plug-ins included: name, needs, cost, when, reference.

    Example:
        >>> "margin" in set(strategies_frame()["name"])
        True
    """
    import pandas as pd

    return pd.DataFrame(strategy_rows())


def strategy_rows() -> list[dict[str, str]]:
    """The rows of :func:`strategies_frame`, in the order of registration."""
    import_module(_OWN)
    load_plugins(PLUGINS)
    columns = ("name", "needs", "cost", "when", "reference")
    return [{c: getattr(s, c) for c in columns} for s in STRATEGIES.values()]
