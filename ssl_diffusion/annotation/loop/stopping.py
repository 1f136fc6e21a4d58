"""Whether more labels seem worth it: a budget, a plateau of the measured accuracy, predictions that no longer change.

Predictions on a fixed sample of the pool are compared from round to round by Cohen's kappa; where its mean over three rounds is
at least 0.99 they have settled (Bloodgood and Vijay-Shanker 2009, "A method for stopping active learning based on stabilizing
predictions"). All of this is advice, said with its figures.
"""

import time

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from ssl_diffusion.annotation.loop.accuracy import Estimate
from ssl_diffusion.annotation.loop.current_model import Classifier
from ssl_diffusion.annotation.loop.job import Job
from ssl_diffusion.storage import atomic_write_text

__all__ = ["advice", "progress_of", "record"]

_WATCHED = 2000  # samples
_ROUNDS = 3
_SETTLED = 0.99
_PLATEAU = 0.005
_SHARP = 0.15  # wider intervals show no plateau


def progress_of(job: Job) -> pd.DataFrame:
    """What was measured before every round: round, at, model, labels, audit_n, audit_accuracy, audit_low, audit_high, kappa."""
    path = job.path / "progress.csv"
    columns = ["round", "at", "model", "labels", "audit_n", "audit_accuracy", "audit_low", "audit_high", "kappa"]
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def record(job: Job, number: int, model: str, n_labels: int, classifier: Classifier | None, audit: Estimate | None) -> None:
    """Write down how things stand before a round."""
    row = {"round": number, "at": round(time.time(), 1), "model": model, "labels": n_labels, "kappa": _kappa(job, classifier)}
    if audit is not None:
        row |= {"audit_n": audit.n, "audit_accuracy": audit.accuracy, "audit_low": audit.low, "audit_high": audit.high}
    before = progress_of(job)
    kept = before[before["round"] < number]
    table = pd.concat([kept, pd.DataFrame([row])], ignore_index=True) if len(kept) else pd.DataFrame([row])
    atomic_write_text(job.path / "progress.csv", table.reindex(columns=before.columns).to_csv(index=False))


def advice(job: Job, n_labels: int) -> list[str]:
    """Sentences on whether more labels are worth it; none if nothing speaks against them."""
    said = []
    budget, table = job.settings.budget, progress_of(job)
    if budget:
        left = budget - n_labels
        said.append(
            f"{left} labels of the budget of {budget} are left" if left > 0 else f"the budget of {budget} labels is used up"
        )
    kappas = table["kappa"].dropna().tail(_ROUNDS)
    if len(kappas) == _ROUNDS and kappas.mean() >= _SETTLED:
        said.append(
            f"predictions have settled (kappa {kappas.mean():.3f} over {_ROUNDS} rounds): more labels may change little"
        )
    measured = table.dropna(subset=["audit_accuracy"]).tail(_ROUNDS)
    if len(measured) == _ROUNDS:
        accuracy = measured["audit_accuracy"]
        gain = accuracy.iloc[-1] - accuracy.iloc[0]
        low, high = measured["audit_low"].iloc[-1], measured["audit_high"].iloc[-1]
        if gain < _PLATEAU and high - low < _SHARP:
            said.append(
                f"the audit's accuracy has gained {gain:+.1%} in {_ROUNDS} rounds (now {accuracy.iloc[-1]:.1%}, {low:.1%} to "
                f"{high:.1%}): it may have reached its plateau"
            )
    return said


def _kappa(job: Job, classifier: Classifier | None) -> float:
    """Agreement of the predictions on the watched samples with those of the last time; NaN the first time."""
    if classifier is None:
        return float("nan")
    pool = job.store.of_role("pool")
    watched = np.sort(np.random.default_rng([job.settings.seed, 3]).permutation(pool)[:_WATCHED])
    now = classifier.probabilities(watched).argmax(axis=1)
    path = job.path / "watched.npy"
    before = np.load(path) if path.exists() else None
    np.save(path, now)
    if before is None or len(before) != len(now):
        return float("nan")
    if (before == now).all():
        return 1.0  # also with one class only, where kappa is not defined
    return round(float(cohen_kappa_score(before, now)), 4)
