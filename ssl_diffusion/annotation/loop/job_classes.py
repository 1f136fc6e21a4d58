"""Classes of a job as the page shows and changes them, and their keys of the keyboard.

A class has one key where it can be: its own name if that is a key ("1"), else a digit that is left. With more than ten classes
the others have two: 0 and another one, as in "0a", and where these do not suffice a letter and another one, as in "a1". What
annotators have chosen comes first.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Literal

from ssl_diffusion.annotation.loop.class_targets import check_target
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import class_changes
from ssl_diffusion.errors import DataError
from ssl_diffusion.settings import shown

__all__ = ["RESERVED", "ClassVerb", "assign_keys", "change_class", "check_key", "classes_and_keys"]

ClassVerb = Literal["rename", "merge", "remove", "key", "target"]

RESERVED = "bcdfikmnsuxz"
"""Letters that mean something else on the labeling page."""

_SINGLES, _SECOND = "1234567890", "1234567890" + ascii_lowercase
_FIRST = "0" + "".join(sorted({*ascii_lowercase} - {*RESERVED})) + "987654321"  # 1 to 9 last, since they may be single keys
_KEY = re.compile(r"[0-9a-z]{1,2}")


def classes_and_keys(job: Job) -> tuple[tuple[str, ...], list[str], list[int]]:
    """Names of the classes in use, their keys, see :func:`assign_keys`, and their numbers, which their colors go by.

    Example:
        >>> classes_and_keys(job)  # doctest: +SKIP
        (('cat', 'dog'), ['1', '2'], [0, 1])
    """
    rows = [row for row in class_changes.class_rows(job.store) if row.state is None]
    names = tuple(row.name for row in rows)
    return names, assign_keys(names, {row.name: row.key for row in rows if row.key is not None}), [row.number for row in rows]


def change_class(job: Job, verb: ClassVerb, name: str, to: str, annotator: str) -> None:
    """Rename, merge or remove a class, or choose its key or its target.

    Args:
        job: Job of the class.
        verb: Kind of the change.
        name: Name of the class.
        to: New name, name of the class that it becomes, key, or number of labels that are wanted, 0 for any; "" removes the
            choice of a key or a target.
        annotator: Name of the annotator.

    Raises:
        DataError: If there is no such class, or it cannot be changed so.

    Example:
        >>> change_class(job, "merge", "Zero", "zero", "ada")  # doctest: +SKIP
    """
    store = job.store
    match verb:
        case "rename":
            class_changes.rename(store, name, to, annotator)
        case "merge":
            class_changes.merge(store, name, to, annotator)
        case "remove":
            class_changes.remove(store, name, annotator)
        case "key":
            if to:
                check_key(to, [row.key for row in class_changes.class_rows(store) if row.key and row.name != name])
            class_changes.set_key(store, name, to or None)
        case "target":
            class_changes.set_target(store, name, check_target(to) if to else None)


def assign_keys(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> list[str]:
    """Keys of classes, in their order: one or two for each, none of them the beginning of another.

    Args:
        names: Distinct class names.
        chosen: Keys by class name that annotators have chosen.

    Returns:
        Keys; "" for a class that is only found by its name, which 500 classes never come to unless annotators choose more
        than ten single keys.

    Example:
        >>> assign_keys(["0", "1", "cat"]), assign_keys([f"class {k}" for k in range(47)])[8::12]
        (['0', '1', '2'], ['9', '02', '0n', 'a1'])
    """
    keys: dict[str, str] = {}
    for name, key in ({} if chosen is None else chosen).items():
        if name in names and _is_free(key, {*keys.values()}):
            keys[name] = key
    pairs = [key for key in keys.values() if len(key) > 1]
    paired = len(names) > len(_SINGLES) or bool(pairs)
    firsts = {key[0] for key in keys.values()}
    usable = [key for key in _FIRST if key not in firsts and not (paired and key == "0")]
    own: dict[str, str] = {}
    for name in names:
        if name not in keys and name.lower() in usable:
            own.setdefault(name.lower(), name)
    digits = [key for key in _SINGLES if key in usable and key not in own]
    singles = [*sorted(own, key=str.isalpha), *digits]
    if paired:  # with too many classes fewer have a single key, since each costs as many pairs as there are second keys
        beginnings = len(_FIRST) - (len(keys) - len(pairs))
        spare = beginnings * len(_SECOND) - len(pairs) - (len(names) - len(keys))
        singles = singles[: max(0, spare // (len(_SECOND) - 1))]
    keys |= {own[key]: key for key in singles if key in own}
    free = [key for key in singles if key not in own]
    if paired:
        used = {*keys.values(), *singles}
        free += [one + two for one in _FIRST for two in _SECOND if one not in used and one + two not in used]
    keys |= dict(zip([name for name in names if name not in keys], free, strict=False))
    return [keys.get(name, "") for name in names]


def check_key(key: str, others: Iterable[str]) -> None:
    """Check that a key can be chosen for a class.

    Args:
        key: One or two digits or small letters.
        others: Keys that were chosen for other classes.

    Raises:
        DataError: If it is something else, begins with a letter of another function, or cannot be told from
            the key of another class.
    """
    if not _KEY.fullmatch(key):
        raise DataError(f"{shown(key)} is no shortcut: use one or two digits or small letters")
    if key[0] in RESERVED:
        raise DataError(f"{key[0]!r} has another function on the page: use a digit, or a letter except {', '.join(RESERVED)}")
    if not _is_free(key, set(others)):
        raise DataError(f"{shown(key)} cannot be told from the shortcut of another class: choose another one")


def _is_free(key: str, used: set[str]) -> bool:
    """Whether a key is neither used, nor begins one that is, nor is begun by one."""
    return not any(key.startswith(other) or other.startswith(key) for other in used)
