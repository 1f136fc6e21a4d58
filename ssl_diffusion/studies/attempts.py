"""One trial of a study, here or in another process, and the folder that keeps it."""

import os
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_diffusion.errors import RunError, StateError
from ssl_diffusion.settings import State, read_state
from ssl_diffusion.studies.settings import StudySettings

if TYPE_CHECKING:
    import pandas as pd

    from ssl_diffusion.studies.learners import Shared
    from ssl_diffusion.studies.trial import Trial, TrialResult

__all__ = ["Outcome", "StudyFolder", "attempt", "attempt_elsewhere"]


class _Failure(State):
    """Content of error.json."""

    traceback: str


Outcome = tuple["Trial", str | None]  # a trial, and the traceback if it failed


@dataclass(frozen=True)
class StudyFolder:
    """Where a study is kept."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """The settings, as TOML."""
        return self.path / "study.toml"

    def settings(self) -> StudySettings:
        """Settings of the study; raises :class:`RunError` if this is no study folder, or its settings are damaged."""
        if not os.path.lexists(self.settings_file):
            raise RunError(f"{self.path} is no study folder: it has no study.toml")
        return read_state(self.settings_file, StudySettings, remedy="put it back as it was, or give another --out")

    def trial(self, trial: "Trial") -> Path:
        """Folder of a trial."""
        return self.path / "trials" / trial.name

    def result(self, trial: "Trial", settings: StudySettings) -> "TrialResult | None":
        """What a trial found, or None if it is not complete."""
        from ssl_diffusion.studies.trial import TrialResult

        return TrialResult.load(self.trial(trial), trial, settings.budgets)

    def results(self) -> "tuple[pd.DataFrame, pd.DataFrame, list[Trial]]":
        """Rounds and picks of all complete trials, and the trials that are missing."""
        import pandas as pd

        from ssl_diffusion.studies.trial import trials_of

        settings = self.settings()
        found = {trial: self.result(trial, settings) for trial in trials_of(settings)}
        whole = [result for result in found.values() if result is not None]
        missing = [trial for trial, result in found.items() if result is None]
        if not whole:
            return pd.DataFrame(), pd.DataFrame(), missing
        both = [pd.concat([getattr(r, name) for r in whole], ignore_index=True) for name in ("rounds", "picks")]
        return both[0], both[1], missing

    def failure(self, trial: "Trial") -> str | None:
        """The last line of the traceback of a trial that failed."""
        path = self.trial(trial) / "error.json"
        if not os.path.lexists(path):
            return None
        try:
            traceback = read_state(path, _Failure, remedy="continue the study with --resume").traceback
        except StateError as error:
            return str(error)
        return (traceback.strip().splitlines() or ["failed"])[-1]


def attempt(folder: StudyFolder, settings: StudySettings, shared: "Shared", trial: "Trial") -> str | None:
    """Run and keep a trial; the traceback if it failed.

    Example:
        >>> attempt(folder, settings, shared, Trial("margin", "probe", 0)) is None  # doctest: +SKIP
        True
    """
    from ssl_diffusion.studies.trial import run_trial

    try:
        run_trial(trial, settings, shared).save(folder.trial(trial))
    except Exception:  # whatever it is belongs to this trial: it is kept and reported, and the others go on
        return traceback.format_exc()
    return None


def attempt_elsewhere(path: Path, trial: "Trial", cache: Path, cache_dir: Path | None, threads: int) -> str | None:
    """:func:`attempt` in another process, which reads the study from its folder.

    Example:
        >>> attempt_elsewhere(Path("study"), trial, Path("cache"), None, threads=1)  # doctest: +SKIP
    """
    import torch

    torch.set_num_threads(threads)
    return attempt(StudyFolder(path), *_opened(path, cache, cache_dir), trial)


@lru_cache(maxsize=1)
def _opened(path: Path, cache: Path, cache_dir: Path | None) -> "tuple[StudySettings, Shared]":
    from ssl_diffusion.data.loading import load_pool
    from ssl_diffusion.studies.learners import prepare
    from ssl_diffusion.training.denoiser_cache import DenoiserCache
    from ssl_diffusion.training.fit import FitOptions

    settings = StudyFolder(path).settings()
    options = FitOptions(cache=DenoiserCache(cache), cache_dir=cache_dir)
    pool = load_pool(settings.recipe.data, cache_dir=cache_dir)
    return settings, prepare(settings, pool, path, options)
