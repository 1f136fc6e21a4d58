"""Bodies of the labeling page's requests and responses."""

from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, Field

from ssl_diffusion.annotation.loop.job_classes import ClassVerb
from ssl_diffusion.annotation.loop.sheets import LARGEST, Wanted
from ssl_diffusion.annotation.page.session_messages import ServerSession
from ssl_diffusion.annotation.store.labels import NamedLabel
from ssl_diffusion.annotation.store.people import AnnotatorFacts
from ssl_diffusion.annotation.store.store import Verb

__all__ = [
    "AnnotatorRequest",
    "ClassChangeRequest",
    "ClassRequest",
    "ClassesResponse",
    "CommentRequest",
    "DecisionRequest",
    "EventMessage",
    "ExampleMessage",
    "ExampleRequest",
    "ExamplesResponse",
    "FitResponse",
    "FoundSample",
    "HistoryResponse",
    "LabelRequest",
    "LabelResponse",
    "ReleaseRequest",
    "ReleaseResponse",
    "ReviewResponse",
    "ReviewedSample",
    "SampleMessage",
    "SampleResponse",
    "SearchResponse",
    "SeenSample",
    "SessionResponse",
    "SheetLabelRequest",
    "SheetLabelResponse",
    "SheetRequest",
    "SheetResponse",
    "StopResponse",
    "TakeRequest",
    "UndoRequest",
    "UndoResponse",
    "image_url",
]


def _check_text(text: str) -> str:
    # JSON can hold half of a pair of UTF-16 surrogates ("\\ud800"), which is no character and cannot be stored or sent.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text has half of a surrogate pair, which is no character")
    return text


def _check_label(label: str | list[str]) -> str | list[str]:
    names = [label] if isinstance(label, str) else label
    if len(names) > 1000 or any(len(_check_text(name)) > 1000 for name in names):
        raise ValueError("a label has at most 1000 classes, with names of at most 1000 characters")
    return label


