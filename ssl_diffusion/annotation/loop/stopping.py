"""Whether more labels seem worthwhile: the budget, a forecast, a plateau of the accuracy, predictions that no longer change.

Predictions on a fixed sample of the pool are compared from round to round by Cohen's kappa; if its mean over three rounds is at
least 0.99, they have stabilized (Bloodgood and Vijay-Shanker 2009, "A method for stopping active learning based on stabilizing
predictions"). All of this is advice, given with its figures.
"""

import io
import logging
import os
import time
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.acquisition.forecast import Forecast, forecast
from ssl_diffusion.annotation.loop.accuracy import Estimate
from ssl_diffusion.annotation.loop.class_sets import figure_name, predicted_sets
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.annotation.loop.snapshot import Moment, Snapshot
from ssl_diffusion.errors import DataError, StateError
from ssl_diffusion.storage import atomic_file, atomic_write_text, read_regular

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["advice", "forecast_of", "progress_of", "record"]

_log = logging.getLogger(__name__)
_PROGRESS = "progress.csv"
_COLUMNS = ["round", "at", "model", "labels", "audit_n", "audit_accuracy", "audit_low", "audit_high", "kappa"]
_WATCHED = 2000  # samples whose predictions are compared
_ROUNDS = 3
_STABLE = 0.99  # mean kappa
_PLATEAU = 0.005  # gain in accuracy
_WORTH = 0.005  # gain in accuracy that as many labels again should promise
_SHARP = 0.15  # wider intervals show no plateau
_Z95 = 1.96  # standard errors from the middle to the end of a 95 % interval


def progress_of(job: Job) -> "pd.DataFrame":
    """Measurements before each round: round, at, model, labels, audit_n, audit_accuracy, audit_low, audit_high, kappa."""
    import pandas as pd

    path = job.path / _PROGRESS
    if not os.path.lexists(path):
        return pd.DataFrame(columns=_COLUMNS)
    try:
        table = pd.read_csv(io.BytesIO(read_regular(path)))
        if table.columns.tolist() != _COLUMNS:
            raise ValueError("it has other columns")
        numbers = table.columns.drop("model")
        return table.astype(dict.fromkeys(numbers, np.float64)).astype({"round": np.int64})
    except (StateError, ValueError, OverflowError) as error:
        _log.warning("%s is damaged, and measured anew from the next round on (%s)", path, error)
        return pd.DataFrame(columns=_COLUMNS)


def record(snapshot: Snapshot, number: int, audit: Estimate | None) -> None:
    """Append the measurements before a round to `progress.csv`.

    Args:
        snapshot: The job before the round.
        number: Number of the round.
        audit: Accuracy on the audit set, if known.
    """
    import pandas as pd

    job, model = snapshot.job, snapshot.model
    row = {
        "round": number,
        "at": round(time.time(), 1),
        "model": model.description if model is not None else "",
        "labels": len(snapshot.state.training[0]),
        "kappa": _kappa(snapshot),
    }
    if audit is not None:
        row |= {"audit_n": audit.n, "audit_accuracy": audit.accuracy, "audit_low": audit.low, "audit_high": audit.high}
    before = progress_of(job)
    kept = before[before["round"] < number]
    table = pd.concat([kept, pd.DataFrame([row])], ignore_index=True) if len(kept) else pd.DataFrame([row])
    atomic_write_text(job.path / _PROGRESS, table.reindex(columns=before.columns).to_csv(index=False))


