"""Search among the samples of a job: words of their ids, and conditions such as `class:cat`, `p<0.6` or `is:flagged`."""

import re
import shlex
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select

from ssl_diffusion.annotation.loop.class_sets import predicted_sets
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.pool_view import PoolView
from ssl_diffusion.annotation.store import schema
from ssl_diffusion.annotation.store.pool_rows import STATUSES, PoolRows, read_rows
from ssl_diffusion.errors import DataError, nearest_names
from ssl_diffusion.settings import shown

__all__ = ["FIELDS", "search"]

FIELDS = {
    "class": "label of the sample, or a class of its set",
    "predicted": "predicted class",
    "by": "annotator who has a vote on it",
    "round": "number of the last round that asked for it",
    "is": f"{', '.join(STATUSES)}, flagged, commented, wrong (predicted otherwise) or suspicious",
    "issue": "kind of a doubt that nobody has settled",
    "like": "id of a sample: the most similar ones first",
}
_PROBABILITY = re.compile(r"p(<=|>=|<|>)([0-9.]+)(%?)")


@dataclass(frozen=True)
class _Terms:
    words: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]
    bounds: tuple[tuple[str, float], ...]


def search(job: Job, view: PoolView, text: str, *, blind: bool = False) -> NDArray[np.int64]:
    """Positions of the samples that fit, (n,).

    They are in the order of the job, the least sure first if a probability is asked for, or the most similar first. Conditions
    on predictions never find samples whose labels measure the model, so that nothing can be learned of them.

    Args:
        job: Job of the samples.
        view: The pool as the model sees it.
        text: Words and conditions, all of which have to hold; names with spaces in quotes: `class:"T shirt" p<0.6`.
        blind: Whether conditions on predictions are refused.

    Raises:
        DataError: If a condition, a class or a sample does not exist.

    Example:
        >>> search(job, bench.pool, "predicted:seven p<0.6 is:open")  # doctest: +SKIP
    """
    terms = _parsed(text)
    asks = bool(terms.bounds) or any(key == "predicted" or (key, value) == ("is", "wrong") for key, value in terms.conditions)
    if asks and blind:
        raise DataError("predictions are hidden on a blind page: search by id, class, annotator, round or status")
    rows = read_rows(job.store)
    found = view.predictions() if asks else None
    keep = np.ones(len(rows.status), dtype=np.bool_)
    if asks:
        keep &= np.isin(np.arange(len(keep)), job.store.of_role("pool"))
        if found is None:
            raise DataError("no class is predicted yet: label samples of two classes first")
    for word in terms.words:
        keep &= np.char.find(np.char.lower(job.store.ids), word.lower()) >= 0
    like = None
    for key, value in terms.conditions:
        if key == "like":
            (like,) = job.store.positions([value]).tolist()
        else:
            keep &= _holds(job, view, key, value, rows, found)
    if found is not None:
        for sign, bound in terms.bounds:
            compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[sign]
            keep &= compare(found[1], bound)
    positions = np.flatnonzero(keep)
    if like is not None:
        return view.nearest(like, positions, len(positions))
    if terms.bounds and found is not None:
        return positions[np.argsort(found[1][positions], kind="stable")]
    return positions


def _parsed(text: str) -> _Terms:
    try:
        parts = shlex.split(text)
    except ValueError:
        raise DataError(f"{shown(text)} has a quote that is not closed") from None
    words, conditions, bounds = [], [], []
    for part in parts:
        key, colon, value = part.partition(":")
        if (bound := _PROBABILITY.fullmatch(part)) is not None:
            bounds.append((bound[1], _number(bound[2]) / (100 if bound[3] else 1)))
        elif colon and key in FIELDS:
            conditions.append((key, value))
        elif colon and key.isalpha() and not value.startswith("/"):
            raise DataError(f"nothing can be searched by {shown(key)}; {nearest_names(key, FIELDS)}, or p<0.6")
        else:
            words.append(part)
    return _Terms(tuple(words), tuple(conditions), tuple(bounds))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{shown(text)} is no probability: write p<0.6 or p>90%") from None


def _holds(
    job: Job,
    view: PoolView,
    key: str,
    value: str,
    rows: PoolRows,
    found: "tuple[NDArray[np.int64], NDArray[np.float32]] | None",
) -> NDArray[np.bool_]:
    result: NDArray[np.bool_]
    match key:
        case "class":
            result = _labeled(job, rows, _class(job, value))
        case "predicted":
            assert found is not None
            result = found[0] == _class(job, value)
            if job.store.multilabel and (p := view.probabilities()) is not None:
                result = predicted_sets(p)[:, _class(job, value)]
        case "round":
            if not value.isdecimal():
                raise DataError(f"{shown(value)} is no number of a round")
            result = rows.round == int(value)
        case "by":
            result = _of(job, select(schema.votes.c.position).where(schema.votes.c.annotator == value))
        case "issue":
            doubts = schema.review.c
            result = _of(job, select(doubts.position).where(doubts.decided.is_(None), doubts.kind == value))
        case _:
            result = _state(job, view, value, rows, found)
    return result


def _labeled(job: Job, rows: PoolRows, number: int) -> NDArray[np.bool_]:
    """Which samples have a class as their label, or in it."""
    if not job.store.multilabel:
        return np.asarray(rows.label == number)
    having = np.zeros(len(rows.label), dtype=np.bool_)
    having[[position for position, numbers in rows.sets.items() if number in numbers]] = True
    return having


def _state(
    job: Job, view: PoolView, value: str, rows: PoolRows, found: "tuple[NDArray[np.int64], NDArray[np.float32]] | None"
) -> NDArray[np.bool_]:
    if value in STATUSES:
        return rows.has_status(value)
    match value:
        case "flagged":
            return rows.flagged
        case "commented":
            return _of(job, select(schema.events.c.position).where(schema.events.c.kind == "commented"))
        case "suspicious":
            return _of(job, select(schema.review.c.position).where(schema.review.c.decided.is_(None)))
        case "wrong":
            assert found is not None
            if job.store.multilabel and (p := view.probabilities()) is not None:
                return _wrong_sets(rows, predicted_sets(p))
            result: NDArray[np.bool_] = (rows.label >= 0) & (rows.label != found[0])
            return result
    raise DataError(
        f"no sample is {shown(value)}; {nearest_names(value, [*STATUSES, 'flagged', 'commented', 'suspicious', 'wrong'])}"
    )


def _wrong_sets(rows: PoolRows, predicted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which labeled samples have another set than the predicted one."""
    wrong = np.zeros(len(predicted), dtype=np.bool_)
    for position, numbers in rows.sets.items():
        wrong[position] = tuple(np.flatnonzero(predicted[position]).tolist()) != numbers
    return wrong


def _of(job: Job, query: "Select[tuple[int]]") -> NDArray[np.bool_]:
    chosen = np.zeros(len(job.store.ids), dtype=np.bool_)
    with job.store.reading() as connection:
        chosen[list(connection.execute(query).scalars())] = True
    return chosen


def _class(job: Job, name: str) -> int:
    in_use = job.store.classes_in_use
    if name not in in_use:
        raise DataError(f"the job has no class {shown(name)}; {nearest_names(name, in_use)}")
    return job.store.classes.index(name)
