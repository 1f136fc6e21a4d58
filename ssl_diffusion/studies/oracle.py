"""The oracle: the labels that somebody would choose who knew the test labels, as a ceiling for what a strategy can reach.

In every round ten strategies propose ten batches each, a probe is refitted with each of them, and the batch whose probe makes
the fewest mistakes on the test split is kept. So it is no strategy that anybody could use, and what it is above the best one is
partly luck with the test images. See Huseljic et al. 2026 (BoSS), arXiv 2603.13109.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.names import get_variant
from ssl_diffusion.acquisition.query import choose
from ssl_diffusion.acquisition.registry import Choice

__all__ = ["ORACLE", "Refitted", "oracle_choice"]

ORACLE = "oracle"
_BATCHES = 100
_WITHOUT_LABELS = ("random", "typiclust", "probcover", "coreset", "maxherding")
_WITH_LABELS = (
    *("random", "typiclust", "maxherding", "margin", "margin:diverse"),
    *("entropy:diverse", "badge", "bait", "dropquery", "uherding"),
)


class Refitted(Protocol):
    """What the oracle asks of a study."""

    def candidates(self, open_: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """What strategies see of open positions."""
        ...

    def test_logits(self, known: NDArray[np.int64]) -> NDArray[np.float32]:
        """Class logits of the test split, (n, K), after a refit with the labels at these positions."""
        ...


def oracle_choice(
    study: Refitted,
    open_: NDArray[np.int64],
    known: NDArray[np.int64],
    test_labels: NDArray[np.int64],
    n: int,
    rng: np.random.Generator,
) -> tuple[Choice, str]:
    """The best of a hundred batches by the test labels, and the name of the strategy that proposed it.

    The first batch of a strategy is chosen among all candidates, the others among a random half each, or they would be alike.

    Args:
        study: Candidates and refits of the study.
        open_: Positions of the candidates, int64 (N,).
        known: Positions of the labeled samples, int64 (m,).
        test_labels: Classes of the test split, int64 (t,).
        n: Samples to choose.
        rng: Random generator for every draw.
    """
    from ssl_diffusion.inference.metrics import classification_metrics

    whole = study.candidates(open_, rng)
    names = _WITHOUT_LABELS if whole.probabilities is None else _WITH_LABELS
    best: tuple[float, float] | None = None
    found, used = Choice(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)), ""
    for name in names:
        for draw in range(_BATCHES // len(names)):
            part = np.arange(len(open_))
            if draw and (half := max(n, len(open_) // 2)) < len(open_):
                part = np.sort(rng.choice(len(open_), half, replace=False))
            candidates = whole if len(part) == len(open_) else study.candidates(open_[part], rng)
            choice = choose(get_variant(name), candidates, n)
            chosen = open_[part[choice.picks]]
            metrics = classification_metrics(study.test_logits(np.concatenate([known, chosen])), test_labels)
            loss = (1 - metrics["accuracy"], metrics["nll"])
            if best is None or loss < best:
                utilities = np.full(len(open_), float(choice.utilities.min()))
                utilities[part] = choice.utilities
                best, used = loss, name
                found = replace(choice, picks=part[choice.picks], utilities=utilities, notes=())
    return found, f"{ORACLE} ({used})"
