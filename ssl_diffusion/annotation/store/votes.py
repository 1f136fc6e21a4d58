"""How a sample stands, from what happened to it: the rules of agreement, and the view made again from the events."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Status", "Vote", "replay", "status_of"]

# kind: what it does to the annotator's vote
KINDS = {
    "queried": "nothing: the sample was chosen to be labeled",
    "shown": "nothing: the annotator was given the sample",
    "labeled": "sets it",
    "corrected": "replaces it",
    "skipped": "sets it to no class",
    "un-labeled": "takes it back",
    "flagged": "nothing: the sample is marked for a second look",
    "un-flagged": "nothing: the mark is taken back",
}


@dataclass(frozen=True)
class Vote:
    """What one annotator says of a sample: a class number, None for a skip; final decides against all others."""

    label: int | None
    final: bool = False


@dataclass(frozen=True)
class Status:
    """How a sample stands.

    Attributes:
        status: "open" (nobody has said anything), "partial" (fewer votes than asked for), "labeled", "disputed" (as many votes
            as asked for, and a tie), or "skipped" (as many skips as votes were asked for).
        label: class number, where it is labeled.
        votes: classes that were named.
    """

    status: str = "open"
    label: int | None = None
    votes: int = 0


def status_of(votes: Iterable[Vote], wanted: int) -> Status:
    """Majority of the votes once there are as many as asked for; the last final one decides alone.

    Args:
        votes: of all annotators, in order of time.
        wanted: how many are asked for.
    """
    votes = list(votes)
    named = [vote.label for vote in votes if vote.label is not None]
    decided = [vote.label for vote in votes if vote.final and vote.label is not None]
    if decided:
        return Status("labeled", decided[-1], len(named))
    if len(named) >= wanted:
        (label, most), *others = Counter(named).most_common()
        if others and others[0][1] == most:
            return Status("disputed", None, len(named))
        return Status("labeled", label, len(named))
    if len(votes) - len(named) >= wanted:
        return Status("skipped", None, len(named))
    return Status("partial" if votes else "open", None, len(named))


def replay(events: Iterable[Mapping[str, Any]], wanted: Mapping[int, int]) -> dict[int, tuple[Status, bool, dict[str, Vote]]]:
    """How every sample stands after these events, and whether it is flagged, and its votes by annotator.

    Args:
        events: rows of the table, in order.
        wanted: votes asked for, by position.
    """
    votes: dict[int, dict[str, Vote]] = {}
    flagged: dict[int, bool] = {}
    for row in events:
        position, kind = row["position"], row["kind"]
        own = votes.setdefault(position, {})
        if kind in ("labeled", "corrected", "skipped", "un-labeled"):
            own.pop(row["annotator"], None)  # a vote that is set again is the latest
        if kind in ("labeled", "corrected"):
            own[row["annotator"]] = Vote(row["class"], bool(row["final"]))
        elif kind == "skipped":
            own[row["annotator"]] = Vote(None)
        elif kind in ("flagged", "un-flagged"):
            flagged[position] = kind == "flagged"
    return {
        position: (status_of(own.values(), wanted[position]), flagged.get(position, False), own)
        for position, own in votes.items()
    }
