"""A label: one class or, in a multi-label store, a set of classes; by name, by number, and as it lies in a row.

The empty set says that the image has none of the classes, which is another thing than no label.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.settings import shown

__all__ = ["Label", "NamedLabel", "as_array", "followed", "label_in", "named", "numbered", "row_of", "said"]

Label = int | tuple[int, ...]
"""Number of a class or, in a multi-label store, the numbers of a set of classes, increasing."""

NamedLabel = str | tuple[str, ...]
"""Name of a class or, in a multi-label store, the names of a set of classes, in the order of their numbers."""


def numbered(label: str | Iterable[str] | None, numbers: Mapping[str, int], *, multilabel: bool) -> Label:
    """The label that somebody gives.

    Args:
        label: Class name or, in a multi-label store, the names of a set in any order.
        numbers: Numbers of the classes in use, by name.
        multilabel: Whether the store is multi-label.

    Raises:
        DataError: If a class does not exist or is named twice, the label is of the other kind, or there are no classes.
    """
    if not multilabel:
        if label is not None and not isinstance(label, str):
            raise DataError(f"an image of this job has one class, not the set {shown(list(label))}")
        return _number(label, numbers)
    if label is None or isinstance(label, str):
        raise DataError(f"an image of this job has a set of classes: give a list of names, not {shown(label)}")
    names = list(label)
    if not names and not numbers:
        raise DataError("the job has no classes yet, of which an image could have none: add one first")
    if twice := next((name for k, name in enumerate(names) if name in names[:k]), None):
        raise DataError(f"the class {shown(twice)} is named twice for one image: name it once")
    return tuple(sorted(_number(name, numbers) for name in names))


def _number(name: str | None, numbers: Mapping[str, int]) -> int:
    if name is None or name not in numbers:
        raise DataError(f"the job has no class {shown(name)}; {nearest_names(str(name), numbers)}; --add-class adds one")
    return numbers[name]


def named(label: Label | None, names: Sequence[str]) -> NamedLabel | None:
    """A label by name; None for none.

    Args:
        label: The label.
        names: Class names by number.
    """
    return tuple(names[k] for k in label) if isinstance(label, tuple) else None if label is None else names[label]


def said(label: NamedLabel) -> str:
    """A label in words."""
    return label if isinstance(label, str) else ", ".join(label) or "none of the classes"


def row_of(label: Label | None) -> dict[str, Any]:
    """The columns `class` and `classes` of a label."""
    if isinstance(label, tuple):
        return {"class": None, "classes": json.dumps(label)}
    return {"class": label, "classes": None}


def label_in(number: int | None, numbers: str | None) -> Label | None:
    """The label in the columns `class` and `classes`; None for none."""
    return number if numbers is None else tuple(json.loads(numbers))


def followed(label: Label | None, retired: Mapping[int, int | None]) -> Label | None:
    """What a label is after classes were merged or removed; None if its only class was removed.

    Args:
        label: The label as it was given.
        retired: Class that a merged one is now, None for a removed one, by number.
    """
    if isinstance(label, tuple):
        left = {retired.get(k, k) for k in label}
        return tuple(sorted(k for k in left if k is not None))
    return None if label is None else retired.get(label, label)


def as_array(labels: Iterable[Label | None], n_classes: int, *, multilabel: bool) -> NDArray[np.int64]:
    """Class numbers, int64 (n,) or, in a multi-label store, 0/1 for every class that the job ever had, int64 (n, K).

    Args:
        labels: Labels, n of them.
        n_classes: Number of classes, K.
        multilabel: Whether the store is multi-label.
    """
    if not multilabel:
        return np.array(list(labels), dtype=np.int64)
    sets = [label for label in labels if isinstance(label, tuple)]
    found = np.zeros((len(sets), n_classes), dtype=np.int64)
    for row, numbers in enumerate(sets):
        found[row, list(numbers)] = 1
    return found
