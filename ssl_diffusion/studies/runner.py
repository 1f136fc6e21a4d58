"""Runs a study: every trial that is not complete, here, in worker processes, or on a Ray cluster; the same results anywhere.

A study folder holds `study.toml`, the settings, and `about.json`, versions and commit; `trials/`, one folder a trial;
`rounds.csv` and `picks.csv`, all trials that are complete; `representation.npy`, which all trials read, until the study is
complete. A study that was stopped continues with the trials that are missing.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ssl_diffusion.data.loading import input_paths, load_pool, settled_as, with_size_of
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.errors import DataError, Interrupted, RunError
from ssl_diffusion.machine import package_versions, source_commit
from ssl_diffusion.outputs import refuse_inputs
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate
from ssl_diffusion.storage import atomic_write_text, default_cache_dir, remove_temporary
from ssl_diffusion.studies.attempts import Outcome, StudyFolder, attempt
from ssl_diffusion.studies.engines.local import local_outcomes
from ssl_diffusion.studies.engines.ray import ray_outcomes
from ssl_diffusion.studies.learners import Shared, prepare
from ssl_diffusion.studies.scenario import trial_pool
from ssl_diffusion.studies.settings import StudySettings
from ssl_diffusion.studies.trial import Trial, eligible_positions, save_failure, trials_of
from ssl_diffusion.training.denoiser_cache import DenoiserCache
from ssl_diffusion.training.fit import FitOptions

__all__ = ["ENGINES", "run_study"]

ENGINES = ("local", "ray")

_log = logging.getLogger(__name__)


def run_study(
    settings: StudySettings | None,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    options: FitOptions | None = None,
) -> StudyFolder:
    """Run all trials of a study that are not complete yet.

    Args:
        settings: Settings of the study; None resumes the study with the settings saved in the folder.
        out: Study folder.
        resume: Whether a study that exists is continued; without it, that is an error.
        workers: Number of processes on this machine; 1 runs everything in this process.
        engine: Name of the engine that runs the trials, "local" or "ray".
        address: Address of a Ray cluster; None starts one on this machine.
        options: Options of the fits: cache, progress.

    Raises:
        RunError: if the engine is unknown or has no use for an address, or if the folder was made with other settings, or is
            there and `resume` was not asked for.
        DataError: if the pool cannot be studied, or is smaller than the largest budget.
        Interrupted: on Ctrl-C; complete trials are kept.

    Example:
        >>> folder = run_study(load_study(Path("study.toml")), Path("study"))  # doctest: +SKIP
    """
    folder = StudyFolder(out)
    if engine not in ENGINES:
        raise RunError(f"no engine {engine!r}; known: {', '.join(ENGINES)}")
    if address is not None and engine != "ray":
        raise RunError(f"--address has no effect on the engine {engine!r}: leave it out, or give --engine ray")
    if workers < 1:
        raise RunError(f"a study needs one worker or more, not {workers}")
    if folder.settings_file.exists():
        own = folder.settings()
        if settings is not None:  # what is not said is as in the study
            settings = _with_data(settings, settled_as(settings.recipe.data, own.recipe.data))
        if settings is not None and (differences := own.differences(settings)):
            raise RunError(
                f"{out} is a study with other settings: {'; '.join(differences)}; leave them out, or give another --out"
            )
        if not resume:
            raise RunError(f"{out} is a study already: continue it with --resume, or give another --out")
        settings = own
    elif settings is None:
        raise RunError(f"no study to resume in {out}")
    elif out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty and no study: give another --out")
    refuse_inputs(out, input_paths(settings.recipe.data))
    options = options or FitOptions()
    options = replace(options, cache=options.cache or DenoiserCache(default_cache_dir()))
    pool = load_pool(settings.recipe.data, cache_dir=options.cache_dir, progress=options.progress)
    settings = _with_data(settings, with_size_of(pool, settings.recipe.data))
    if settings.budgets[-1] > (n := _smallest_pool(pool, settings)):
        raise DataError(
            f"a budget of {settings.budgets[-1]} labels is larger than the {n} labeled training images of {pool.name!r}"
        )
    out.mkdir(parents=True, exist_ok=True)
    if not folder.settings_file.exists():
        facts = package_versions() | {"commit": source_commit(), "cores": os.cpu_count()}
        atomic_write_text(out / "about.json", json.dumps(facts, indent=2) + "\n")
        atomic_write_text(folder.settings_file, settings.to_toml())
    todo = [trial for trial in trials_of(settings) if folder.result(trial, settings) is None]
    total = len(trials_of(settings))
    try:
        if todo:
            shared = prepare(settings, pool, out, options)
            _report(options.progress, total - len(todo), total, "")
            outcomes = _outcomes(engine, workers, address, folder, settings, shared, todo, options)
            for finished, (trial, failure) in enumerate(outcomes, 1):
                if failure is not None:
                    save_failure(folder.trial(trial), trial, failure)
                    _log.warning("trial %s failed: %s", trial.name, failure.strip().splitlines()[-1])
                _report(options.progress, total - len(todo) + finished, total, trial.name)
    except KeyboardInterrupt:
        done = sum(folder.result(trial, settings) is not None for trial in trials_of(settings))
        raise Interrupted(f"stopped with {done} of {total} trials; continue with: ssld study {out} --resume") from None
    rounds, picks, missing = folder.results()
    if not rounds.empty:
        atomic_write_text(out / "rounds.csv", rounds.to_csv(index=False))
        atomic_write_text(out / "picks.csv", picks.to_csv(index=False))
    if not missing:
        for left in out.glob("representation.*"):
            left.unlink()
        for place in (out, out / "trials"):
            remove_temporary(place)
    return folder


def _smallest_pool(pool: Pool, settings: StudySettings) -> int:
    """Number of images that can be asked about, in the trial that has the fewest."""
    eligible_positions(pool)
    seeds = range(settings.first_seed, settings.first_seed + (settings.seeds if settings.long_tail > 1 else 1))
    return min(len(eligible_positions(trial_pool(pool, settings, seed))) for seed in seeds)


def _with_data(settings: StudySettings, data: DataSettings) -> StudySettings:
    return settings.replace(recipe=settings.recipe.replace(data=data))


def _outcomes(
    engine: str,
    workers: int,
    address: str | None,
    folder: StudyFolder,
    settings: StudySettings,
    shared: Shared,
    todo: list[Trial],
    options: FitOptions,
) -> Iterator[Outcome]:
    if engine == "ray":
        yield from ray_outcomes(folder.path, todo, options, workers=workers, address=address)
    elif workers > 1:
        yield from local_outcomes(workers, folder.path, todo, options)
    else:
        for trial in todo:
            yield trial, attempt(folder, settings, shared, trial)


def _report(progress: ProgressCallback | None, done: int, total: int, info: str) -> None:
    if progress is not None:
        progress(ProgressUpdate("study", done, total, "trials", info))
