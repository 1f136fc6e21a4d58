"""A few labeled images of each class, which show what it looks like: those that people chose, or else the surest ones."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.store import class_examples
from ssl_diffusion.annotation.store.state import StoreState

__all__ = ["ExampleImage", "examples_of_classes", "stamp"]

_SHOWN = 3  # images of a class that nobody has chosen


@dataclass(frozen=True)
class ExampleImage:
    """An image of a class.

    Attributes:
        id: Sample id.
        chosen: Whether somebody chose it.
    """

    id: str
    chosen: bool


def examples_of_classes(job: Job, probabilities: NDArray[np.floating] | None = None) -> dict[str, list[ExampleImage]]:
    """Examples by class name, the best first; classes without a labeled image have none.

    Where people chose some, these are all. Otherwise they are up to three labeled images on which nobody disagrees: those with
    the most votes, and among them those of which the model is the surest. Flagged images and the test split are left out.

    Args:
        job: Job of the classes.
        probabilities: Class probabilities of all samples, (N, K); None goes by votes alone.

    Example:
        >>> examples_of_classes(job)["cat"][0].id  # doctest: +SKIP
        'photos/0007.jpg'
    """
    names, ids = job.store.classes, job.store.ids
    with job.store.reading() as connection:
        chosen, agreed = class_examples.chosen_in(connection), class_examples.agreed_in(connection)
    ranked: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
    for position, label, n in agreed:
        for k in label if isinstance(label, tuple) else (label,):
            if k not in chosen:
                known = probabilities is not None and k < probabilities.shape[1]
                ranked[k].append((-n, -float(probabilities[position, k]) if known else 0.0, position))  # type: ignore[index]
    found = {k: [ExampleImage(str(ids[i]), True) for i in positions] for k, positions in chosen.items()}
    found |= {k: [ExampleImage(str(ids[i]), False) for _, _, i in sorted(rows)[:_SHOWN]] for k, rows in ranked.items()}
    in_use = set(job.store.classes_in_use)
    return {names[k]: found[k] for k in sorted(found) if names[k] in in_use}


def stamp(state: StoreState, labels: dict[str, int], model: str) -> str:
    """A word that changes when the examples may have become others, 16 hexadecimal digits.

    Args:
        state: State of the store.
        labels: Number of labels by class name.
        model: Name of the current model.
    """
    few = {name: min(n, _SHOWN) for name, n in labels.items()}
    facts = json.dumps([state.examples, few, model], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
