"""One trial: a strategy, a seed and a way to refit, from the starting set to the largest budget; and its folder.

The folder is written atomically when the trial is complete. A trial that failed leaves its traceback there instead.
"""

import io
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.acquisition.adapters.from_activeml import foreign_strategy, is_foreign
from ssl_diffusion.acquisition.names import strategy_for
from ssl_diffusion.acquisition.open_pool import none_of
from ssl_diffusion.acquisition.query import choose
from ssl_diffusion.acquisition.registry import Choice, Strategy
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, RunError, StateError
from ssl_diffusion.storage import atomic_folder, atomic_write_text, read_regular, verify_checksums, write_checksums
from ssl_diffusion.studies.learners import Learner, ProbeRefits, Shared, blind_candidates, learner_of
from ssl_diffusion.studies.oracle import ORACLE, oracle_choice
from ssl_diffusion.studies.scenario import answers_again, metrics_of, round_facts, tested, trial_pool
from ssl_diffusion.studies.settings import StudySettings

__all__ = ["Trial", "TrialResult", "run_trial", "trials_of"]

_log = logging.getLogger(__name__)
_TABLES = ("rounds.csv", "picks.csv")
_ROUNDS = ("refit", "strategy", "seed", "n_labeled", "accuracy", "nll", "ece", "missing_classes", "balance", "used")
_PICKS = ("refit", "strategy", "seed", "n_labeled", "rank", "id", "label", "utility", "selection_probability")
_FIGURES = ("accuracy", "nll", "ece", "balance", "train_seconds", "query_seconds")


@dataclass(frozen=True, order=True)
class Trial:
    """What is run: see :class:`StudySettings`."""

    refit: str
    strategy: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"{self.refit}-{self.strategy.replace(':', '+')}-s{self.seed}"


@dataclass(frozen=True)
class TrialResult:
    """What came out.

    Attributes:
        rounds: one row a budget: refit, strategy, seed, n_labeled, accuracy, nll, ece, missing_classes, balance (entropy of
            the classes of all labels so far over that of equal shares, in [0, 1]), train_seconds, query_seconds, used (the
            strategy that chose the labels added in this round); with foreign classes also foreign (labels so far that say "none
            of these"), with a long tail macro_accuracy and rare_labels (of the rarest third of the classes), with errors
            asked_again (labels so far that were asked for twice).
        picks: one row a label in order of choice: refit, strategy, seed, n_labeled, rank, id, label, utility,
            selection_probability.
    """

    rounds: pd.DataFrame
    picks: pd.DataFrame

    def save(self, folder: Path) -> None:
        """Write the folder of the trial, atomically."""
        with atomic_folder(folder, discard=shutil.rmtree) as temporary:
            self.rounds.to_csv(temporary / "rounds.csv", index=False)
            self.picks.to_csv(temporary / "picks.csv", index=False)
            write_checksums(temporary, *_TABLES)

    @classmethod
    def load(cls, folder: Path, trial: Trial, budgets: tuple[int, ...]) -> "TrialResult | None":
        """What a folder holds; None if it is not complete, or damaged, which is logged as a warning."""
        if not any(os.path.lexists(folder / name) for name in _TABLES):
            return None
        try:
            verify_checksums(folder, *_TABLES)
            first, second = (io.BytesIO(read_regular(folder / name)) for name in _TABLES)
            rounds = pd.read_csv(first, dtype={"refit": str, "strategy": str, "used": str, **dict.fromkeys(_FIGURES, float)})
            # A sample or a class may be called "NA".
            missing = {name: ["", "nan"] for name in ("utility", "selection_probability")}
            picks = pd.read_csv(second, dtype={"id": str, "label": str}, keep_default_na=False, na_values=missing)
            for table, columns in ((rounds, _ROUNDS), (picks, _PICKS)):
                if absent := [name for name in columns if name not in table.columns]:
                    raise ValueError(f"it has no column {absent[0]!r}")
            whole = (
                rounds["n_labeled"].tolist() == list(budgets)
                and len(picks) == budgets[-1] - (int(rounds["asked_again"].iloc[-1]) if "asked_again" in rounds else 0)
                and not picks["id"].duplicated().any()
                and set(zip(rounds["refit"], rounds["strategy"], rounds["seed"], strict=True))
                == {(trial.refit, trial.strategy, trial.seed)}
            )
        except (StateError, ValueError, KeyError, TypeError, OverflowError) as error:
            reason = str(error) if isinstance(error, StateError) else f"{folder} is damaged ({error})"
            _log.warning("a trial counts as missing until the study is resumed: %s", reason)
            return None
        return cls(rounds, picks) if whole else None


def save_failure(folder: Path, trial: Trial, traceback: str) -> None:
    """Keep the traceback of a trial that failed.

    Raises:
        RunError: if it cannot be written, as on a full disk; the traceback's last line is in the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        last = traceback.strip().splitlines()[-1]
        raise RunError(f"cannot write {folder} ({error}); the trial had failed: {last}") from error
    facts = {"refit": trial.refit, "strategy": trial.strategy, "seed": trial.seed, "traceback": traceback}
    atomic_write_text(folder / "error.json", json.dumps(facts, indent=2) + "\n")


def trials_of(settings: StudySettings) -> list[Trial]:
    """All trials, cheap ways to refit first, and all strategies of a seed before the next seed: a study that is stopped can be
    reported with the seeds that are there."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    return [Trial(refit, strategy, seed) for refit in settings.refits for seed in seeds for strategy in settings.strategies]


