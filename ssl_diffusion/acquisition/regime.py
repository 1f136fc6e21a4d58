"""Which strategy a name means; "auto" is the one for the number of labels there are and the number asked for."""

from ssl_diffusion.acquisition.registry import Strategy
from ssl_diffusion.acquisition.variants import get_variant

__all__ = ["strategy_for"]

# Fewer labels a class than this, and covering the pool beats asking the classifier.
_FEW_LABELS = 2
# A counterfactual costs about 70 passes, and five batches of them are searched: of more, hours on a processor.
_LARGE_BATCH = 250


def strategy_for(name: str, n_labeled: int, n_classes: int, n: int = 1) -> tuple[Strategy, str]:
    """The strategy of a name, and why.

    Args:
        name: of a strategy, also with a variant ("margin:diverse"), or "auto".
        n_labeled: labels there are.
        n_classes: of the classifier; 0 if there is none.
        n: samples to choose.

    Raises:
        SSLDError: if there is no such strategy; names the nearest.
    """
    if name != "auto":
        return get_variant(name), f"{name}, as asked for"
    if not n_classes:
        return get_variant("typiclust"), "typiclust: there is no classifier yet, so cover the pool"
    if n_labeled < _FEW_LABELS * n_classes:
        labels = f"{n_labeled} labels for {n_classes} classes"
        return get_variant("typiclust"), f"typiclust: {labels} are few, and typical samples teach most"
    if n > _LARGE_BATCH:
        return (
            get_variant("margin:diverse"),
            f"margin:diverse: searching counterfactuals for a batch of {n} would take too long",
        )
    return get_variant("counterfactual"), f"counterfactual: {n_labeled} labels are enough to look at the boundary"
