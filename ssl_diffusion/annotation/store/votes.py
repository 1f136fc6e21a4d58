"""Status of a sample from its votes, and the view rebuilt from the events."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ssl_diffusion.annotation.store.labels import Label, followed, label_in

__all__ = ["FLAGS", "KINDS", "VOTE_KINDS", "Status", "Vote", "replay", "status_of"]

# Kind of an event: what it does to the annotator's vote.
KINDS = {
    "queried": "nothing: the sample was chosen for a round",
    "shown": "nothing: the annotator was shown the sample",
    "labeled": "sets it",
    "corrected": "replaces it",
    "skipped": "sets it to no class",
    "dropped": "sets it to no class, for all annotators",
    "un-labeled": "withdraws it",
    "flagged": "nothing: the sample is marked for a second look",
    "un-flagged": "nothing: the mark is removed",
    "kept": "nothing: the label was looked at again, and is right",
    "un-kept": "nothing: that is withdrawn",
    "commented": "nothing: the annotator said something",
}
VOTE_KINDS = ("labeled", "corrected", "skipped", "dropped")  # events that set a vote
FLAGS = {"flagged": True, "un-flagged": False, "kept": False, "dropped": False}  # events that set or remove the flag


@dataclass(frozen=True)
class Vote:
    """Vote of one annotator on a sample: a label by number, or None for a skip; a final vote overrides all others.

    A final vote for no class drops the sample.
    """

    label: Label | None
    final: bool = False


@dataclass(frozen=True)
class Status:
    """Status of a sample.

    Attributes:
        status: "open" (no vote), "partial" (fewer votes than required), "labeled", "disputed" (enough votes, but a tie), or
            "skipped" (as many skips as votes are required, or dropped).
        label: Label of a labeled sample by number, else None.
        votes: Number of votes that are no skip.
    """

    status: str = "open"
    label: Label | None = None
    votes: int = 0


def status_of(votes: Iterable[Vote], wanted: int) -> Status:
    """Status by majority once enough annotators have voted; the last final vote decides alone.

    Args:
        votes: Votes of all annotators, oldest first.
        wanted: Number of votes required.
    """
    votes = list(votes)
    named = [vote.label for vote in votes if vote.label is not None]
    decided = [vote.label for vote in votes if vote.final]
    if decided:
        return Status("labeled" if decided[-1] is not None else "skipped", decided[-1], len(named))
    if len(named) >= wanted:
        (label, most), *others = Counter(named).most_common()
        if others and others[0][1] == most:
            return Status("disputed", None, len(named))
        return Status("labeled", label, len(named))
    if len(votes) - len(named) >= wanted:
        return Status("skipped", None, len(named))
    return Status("partial" if votes else "open", None, len(named))


def replay(
    events: Iterable[Mapping[str, Any]], wanted: Mapping[int, int], retired: Mapping[int, int | None] | None = None
) -> dict[int, tuple[Status, bool, dict[str, Vote]]]:
    """Rebuild the view from events.

    Args:
        events: Rows of the table `events`, oldest first.
        wanted: Number of votes required, by position.
        retired: Fate of classes that are no longer in use, by number: the class that one was merged into, None for one that was
            removed. Of a set the others stay.

    Returns:
        Status, flag, and votes by annotator (oldest first) of every sample with an event, by position.
    """
    votes: dict[int, dict[str, Vote]] = {}
    flagged: dict[int, bool] = {}
    for row in events:
        position, kind = row["position"], row["kind"]
        own = votes.setdefault(position, {})
        if kind in (*VOTE_KINDS, "un-labeled"):
            own.pop(row["annotator"], None)  # a vote that is set again counts as the latest
        if kind in ("labeled", "corrected"):
            label = followed(label_in(row["class"], row["classes"]), retired or {})
            if label is not None:
                own[row["annotator"]] = Vote(label, bool(row["final"]))
        elif kind in ("skipped", "dropped"):
            own[row["annotator"]] = Vote(None, kind == "dropped")
        if kind in FLAGS:
            flagged[position] = FLAGS[kind]
    return {
        position: (status_of(own.values(), wanted[position]), flagged.get(position, False), own)
        for position, own in votes.items()
    }
