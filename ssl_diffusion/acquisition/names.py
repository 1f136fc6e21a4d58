"""Strategies with another way from utilities to a batch, as `NAME:top` or `NAME:diverse`: see :data:`VARIANTS`.

A strategy is a measure of usefulness and a way to choose by it. What the measure itself is worth, and what the choice adds, is
seen when one is changed and the other kept.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ssl_diffusion.acquisition.batch_selection import best, diverse, finite, in_proportion, shortlist, with_chance
from ssl_diffusion.acquisition.candidates import Candidates
from ssl_diffusion.acquisition.label_doubts import suspicious_labels
from ssl_diffusion.acquisition.registry import Choice, Strategy, get_strategy
from ssl_diffusion.errors import SSLDError, nearest_names, shown

if TYPE_CHECKING:
    from ssl_diffusion.models.joint import JointDiffusion

__all__ = ["AUTO_RULE", "READ_LABELS", "VARIANTS", "get_variant", "strategy_for"]


_AGAIN = 0.2  # of a batch


def _top(c: Candidates, found: Choice, n: int) -> Choice:
    return best(found.utilities, n, c.rng)


def _diverse(c: Candidates, found: Choice, n: int) -> Choice:
    rows = shortlist(found.utilities, n, c.rng)
    u = found.utilities - min(0.0, float(found.utilities.min()))
    return diverse(c.representation[rows], u, n, c.rng, rows)


def _balanced(c: Candidates, found: Choice, n: int) -> Choice:
    if c.probabilities is None:
        return found if len(found.picks) == n else best(found.utilities, n, c.rng)
    k = c.probabilities.shape[1]
    rare = 1 / (1 + np.bincount(c.labeled_classes, minlength=k)[:k])
    u = (found.utilities - min(0.0, float(found.utilities.min()))) * (c.probabilities @ rare)
    rows = shortlist(u, n, c.rng)
    return diverse(c.representation[rows], u, n, c.rng, rows)


def _relabel(c: Candidates, found: Choice, n: int) -> Choice:
    again = suspicious_labels(c)[: int(_AGAIN * n)]
    picks = found.picks[: n - len(again)] if len(found.picks) else best(found.utilities, n - len(again), c.rng).picks
    probabilities = found.probabilities[: len(picks)] if len(found.picks) else np.ones(len(picks))
    return Choice(picks, found.utilities, probabilities, again=again)


def _power(c: Candidates, found: Choice, n: int) -> Choice:
    u = found.utilities - min(0.0, float(found.utilities.min()))
    return in_proportion(u, n, 1.0, c.rng)


def _sampled(c: Candidates, found: Choice, n: int) -> Choice:
    return with_chance(found.utilities - min(0.0, float(found.utilities.min())), n, c.rng)


# name: what it does, and how
VARIANTS: dict[str, tuple[str, Callable[[Candidates, Choice, int], Choice]]] = {
    "top": ("the largest utilities, alike or not", _top),
    "diverse": ("a shortlist of five batches by utility, then k-means++ weighted by utility", _diverse),
    "sampled": (
        "drawn in proportion to utility, one in five uniformly at random, so that the labels can measure the model",
        _sampled,
    ),
    "balanced": (
        "as diverse, utilities times how rare the labels of the predicted classes are so far: for long tails",
        _balanced,
    ),
    "relabel": (
        "up to a fifth of the batch asks again for labels that the others contradict, where one can ask again",
        _relabel,
    ),
    "power": ("drawn in proportion to utility (Kirsch et al. 2021, arXiv 2106.12059)", _power),
}
READ_LABELS = ("balanced", "relabel")
"""Variants that reason about the classes of labeled samples."""
_READ_REPRESENTATION = ("diverse", "balanced", "relabel")


def get_variant(name: str) -> Strategy:
    """A strategy by name, as `NAME` or `NAME:VARIANT`.

    Raises:
        SSLDError: if there is no such strategy or variant; names the nearest.
    """
    base, colon, variant = name.partition(":")
    if not colon:
        return get_strategy(base)
    strategy = get_strategy(base)
    if variant not in VARIANTS:
        raise SSLDError(f"no variant {shown(variant)} of a strategy; {nearest_names(variant, VARIANTS)}")
    words, choose = VARIANTS[variant]

    def batch(c: Candidates, n: int) -> Choice:
        if strategy.score is not None:
            found = Choice(np.zeros(0, dtype=np.int64), finite(strategy.score(c)), np.zeros(0))
        else:
            assert strategy.batch is not None
            found = strategy.batch(c, n)
        return replace(choose(c, found, n), notes=())

    return replace(
        strategy,
        name=name,
        score=None,
        batch=batch,
        when=words,
        reads_labeled=strategy.reads_labeled or variant in READ_LABELS,
        reads_representation=strategy.reads_representation or variant in _READ_REPRESENTATION,
    )


# Fewer labels a class than this, and covering the pool beats asking the classifier.
_FEW_LABELS = 2
_FEW_BESIDE_BACKBONE = 1
_MANY_LABELS = 50  # a class, from which on single samples near the boundary are worth more than regions

AUTO_RULE = (
    f"a denoiser: maxherding below {_FEW_LABELS} labels per class, uherding below {_MANY_LABELS}, then margin:diverse",
    f"denoiser and backbone: typiclust below {_FEW_BESIDE_BACKBONE} label per class, then bait",
    f"a backbone alone, pixels, other features: typiclust below {_FEW_LABELS} labels per class, then uherding",
    "where an image may have several classes: uherding in place of bait and margin:diverse",
)
"""What "auto" takes, by what strategies see."""


def strategy_for(
    name: str, n_labeled: int, n_classes: int, model: "JointDiffusion | None" = None, *, independent: bool = False
) -> tuple[Strategy, str]:
    """The strategy of a name, and why.

    Args:
        name: Name of a strategy, also with a variant ("margin:diverse"), or "auto".
        n_labeled: labels there are.
        n_classes: Number of classes of the classifier; 0 without one.
        model: Model whose representation strategies see; None if it is no denoiser's.
        independent: Whether an image may have several classes: "auto" then takes what
            :func:`~ssl_diffusion.acquisition.independent.check_independent` accepts.

    Raises:
        SSLDError: if there is no such strategy; names the nearest.
    """
    base, colon, variant = name.partition(":")
    if base != "auto":
        return get_variant(name), f"{name}, as asked for"
    if colon:
        chosen, reason = strategy_for(base, n_labeled, n_classes, model, independent=independent)
        return get_variant(f"{chosen.name.partition(':')[0]}:{variant}"), reason
    if not n_classes:
        first = _first(model)
        return get_variant(first), f"{first}: there is no classifier yet, so cover the pool"
    beside = _reads_backbone(model) and not independent
    if n_labeled < (_FEW_BESIDE_BACKBONE if beside else _FEW_LABELS) * n_classes:
        then, why = _first(model), "are few, so cover the pool"
    elif beside:
        then, why = "bait", "beside a backbone are enough to ask what the classifier lacks"
    elif model is not None and not independent and n_labeled >= _MANY_LABELS * n_classes:
        then, why = "margin:diverse", "are enough to ask only what the classifier is unsure of"
    else:
        then, why = "uherding", "are enough to cover what the classifier is unsure of"
    return get_variant(then), f"{then}: {n_labeled} labels for {n_classes} classes {why}"


def _first(model: "JointDiffusion | None") -> str:
    """The strategy that begins; which one is better was measured for both kinds of representation (docs/how-to/studies.md)."""
    return "typiclust" if model is None or _reads_backbone(model) else "maxherding"


def _reads_backbone(model: "JointDiffusion | None") -> bool:
    if model is None:
        return False
    from ssl_diffusion.models.fused import FusedDiffusion  # torch, which names alone do not need

    return isinstance(model, FusedDiffusion)
