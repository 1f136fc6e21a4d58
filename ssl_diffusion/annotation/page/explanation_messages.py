"""Bodies of the labeling page's responses about what the model says of a sample."""

from collections.abc import Mapping
from urllib.parse import quote

from pydantic import BaseModel

from ssl_diffusion.annotation.loop.explanations import Explanation

__all__ = ["CounterfactualMessage", "ExplanationResponse", "PictureMessage", "PredictionMessage"]


class PredictionMessage(BaseModel):
    """A predicted class and its probability."""

    label: str
    probability: float


class PictureMessage(BaseModel):
    """A picture: its name, what it shows, and its address."""

    name: str
    caption: str
    image: str


class CounterfactualMessage(BaseModel):
    """What would change the prediction to a class: in a sentence and, where something can be seen, in pictures.

    Attributes:
        label: Name of the other class.
        said: Sentence about it.
        digest: Digest of the changed image, which a verdict has to name; empty where there is nothing to see.
        verdict: Verdict of the annotator; None if there is none.
        pictures: Pictures.
    """

    label: str
    said: str
    digest: str
    verdict: str | None
    pictures: list[PictureMessage]


class ExplanationResponse(BaseModel):
    """What the model says about a sample, or why it says less; ready once the counterfactuals have been searched."""

    ready: bool
    note: str
    predictions: list[PredictionMessage]
    counterfactuals: list[CounterfactualMessage]

    @classmethod
    def of(cls, id_: str, explanation: Explanation, said: Mapping[str, str] | None = None) -> "ExplanationResponse":
        """The response for a sample; `said` are verdicts of the annotator by the digest of the changed image."""
        address = f"/counterfactual?id={quote(id_, safe='')}"
        return cls(
            ready=explanation.ready,
            note=explanation.note,
            predictions=[PredictionMessage(label=label, probability=p) for label, p in explanation.predictions],
            counterfactuals=[
                CounterfactualMessage(
                    label=each.target,
                    said=each.said(),
                    digest=each.found.digest,
                    verdict=(said or {}).get(each.found.digest),
                    pictures=[
                        PictureMessage(name=name, caption=each.caption(name), image=f"{address}&k={k}&picture={name}")
                        for name in each.found.pictures
                    ],
                )
                for k, each in enumerate(explanation.counterfactuals)
            ],
        )
