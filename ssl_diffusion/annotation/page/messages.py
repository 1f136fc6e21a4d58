"""Bodies of the labeling page's requests and responses."""

from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, Field

from ssl_diffusion.annotation.loop.accuracy import Estimate
from ssl_diffusion.annotation.loop.fits import FitState
from ssl_diffusion.annotation.loop.workbench import Explanation, PageState
from ssl_diffusion.annotation.store.store import Verb

__all__ = [
    "AnnotatorRequest",
    "ClassRequest",
    "ClassesResponse",
    "CounterfactualMessage",
    "ExplanationResponse",
    "FitResponse",
    "LabelRequest",
    "LabelResponse",
    "PredictionMessage",
    "ReviewResponse",
    "ReviewedSample",
    "SampleMessage",
    "SampleResponse",
    "SessionResponse",
    "StateResponse",
    "TakeRequest",
    "image_url",
]

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")]
SampleId = Annotated[str, Field(min_length=1, max_length=1000)]


def image_url(id_: str) -> str:
    """Address of the image of a sample."""
    return f"/image?id={quote(id_, safe='')}"


class AnnotatorRequest(BaseModel):
    """Who sends a request, and from which tab."""

    annotator: Name
    holder: Name


class LabelRequest(AnnotatorRequest):
    """A verb on a sample, see :class:`~ssl_diffusion.annotation.store.Action`."""

    id: SampleId
    verb: Verb
    label: str | None = None
    final: bool = False
    seconds: float | None = Field(default=None, ge=0, le=86400)
    token: Name


class TakeRequest(AnnotatorRequest):
    """A sample to open, in the queue or not."""

    id: SampleId


class ClassRequest(BaseModel):
    """A class to add."""

    name: Name


class SessionResponse(BaseModel):
    """What the page needs once: the secret that its requests carry, the job's name and classes, and whether it is blind."""

    csrf: str
    job: str
    classes: tuple[str, ...]
    blind: bool


class SampleMessage(BaseModel):
    """A sample to label: its id, the address of its image, the reason for its choice, and its status."""

    id: str
    image: str
    note: str
    status: str


class SampleResponse(BaseModel):
    """A leased sample; None if there is none."""

    sample: SampleMessage | None


class LabelResponse(BaseModel):
    """Status of a sample after a verb."""

    status: str


class FitResponse(BaseModel):
    """Whether a fit was started."""

    started: bool


class ClassesResponse(BaseModel):
    """Class names by number."""

    classes: tuple[str, ...]


class ReviewedSample(BaseModel):
    """A disputed or flagged sample; votes are labels by annotator, None for a skip."""

    id: str
    role: str
    status: str
    label: str | None
    flagged: bool
    votes: dict[str, str | None]
    image: str


class ReviewResponse(BaseModel):
    """Samples to review."""

    samples: list[ReviewedSample]


class PredictionMessage(BaseModel):
    """A predicted class and its probability."""

    label: str
    probability: float


class CounterfactualMessage(BaseModel):
    """A counterfactual: its class, its RMS distance in [0, 1], and the address of its image."""

    label: str
    distance: float
    image: str


class ExplanationResponse(BaseModel):
    """What the model says about a sample; ready once the counterfactuals have been searched."""

    ready: bool
    predictions: list[PredictionMessage]
    counterfactuals: list[CounterfactualMessage]

    @classmethod
    def of(cls, id_: str, explanation: Explanation) -> "ExplanationResponse":
        """The response for a sample."""
        address = f"/counterfactual?id={quote(id_, safe='')}&k="
        return cls(
            ready=explanation.counterfactuals is not None,
            predictions=[PredictionMessage(label=label, probability=p) for label, p in explanation.predictions],
            counterfactuals=[
                CounterfactualMessage(label=label, distance=found.distance, image=f"{address}{k}")
                for k, (label, found) in enumerate(explanation.counterfactuals or [])
            ],
        )


class StateResponse(BaseModel):
    """State of the job, see :class:`~ssl_diffusion.annotation.JobStatus` and :class:`PageState`."""

    counts: dict[str, int]
    labels: dict[str, int]
    rounds: int
    waiting: int
    model: str
    new_labels: int
    fitting: str | None
    audit: Estimate | None
    drawn: Estimate | None
    labels_per_hour: float | None
    next_step: str
    advice: list[str]
    classes: tuple[str, ...]
    curve: list[tuple[float, float, float, float]]
    fit: FitState
    problem: str

    @classmethod
    def of(cls, state: PageState) -> "StateResponse":
        """The response for a state."""
        own = {"classes": state.classes, "curve": state.curve, "fit": state.fit, "problem": state.problem}
        return cls.model_validate(state.status.to_dict() | own)
