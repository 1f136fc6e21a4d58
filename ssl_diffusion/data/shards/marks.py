"""What is remembered of shards that were read, to know them again, and to say which are others now."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["ShardMark", "changed_shards"]

_SHOWN = 3  # names in a message


class ShardMark(NamedTuple):
    """What is remembered of a shard that was read, to know it again.

    Attributes:
        name: Path or URL for messages.
        digest: Digest of its content, hex.
        images: Number of images.
    """

    name: str
    digest: str
    images: int

    @property
    def file(self) -> str:
        """Name of the file without its folder."""
        return self.name.rpartition("/")[2]


def changed_shards(before: Sequence[ShardMark], now: Sequence[ShardMark]) -> list[str]:
    """Differences between shards as they were and as they are, a phrase each; empty if there are none.

    Shards with the same digest are the same wherever they lie. Those without a match are compared by the names of their files.

    Args:
        before: Marks of the shards as they were.
        now: Marks of the shards as they are.

    Example:
        >>> changed_shards([ShardMark("s/0.tar", "a", 9)], [ShardMark("t/0.tar", "b", 9)])
        ['1 of 1 shards has another content: t/0.tar']
    """
    if [mark.digest for mark in before] == [mark.digest for mark in now]:
        return []
    lost = {mark.file: mark for mark in _without(before, now)}
    new = {mark.file: mark for mark in _without(now, before)}
    phrases = []
    for names, one, many in (
        ([new[file].name for file in lost if file in new], "has another content", "have another content"),
        ([mark.name for file, mark in lost.items() if file not in new], "is gone", "are gone"),
        ([mark.name for file, mark in new.items() if file not in lost], "is new", "are new"),
    ):
        if names:
            shown = ", ".join(names[:_SHOWN]) + (" ..." if names[_SHOWN:] else "")
            phrases.append(f"{len(names)} of {len(before)} shards {one if len(names) == 1 else many}: {shown}")
    return phrases or ["the shards have another order"]


def _without(some: Sequence[ShardMark], others: Sequence[ShardMark]) -> list[ShardMark]:
    """Shards whose content the others do not have, or not as often."""
    left, found = Counter(mark.digest for mark in others), []
    there = {(mark.file, mark.digest) for mark in others}
    for mark in sorted(some, key=lambda mark: (mark.file, mark.digest) not in there):  # of copies, those that stayed come first
        if not left[mark.digest]:
            found.append(mark)
        left[mark.digest] -= bool(left[mark.digest])
    return found
