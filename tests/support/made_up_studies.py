"""Studies whose accuracies are made up, for what is made of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.studies import StudyFolder, StudySettings
from ssl_diffusion.studies.trial import Trial, TrialResult, trials_of
from ssl_diffusion.training.recipe import Recipe

__all__ = ["ACCURACY", "BUDGETS", "made_up_study"]

ACCURACY = {"random": (0.5, 0.6, 0.7), "margin": (0.6, 0.7, 0.8), "entropy": (0.5, 0.6, 0.7)}
BUDGETS = (10, 20, 40)


def _made_up(trial: Trial, pool: Pool) -> TrialResult:
    """A trial whose accuracy is known: margin is ten points above random, entropy the same but for noise."""
    rng = np.random.default_rng([trial.seed, len(trial.strategy)])
    key = {"refit": trial.refit, "strategy": trial.strategy, "seed": trial.seed}
    fixed = {"nll": 1.0, "ece": 0.1, "missing_classes": 0, "balance": 0.9, "train_seconds": 0.1, "query_seconds": 0.2}
    noise = 0.01 * rng.standard_normal(3)
    rounds = [
        {**key, "n_labeled": n, "accuracy": a + e, **fixed, "used": trial.strategy}
        for n, a, e in zip(BUDGETS, ACCURACY[trial.strategy], noise, strict=True)
    ]
    chosen = rng.permutation(pool.train)[:40]
    picks = [
        {**key, "n_labeled": next(b for b in BUDGETS if i < b), "rank": i, "id": str(pool.ids[at]), "label": "7"}
        | {"utility": 1.0, "selection_probability": 0.5}
        for i, at in enumerate(chosen)
    ]
    return TrialResult(pd.DataFrame(rounds), pd.DataFrame(picks))


def made_up_study(recipe: Recipe, place: Path, pool: Pool) -> StudyFolder:
    """A complete study of six seeds on this pool, whose accuracies are :data:`ACCURACY` and a little noise."""
    settings = StudySettings(recipe=recipe, strategies=tuple(ACCURACY), budgets=BUDGETS, seeds=6)
    folder = StudyFolder(place)
    place.mkdir()
    folder.settings_file.write_text(settings.to_toml(), encoding="utf-8")
    for trial in trials_of(settings):
        _made_up(trial, pool).save(folder.trial(trial))
    return folder