def advice(moment: Moment) -> list[str]:
    """Sentences on whether more labels are worthwhile; none if nothing speaks against them."""
    sentences = []
    budget = moment.job.settings.budget
    if budget:
        left = budget - len(moment.state.training[0])
        sentences.append(
            f"{left} labels of the budget of {budget} are left" if left > 0 else f"the budget of {budget} labels is used up"
        )
    if not os.path.lexists(moment.job.path / _PROGRESS):
        return sentences
    table, figure = progress_of(moment.job), figure_name(moment.job.store.multilabel)
    promised = forecast_of(moment)
    if isinstance(promised, Forecast) and promised.accuracy - float(table["audit_accuracy"].dropna().iloc[-1]) < _WORTH:
        sentences.append(f"the forecast is {promised}: more labels may gain less than half a point")
    kappas = table["kappa"].dropna().tail(_ROUNDS)
    if len(kappas) == _ROUNDS and kappas.mean() >= _STABLE:
        sentences.append(
            f"predictions have stabilized (kappa {kappas.mean():.3f} over {_ROUNDS} rounds): more labels may change little"
        )
    measured = table.dropna(subset=["audit_accuracy"]).tail(_ROUNDS)
    if len(measured) == _ROUNDS:
        accuracy = measured["audit_accuracy"]
        gain = accuracy.iloc[-1] - accuracy.iloc[0]
        low, high = measured["audit_low"].iloc[-1], measured["audit_high"].iloc[-1]
        if gain < _PLATEAU and high - low < _SHARP:
            sentences.append(
                f"{figure} on the audit set changed by {gain:+.1%} in {_ROUNDS} rounds (now {accuracy.iloc[-1]:.1%}, {low:.1%} "
                f"to {high:.1%}): it may have reached its plateau"
            )
    return sentences


def forecast_of(moment: Moment) -> Forecast | str:
    """Accuracy on the audit set with twice the labels, or with what is left of the budget if that is less; or, as a sentence,
    why it cannot be foreseen.

    Args:
        moment: The job at one moment.
    """
    job = moment.job
    if not len(job.store.of_role("audit")):
        return "a forecast needs an audit set, which measures the accuracy, and this job has none"
    table = progress_of(job).dropna(subset=["audit_accuracy", "labels"])
    # Rounds without a new label measure the same again: the last one counts.
    table = table[table["labels"] > 0].drop_duplicates("labels", keep="last")
    table = table[table["labels"] > table["labels"].shift(1, fill_value=0).cummax()]
    n, accuracy = table["labels"].to_numpy(), table["audit_accuracy"].to_numpy()
    more = int(n[-1]) if len(n) else 1
    if job.settings.budget and (left := job.settings.budget - len(moment.state.training[0])) > 0:
        more = min(more, left)
    try:
        wilson = float((table["audit_high"] - table["audit_low"]).iloc[-1]) if len(n) else 0.0
        return forecast(n, accuracy, more, deviation=wilson / (2 * _Z95))
    except DataError as error:
        return str(error)


def _kappa(snapshot: Snapshot) -> float:
    """Agreement of the predictions on the watched samples with those before the last round; NaN the first time."""
    from sklearn.metrics import cohen_kappa_score

    job, classifier = snapshot.job, snapshot.classifier
    if classifier is None:
        return float("nan")
    pool = job.store.of_role("pool")
    watched = np.sort(np.random.default_rng([job.settings.seed, 3]).permutation(pool)[:_WATCHED])
    p = classifier.probabilities(watched)
    now = predicted_sets(p).ravel().astype(np.int64) if classifier.multilabel else p.argmax(axis=1)
    path = job.path / "watched.npy"
    before = _watched_before(path)
    with atomic_file(path) as temporary:
        np.save(temporary, now)
    if before is None or before.shape != now.shape:
        return float("nan")
    if (before == now).all():
        return 1.0  # also with one class only, where kappa is not defined
    return round(float(cohen_kappa_score(before, now)), 4)


def _watched_before(path: Path) -> NDArray[np.int64] | None:
    """Predictions before the last round; None if there are none, or the file is damaged."""
    try:
        found = np.load(io.BytesIO(read_regular(path)), allow_pickle=False)
    except (StateError, ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError):
        return None
    return found if isinstance(found, np.ndarray) and found.dtype == np.int64 else None
