"""What the page says about a sample: predictions, and counterfactuals in words, on which people give verdicts."""

from dataclasses import dataclass, field

from ssl_diffusion.annotation.loop.counterfactuals import Counterfactual
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store.store import Actor
from ssl_diffusion.annotation.store.verdicts import Judgement, Verdict, add_verdict, verdicts
from ssl_diffusion.data.thumbnails import png_of
from ssl_diffusion.generation.strips import GAIN

__all__ = ["MEASURES", "Explanation", "Named", "judge"]


@dataclass(frozen=True)
class Named:
    """A counterfactual and the names of its classes, in words.

    Attributes:
        source: Predicted class.
        target: The other class.
        found: Result of the search.
    """

    source: str
    target: str
    found: Counterfactual

    def said(self) -> str:
        """What is to be said of it, in a sentence."""
        fence = f"on the fence between {self.source} and {self.target}"
        match self.found.kind:
            case "sure":
                return f"{self.target} if changed like this"
            case "boundary":
                return f"no sure counterfactual of {self.target} found: changed like this it is {fence}"
            case "fence":
                return f"{fence}: a change that nobody sees decides"
            case "none":
                return f"no counterfactual of {self.target} found"

    def caption(self, picture: str) -> str:
        """What stands below one of its pictures."""
        if picture == "original":
            return "original"
        if picture == "difference":
            return f"change × {GAIN}"
        if picture == "boundary" and self.found.kind == "sure":
            return "at the boundary"
        return f"{self.target} {self.found.probability:.2f}"


@dataclass(frozen=True)
class Explanation:
    """What the model says about a sample.

    Attributes:
        predictions: The three most probable classes and their probabilities; empty without a classifier.
        counterfactuals: Counterfactuals with the names of their classes, as far as they have been found.
        ready: Whether no more of them are being searched.
        note: Reason why there is less than usual; empty if there is none.
    """

    predictions: list[tuple[str, float]] = field(default_factory=list)
    counterfactuals: list[Named] = field(default_factory=list)
    ready: bool = True
    note: str = ""


MEASURES = Explanation(note="Hidden: the label of this sample measures the model.")
"""The explanation of a sample whose label measures the model."""


def judge(job: Job, model: str, id_: str, named: Named, verdict: Judgement, by: Actor) -> int:
    """Record what somebody says of a counterfactual; returns the number of verdicts that count.

    Args:
        job: Job of the sample.
        model: Name of the model that made it.
        id_: Sample id.
        named: The counterfactual, which shows something.
        verdict: Verdict on it.
        by: Actor who judges.

    Example:
        >>> judge(job, "001", "7.png", found, "true", Actor("ada"))  # doctest: +SKIP
        12
    """
    changed = named.found.changed
    assert changed is not None
    add_verdict(job.store, Verdict(id_, verdict, named.source, named.target, model, png_of(changed), named.found.digest), by)
    return len(verdicts(job.store))
