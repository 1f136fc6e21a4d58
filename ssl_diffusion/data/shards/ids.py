"""Sample ids of shards by their hashes: eight bytes each, whatever their length."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.shards.base import Shard
from ssl_diffusion.errors import DataError, nearest_names

__all__ = ["check_distinct", "hash_ids", "meant_ids"]

_HASH_KEY = "ssld-ids-by-hash"  # of pandas, which wants 16 characters
_LISTED = 3
_LIKE = 1000  # ids among which a misspelled one is looked for


def hash_ids(ids: NDArray[np.str_]) -> NDArray[np.uint64]:
    """Hashes of sample ids, uint64 (n,), the same on every machine.

    Example:
        >>> len(hash_ids(np.array(["a", "b"])))
        2
    """
    import pandas as pd

    hashes: NDArray[np.uint64] = pd.util.hash_array(ids.astype(object), hash_key=_HASH_KEY, categorize=False)
    return hashes


def meant_ids(sample: str, ids: Sequence[str]) -> str:
    """Say which ids are meant by one that is unknown: those of the same file name in another folder or with another ending.

    Args:
        sample: Id that is unknown.
        ids: Ids that there are.

    Example:
        >>> meant_ids("photos/Cat7.JPG", ["cat/cat7.png", "cat/cat71.png"])
        "did you mean 'cat/cat7.png'?"
    """
    name = _file_stem(sample)
    same = [each for each in ids if name in each.casefold() and _file_stem(each) == name] if name else []
    if not same:
        return nearest_names(sample, ids[:_LIKE])
    more = f", or {len(same) - _LISTED:,} others of that name" if len(same) > _LISTED else ""
    return f"did you mean {' or '.join(map(repr, same[:_LISTED]))}{more}?"


def _file_stem(sample: str) -> str:
    return PurePosixPath(sample.strip().replace("\\", "/")).name.partition(".")[0].casefold()


def check_distinct(shards: Sequence[Shard], ids_of: Callable[[int], NDArray[np.str_]]) -> None:
    """Raise :class:`DataError` if an id occurs twice, naming both places; holds eight bytes an image.

    Args:
        shards: Shards.
        ids_of: Function that gives the sample ids of a shard by its number.
    """
    hashes = np.concatenate([hash_ids(ids_of(i)) for i in range(len(shards))])
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    starts = np.cumsum([0, *map(len, shards)])

    def at(position: int) -> tuple[str, str]:
        i = int(np.searchsorted(starts, position, side="right")) - 1
        row = position - int(starts[i])
        return str(ids_of(i)[row]), f"{shards[i].place.name}, row {row}"

    for k in alike.tolist():
        (one, place), (other, second) = at(int(order[k])), at(int(order[k + 1]))
        if one == other:
            raise DataError(f"sample ids must be distinct over all shards; {one!r} is at {place} and at {second}: rename one")
