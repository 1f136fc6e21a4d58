"""Bodies of requests and responses about what the model says: predictions, counterfactuals, and verdicts on them."""

from collections.abc import Mapping
from urllib.parse import quote

from pydantic import BaseModel, Field

from ssl_diffusion.annotation.loop.explanations import Explanation
from ssl_diffusion.annotation.page.messages import AnnotatorRequest, Digest, Name, SampleId
from ssl_diffusion.annotation.store.verdicts import Judgement

__all__ = [
    "CounterfactualMessage",
    "ExplanationResponse",
    "PictureMessage",
    "PredictionMessage",
    "VerdictRequest",
    "VerdictResponse",
]


class VerdictRequest(AnnotatorRequest):
    """What somebody says of the k-th counterfactual of a sample; the digest says which image was seen."""

    id: SampleId
    k: int = Field(ge=0, le=100)
    digest: Digest
    verdict: Judgement
    seconds: float | None = Field(default=None, ge=0, le=86400, allow_inf_nan=False)
    token: Name


class VerdictResponse(BaseModel):
    """Number of verdicts of the job that count."""

    verdicts: int


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
        address = f"counterfactual?id={quote(id_, safe='')}"
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
