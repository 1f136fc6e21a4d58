"""What makes the pool of a study harder than the data: images of none of the classes, a long tail, annotators who err.

Every trial has a pool of its own, which its seed decides: the images are those of the study, labels and classes differ.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.acquisition.open_pool import NONE_OF_THESE, none_of
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, nearest_names, shown
from ssl_diffusion.inference.class_metrics import figure_of_merit
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import probabilities
from ssl_diffusion.studies.settings import StudySettings

__all__ = ["answers_again", "judged_by", "metrics_of", "round_facts", "tested", "trial_pool"]

_RARE = 1 / 3  # of the classes


def trial_pool(pool: Pool, settings: StudySettings, seed: int) -> Pool:
    """The pool of a trial: what its annotator says of every image, and which images can be asked about.

    Args:
        pool: Pool of the study.
        settings: Settings of the study.
        seed: Seed of the trial.

    Raises:
        DataError: if a foreign class does not exist, or fewer than two classes are left.
    """
    labels, classes = pool.labels, pool.classes
    if settings.foreign:
        labels, classes = _with_foreign(pool, settings.foreign)
    train = np.flatnonzero(pool.has_label & ~pool.is_test)
    if 0 < settings.pool_size < len(train):
        drawn = np.random.default_rng([seed, 6]).permutation(train)
        labels = labels.copy()
        labels[drawn[settings.pool_size :]] = -1
        train = np.sort(drawn[: settings.pool_size])
    if settings.long_tail > 1:
        labels = labels.copy()
        labels[_beyond_the_tail(labels, train, len(classes), none_of(classes), settings.long_tail, seed)] = -1
    if settings.label_noise:
        labels = _with_errors(labels, train, len(classes), settings.label_noise, seed)
    return pool if labels is pool.labels else replace(pool, labels=labels, classes=classes)


def _with_foreign(pool: Pool, foreign: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes in which some classes are none of the others."""
    for name in foreign:
        if name not in pool.classes:
            raise DataError(f"study.foreign: {pool.name!r} has no class {shown(name)}; {nearest_names(name, pool.classes)}")
    kept = tuple(name for name in pool.classes if name not in foreign)
    if len(kept) < 2:
        raise DataError(f"study.foreign leaves {len(kept)} classes of {pool.name!r}: a study needs two or more")
    number = np.array([kept.index(name) if name in kept else len(kept) for name in pool.classes])
    return np.where(pool.labels >= 0, number[pool.labels], -1), (*kept, NONE_OF_THESE)


def _beyond_the_tail(
    labels: NDArray[np.int64], train: NDArray[np.int64], n_classes: int, none: int | None, ratio: float, seed: int
) -> NDArray[np.int64]:
    """Training samples that a long tail does not have; which classes are rare is drawn."""
    rng = np.random.default_rng([seed, 4])
    of_classes = [k for k in rng.permutation(n_classes) if k != none]
    members = {k: rng.permutation(train[labels[train] == k]) for k in of_classes}
    most = min(len(rows) for rows in members.values())
    gone = []
    for rank, k in enumerate(of_classes):
        kept = max(1, round(most * ratio ** (-rank / max(1, len(of_classes) - 1))))
        gone.append(members[k][kept:])
    return np.concatenate(gone)


def _with_errors(
    labels: NDArray[np.int64], train: NDArray[np.int64], n_classes: int, rate: float, seed: int
) -> NDArray[np.int64]:
    """Labels of an annotator who takes some training samples for any of the other classes."""
    rng = np.random.default_rng([seed, 5])
    asked = train[labels[train] >= 0]
    wrong = asked[rng.random(len(asked)) < rate]
    given = labels.copy()
    given[wrong] = (given[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return given


def answers_again(truth: NDArray[np.int64], n_classes: int, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Second answers of the annotator, which err as often as the first, int64 (m,).

    Args:
        truth: Classes of the samples, int64 (m,).
        n_classes: Number of classes, K.
        rate: Probability of an error.
        rng: Random generator.
    """
    wrong = rng.random(len(truth)) < rate
    return np.where(wrong, (truth + rng.integers(1, n_classes, len(truth))) % n_classes, truth)


def tested(pool: Pool) -> NDArray[np.bool_]:
    """Test images that are of a class, bool (n,): on others no classifier of these classes can be right."""
    none = none_of(pool.classes)
    test: NDArray[np.int64] = pool.labels[pool.test]
    return test != none if none is not None else np.ones(len(test), dtype=np.bool_)


def metrics_of(logits: NDArray[np.float32], pool: Pool, tail: bool = False, metric: str = "accuracy") -> dict[str, float]:
    """Figures of merit on the test images that are of a class, between these classes.

    Args:
        logits: Class logits of the test split, float32 (n, K).
        pool: Pool of the trial.
        tail: Whether `macro_accuracy`, the mean over classes of the accuracy, is wanted, too.
        metric: Figure that the study goes by; another than the accuracy is `metric`.
    """
    none, kept = none_of(pool.classes), tested(pool)
    labels, logits = pool.labels[pool.test][kept], logits[kept]
    if none is not None:  # the last class
        logits = logits[:, :none]
    found = classification_metrics(logits, labels)
    if tail:
        right = logits.argmax(axis=1) == labels
        found["macro_accuracy"] = float(np.mean([right[labels == k].mean() for k in np.unique(labels)]))
    if metric != "accuracy":
        found["metric"] = figure_of_merit(metric, probabilities(logits, multilabel=False), labels)
    return found


def judged_by(rounds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rounds of a study whose column `accuracy` is the figure that the study goes by.

    Args:
        rounds: Rounds as trials write them.
        metric: Figure that the study goes by.
    """
    return rounds if metric == "accuracy" else rounds.assign(accuracy=rounds["metric"])


def round_facts(pool: Pool, known: NDArray[np.int64], settings: StudySettings) -> dict[str, int]:
    """Labels so far that say "none of these", and labels of the rarest third of the classes, where a study has such.

    Args:
        pool: Pool of the trial.
        known: Positions of the labels so far, int64 (m,).
        settings: Settings of the study.
    """
    none, labels, facts = none_of(pool.classes), pool.labels[known], {}
    if none is not None:
        facts["foreign"] = int((labels == none).sum())
    if settings.long_tail > 1:
        train = np.flatnonzero(pool.has_label & ~pool.is_test)
        k = len(pool.classes) - (none is not None)
        sizes = np.bincount(pool.labels[train], minlength=len(pool.classes))[:k]
        rare = np.argsort(sizes, kind="stable")[: max(1, round(_RARE * k))]
        facts["rare_labels"] = int(np.isin(labels, rare).sum())
    return facts