_Text = Annotated[str, AfterValidator(_check_text)]
Name = Annotated[_Text, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
Coordinate = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
SampleId = Annotated[_Text, Field(min_length=1, max_length=1000)]
Digest = Annotated[_Text, Field(max_length=64, pattern=r"^[0-9a-f]*$")]
GivenLabel = Annotated[str | list[str], AfterValidator(_check_label)]  # a list in a multi-label job


def image_url(id_: str, digest: str = "") -> str:
    """Address of the image of a sample, relative to that of its job; with a digest only of that image."""
    return f"image?id={quote(id_, safe='')}" + (f"&digest={digest}" if digest else "")


class AnnotatorRequest(BaseModel):
    """Who sends a request, and from which tab."""

    annotator: Name
    holder: Name


class LabelRequest(AnnotatorRequest):
    """A verb on a sample, see :class:`~ssl_diffusion.annotation.store.Action`; a label needs the digest of the image shown."""

    id: SampleId
    verb: Verb
    label: GivenLabel | None = None
    digest: Digest = ""
    seconds: float | None = Field(default=None, ge=0, le=86400, allow_inf_nan=False)
    token: Name


class UndoRequest(AnnotatorRequest):
    """A vote to withdraw, by the token of the request that gave it."""

    token: Name


class SheetRequest(AnnotatorRequest):
    """A sheet, see :class:`~ssl_diffusion.annotation.loop.sheets.Wanted`."""

    kind: Literal["class", "similar", "lasso", "ids"] = "class"
    n: int = Field(default=24, ge=1, le=LARGEST)
    label: Annotated[_Text, Field(max_length=1000)] | None = None
    sure: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    id: SampleId | None = None
    points: list[tuple[Coordinate, Coordinate]] = Field(default=[], max_length=1000)
    ids: list[SampleId] = Field(default=[], max_length=LARGEST)
    without: list[SampleId] = Field(default=[], max_length=500)

    def wanted(self) -> Wanted:
        """What the loop is asked for."""
        facts = {name: getattr(self, name) for name in ("kind", "n", "label", "sure", "id")}
        return Wanted(**facts, points=tuple(self.points), ids=tuple(self.ids), without=tuple(self.without))


class SeenSample(BaseModel):
    """A sample, and the digest of the image that was shown."""

    id: SampleId
    digest: Digest


class SheetLabelRequest(AnnotatorRequest):
    """One label for several samples, as one action; `seconds` is the time per sample."""

    samples: list[SeenSample] = Field(min_length=1, max_length=LARGEST)
    label: Annotated[_Text, Field(max_length=1000)]
    seconds: float | None = Field(default=None, ge=0, le=86400, allow_inf_nan=False)
    token: Annotated[Name, Field(max_length=90)]


class ReleaseRequest(AnnotatorRequest):
    """Leases that a tab leaves: those that end at `until` (seconds since 1970) or before."""

    until: float = Field(ge=0, allow_inf_nan=False)


class DecisionRequest(AnnotatorRequest):
    """What a reviewer decides: the label is right, it is another one, or the sample is of no use.

    `seen` is the number that came with the samples to review; if somebody has decided since, the decision is refused (409).
    """

    id: SampleId
    decision: Literal["keep", "change", "drop"]
    seen: int = Field(ge=0)
    label: GivenLabel | None = None
    digest: Digest = ""
    token: Name


class CommentRequest(AnnotatorRequest):
    """A remark on a sample."""

    id: SampleId
    text: Annotated[_Text, Field(min_length=1, max_length=1000)]
    token: Name


class TakeRequest(AnnotatorRequest):
    """A sample to open, in the queue or not."""

    id: SampleId


class ClassRequest(BaseModel):
    """A class to add; `sure` also adds one that is hardly different from another."""

    name: Name
    sure: bool = False


class ClassChangeRequest(AnnotatorRequest):
    """A change of a class: another name, the class that it becomes, an end, a key of the keyboard, or a number of labels."""

    verb: ClassVerb
    name: Annotated[_Text, Field(max_length=1000)]
    to: Annotated[_Text, Field(max_length=100)] = ""


class ExampleRequest(BaseModel):
    """A labeled sample that shows what a class looks like, or, with `on` false, is not to show it any more."""

    id: SampleId
    name: Annotated[_Text, Field(max_length=1000)]
    on: bool = True


class ExampleMessage(BaseModel):
    """A labeled sample that shows what a class looks like, the address of its image, and whether somebody chose it."""

    id: str
    image: str
    chosen: bool


class ExamplesResponse(BaseModel):
    """Examples by class name; classes without a labeled image are left out."""

    examples: dict[str, list[ExampleMessage]]


class ClassesResponse(BaseModel):
    """Names of the classes in use, their keys, and their numbers, which their colors go by.

    `similar` is a class that a new one, not added, may be meant to be.
    """

    classes: tuple[str, ...]
    keys: list[str]
    numbers: list[int]
    similar: str | None = None


class SessionResponse(ServerSession, ClassesResponse):
    """What the page needs once; `home` is the address of the start page, empty for a job that is served alone."""

    job: str
    blind: bool
    multilabel: bool
    home: str


class SampleMessage(BaseModel):
    """A sample to label.

    Attributes:
        id: Sample id.
        image: Address of its image, relative to that of the job.
        digest: Digest of the image file, which a label has to name; empty if the file cannot be read.
        note: Reason for its choice.
        status: Status of the sample.
        until: End of the lease, in seconds since 1970.
    """

    id: str
    image: str
    digest: str
    note: str
    status: str
    until: float


class SampleResponse(BaseModel):
    """A leased sample, None if there is none; and addresses of images that are likely to follow."""

    sample: SampleMessage | None
    ahead: list[str] = []


class UndoResponse(SampleResponse):
    """What was taken back: one sample, leased again, or the ids of several; neither if the action does not stand any more."""

    ids: list[str] = []


class SheetResponse(BaseModel):
    """A sheet: what its samples have in common, the suggested class, the samples, and how many more there are."""

    title: str
    label: str | None
    samples: list[SampleMessage]
    left: int


class SheetLabelResponse(BaseModel):
    """Number of samples of a sheet that are labeled now; others need more votes."""

    labeled: int


class ReleaseResponse(BaseModel):
    """Leases were ended."""


class LabelResponse(BaseModel):
    """Status of a sample after a verb."""

    status: str


class FitResponse(BaseModel):
    """Whether a fit was started."""

    started: bool


class StopResponse(BaseModel):
    """Whether a fit was stopped; the next one continues it if the labels are the same."""

    stopped: bool


class ReviewedSample(BaseModel):
    """A sample to look at again, and why; votes by annotator, None for a skip; `beside` is the image that it is a copy of."""

    id: str
    role: str
    status: str
    label: NamedLabel | None
    flagged: bool
    votes: dict[str, NamedLabel | None]
    image: str
    digest: str = ""
    kind: str = ""
    note: str = ""
    suggested: str | None = None
    beside: str = ""


class ReviewResponse(BaseModel):
    """Samples to review, and the number of the last event that they show, which a decision names."""

    samples: list[ReviewedSample]
    seen: int


class FoundSample(BaseModel):
    """A sample, its label and the address of its image."""

    id: str
    image: str
    label: NamedLabel | None = None
    flagged: bool = False
    free: bool = False


class SearchResponse(BaseModel):
    """Samples that were found, and how many there are in all."""

    samples: list[FoundSample]
    total: int


class EventMessage(BaseModel):
    """What somebody did, see :func:`ssl_diffusion.annotation.store.people.latest_events`."""

    number: int | None
    at: float
    kind: str
    id: str
    annotator: str
    label: NamedLabel | None
    final: bool
    source: str
    seconds: float | None
    text: str | None


class HistoryResponse(BaseModel):
    """What people did, the latest first; and what is known of every annotator."""

    events: list[EventMessage]
    annotators: list[AnnotatorFacts]