def run_trial(trial: Trial, settings: StudySettings, shared: Shared) -> TrialResult:
    """Run a trial; the same trial gives the same result, whatever ran before it."""
    study_pool = shared.pool
    pool = trial_pool(study_pool, settings, trial.seed)
    shared = replace(shared, pool=pool)
    none = none_of(pool.classes)
    eligible = eligible_positions(pool)
    eligible = eligible[np.argsort(pool.ids[eligible], kind="stable")]
    learner: Learner | None = None
    known = np.zeros(0, dtype=np.int64)
    rounds: list[dict[str, Any]] = []
    picks: list[dict[str, Any]] = []
    key = {"refit": trial.refit, "strategy": trial.strategy, "seed": trial.seed}
    truth = trial_pool(study_pool, settings.replace(label_noise=0.0), trial.seed).labels
    asked_again = np.zeros(len(pool), dtype=np.bool_)
    for number, budget in enumerate(settings.budgets):
        open_ = np.setdiff1d(eligible, known)
        open_ = open_[np.argsort(pool.ids[open_], kind="stable")]
        # All strategies of a seed draw from the same stream, so that those without labels start alike.
        rng = np.random.default_rng([trial.seed, number])
        began = time.perf_counter()
        choice, used = _choose(trial, settings, shared, learner, open_, known, asked_again, budget, rng)
        query_seconds = time.perf_counter() - began
        chosen = open_[choice.picks]
        picks += _pick_rows(pool, chosen, choice, key | {"n_labeled": budget})
        twice = known[choice.again]
        if len(twice):
            pool.labels[twice] = answers_again(truth[twice], len(pool.classes), settings.label_noise, rng)
            asked_again[twice] = True
        known = np.concatenate([known, chosen])
        if learner is None:
            learner = learner_of(trial.refit, shared, settings, trial.seed)
        began = time.perf_counter()
        learner.fit(known)
        train_seconds = time.perf_counter() - began
        counts = np.delete(np.bincount(pool.labels[known], minlength=len(pool.classes)), [] if none is None else none)
        rounds.append(
            {
                **key,
                "n_labeled": budget,
                **metrics_of(learner.logits(), pool, settings.long_tail > 1, settings.recipe.training.metric),
                "missing_classes": int((counts == 0).sum()),
                "balance": balance(counts),
                "train_seconds": round(train_seconds, 3),
                "query_seconds": round(query_seconds, 3),
                "used": used,
                **round_facts(pool, known, settings),
                **({"asked_again": int(asked_again.sum())} if settings.label_noise else {}),
            }
        )
    return TrialResult(pd.DataFrame(rounds), pd.DataFrame(picks))


def eligible_positions(pool: Pool) -> NDArray[np.int64]:
    """Training samples whose label is known, so that it can be revealed.

    Raises:
        DataError: if the pool cannot be studied: several labels an image, or no labeled test image.
    """
    if pool.multilabel:
        raise DataError("studies are for data with one label an image")
    if not len(pool.test) or not pool.has_label[pool.test].all():
        raise DataError(f"a study needs a test split with labels, and {pool.name!r} has none: use --test-fraction")
    return np.flatnonzero(pool.has_label & ~pool.is_test)


def balance(counts: NDArray[np.int64]) -> float:
    """Entropy of class counts over that of equal counts: 1 is balanced, 0 is one class only."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum() / np.log(max(2, len(counts)))) + 0.0


def _choose(
    trial: Trial,
    settings: StudySettings,
    shared: Shared,
    learner: Learner | None,
    open_: NDArray[np.int64],
    known: NDArray[np.int64],
    asked_again: NDArray[np.bool_],
    budget: int,
    rng: np.random.Generator,
) -> tuple[Choice, str]:
    """The next labels, and the strategy that chose them."""
    n = budget - len(known) - int(asked_again.sum())
    if trial.strategy == ORACLE:
        test_labels = shared.pool.labels[shared.pool.test][tested(shared.pool)]
        return oracle_choice(ProbeRefits(shared, learner, known, trial.seed), open_, known, test_labels, n, rng)
    if learner is not None:
        none = none_of(shared.pool.classes)
        of_classes = int((shared.pool.labels[known] != none).sum()) if none is not None else len(known)
        strategy = _strategy(trial.strategy, of_classes, len(shared.pool.classes) - (none is not None), shared)
        candidates = learner.candidates(open_, known, rng)
        if settings.label_noise:
            candidates = replace(candidates, asked_again=asked_again[known])
        return choose(strategy, candidates, n), strategy.name
    strategy = _strategy(trial.strategy, 0, 0, shared)
    if strategy.needs != "images" or not settings.cold_start:
        strategy = _strategy("random", 0, 0, shared)
    return choose(strategy, blind_candidates(shared, open_, known, rng), n), strategy.name


def _strategy(name: str, n_labeled: int, n_classes: int, shared: Shared) -> Strategy:
    return foreign_strategy(name) if is_foreign(name) else strategy_for(name, n_labeled, n_classes, shared.frozen.model)[0]


def _pick_rows(pool: Pool, chosen: NDArray[np.int64], choice: Choice, key: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **key,
            "rank": rank + 1,
            "id": str(pool.ids[at]),
            "label": pool.classes[int(pool.labels[at])],
            "utility": float(choice.utilities[pick]),
            "selection_probability": float(choice.probabilities[rank]),
        }
        for rank, (at, pick) in enumerate(zip(chosen, choice.picks, strict=True))
    ]
