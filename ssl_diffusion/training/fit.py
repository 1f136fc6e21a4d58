"""From a recipe to a fitted model: pool, labeled budget, pretraining (cached), training, evaluation, run folder.

:func:`fit_model` does the learning and touches no folder but the cache and the checkpoints it is given;
:func:`fit_run` wraps it in a run folder and is what `ssld fit` calls.
"""

import hashlib
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_diffusion.data.labels import LabeledSet, choose_labeled
from ssl_diffusion.data.loading import input_paths, load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import DataError, Interrupted, RecipeError, RunError
from ssl_diffusion.inference.predict import represent
from ssl_diffusion.machine import Device, resolve_accelerator
from ssl_diffusion.models.build import build_model
from ssl_diffusion.models.joint import JointConfig
from ssl_diffusion.models.probe import fit_probe
from ssl_diffusion.progress import ProgressCallback, log_to
from ssl_diffusion.training.augment import policy
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.denoiser_cache import CachedDenoiser, DenoiserCache
from ssl_diffusion.training.evaluate import report_fit
from ssl_diffusion.training.loop import check_divisible, train
from ssl_diffusion.training.phases import PRETRAINING_ONLY, pretraining_job, training_job
from ssl_diffusion.training.planning import plan_for_time
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import Fitted, TrainingResult
from ssl_diffusion.training.run_folder import RunFolder, default_run_name, model_metadata

__all__ = ["FitOptions", "fit_model", "fit_run", "resume_run"]

_log = logging.getLogger(__name__)
_PROBE_REFERENCE = 2000


@dataclass(frozen=True)
class FitOptions:
    """What does not change the result of a fit.

    Args:
        cache:            pretrained denoisers; None trains without reading or writing a cache
        cache_dir:        where data sets are looked for and downloaded to
        checkpoint_every: seconds between checkpoints
        max_memory:       bytes of images beyond which the pool is memory-mapped
        progress:         called with the state of long-running work
    """

    cache: DenoiserCache | None = None
    cache_dir: Path | None = None
    checkpoint_every: float = 60.0
    max_memory: int | None = None
    progress: ProgressCallback | None = None


def fit_model(
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet | None,
    *,
    fingerprint: str | None = None,
    start: dict[str, Tensor] | None = None,
    checkpoints: Path | None = None,
    options: FitOptions | None = None,
) -> Fitted:
    """Pretrain (or take from the cache) and train.

    Args:
        recipe: resolved settings.
        pool: the images.
        labeled: labels to use; None for the objective "denoise-only".
        fingerprint: of the pool, if known already.
        start: weights of a fit with the same model and pool, head included, to go on from (a warm start); nothing is
            pretrained then. None starts as the recipe says.
        checkpoints: folder for the state to resume from; None keeps nothing.
        options: see :class:`FitOptions`.
    """
    options = options or FitOptions()
    _check(recipe)
    objective = recipe.training.objective
    if pool.multilabel and recipe.training.consistency != "none":
        raise RecipeError("pseudo-labels are for data with one label an image: leave out --consistency")
    job = replace(training_job(recipe, pool, labeled), checkpoint_every=options.checkpoint_every)
    config = job.config
    fingerprint = fingerprint or pool.fingerprint()
    denoiser, facts = None, None
    if start is not None and (objective in PRETRAINING_ONLY or checkpoints is not None):
        raise RecipeError(
            "a warm start is for training steps, which are not resumed: not for probe, denoise-only or checkpoints"
        )
    if start is None and (pretraining := pretraining_job(recipe, job, fingerprint)) is not None:
        denoiser, cached = _pretrain(pretraining, checkpoints, options)
        facts = {"key": pretraining.identity, "cached": cached, "steps": denoiser.steps, "images_seen": denoiser.images_seen}
        facts["seconds"] = round(denoiser.seconds, 1)
    history = list(denoiser.history) if denoiser else []
    if objective == "denoise-only":
        assert denoiser is not None
        return Fitted(config, denoiser.weights, {}, history, facts, _untrained(recipe))
    assert labeled is not None
    initial = denoiser.weights if denoiser else start
    if denoiser is not None and (objective == "probe" or recipe.training.head_start == "probe"):
        began = time.monotonic()
        initial = _with_probe(config, denoiser.weights, pool, labeled, recipe)
        if objective == "probe":
            result = _untrained(recipe)
            result.seconds = time.monotonic() - began
            return Fitted(config, initial, {}, history, facts, result)
    identity = _digest([recipe.identity(), fingerprint, labeled])
    job = replace(
        job,
        initial=initial,
        checkpoint=checkpoints / "checkpoint.safetensors" if checkpoints else None,
        identity=identity,
    )
    result = train(job, options.progress)
    return Fitted(config, result.ema, result.raw, history + result.history, facts, result)


def fit_run(
    recipe: Recipe,
    out: Path | None,
    *,
    overwrite: bool = False,
    seconds: float | None = None,
    pool: Pool | None = None,
    options: FitOptions | None = None,
) -> Path:
    """Fit a recipe into a run folder and return it.

    Args:
        recipe: settings; what is "auto" is resolved and written to the folder.
        out: the run folder; None makes `runs/NAME` (:func:`ssl_diffusion.training.default_run_name`).
        overwrite: replace a run that is there already.
        seconds: how long the fit may take; the steps of the recipe are then those that fit
            (:func:`ssl_diffusion.training.plan_for_time`). None takes the recipe's.
        pool: Images and labels that `recipe.data` names, where the caller holds them already; None reads them. Later commands
            on the run read what `recipe.data` names, so the two must agree.
        options: see :class:`FitOptions`.

    Raises:
        SSLDError: on unusable data, settings or folders, before anything is written.
        Interrupted: on Ctrl-C, after the state was saved.
    """
    began = time.monotonic()
    options = options or FitOptions()
    _check(recipe)
    objective = recipe.training.objective
    if out is not None:  # before the work of reading images
        RunFolder(out).check_free(overwrite, input_paths(recipe.data))
    pool = _load(recipe, options) if pool is None else pool
    for note in pool.notes:
        _log.info("%s", note)
    labeled = None
    if objective != "denoise-only":
        labels = recipe.labels
        labeled = choose_labeled(
            pool,
            None if labels.budget < 0 else labels.budget,
            seed=recipe.training.seed,
            choice=labels.choice,
            val_fraction=labels.val_fraction,
            allow_missing_classes=labels.allow_missing_classes,
        )
        recipe = recipe.replace(labels=labels.replace(budget=len(labeled)))
    name = default_run_name(pool.name, len(labeled) if labeled else 0, recipe.training)
    folder = RunFolder(out if out is not None else Path("runs") / name)
    folder.check_free(overwrite, input_paths(recipe.data))
    recipe = _resolve(recipe, pool)
    fingerprint = pool.fingerprint()
    if seconds is not None:
        recipe = plan_for_time(recipe, pool, labeled, fingerprint, seconds, options.cache, began=began)
    folder.create(recipe, pool, labeled, fingerprint)
    _complete(folder, recipe, pool, labeled, fingerprint, options)
    return folder.path


def resume_run(
    path: Path, requested: Recipe | None = None, *, pool: Pool | None = None, options: FitOptions | None = None
) -> Path:
    """Continue an unfinished run.

    Args:
        path: the run folder.
        requested: settings the caller believes the run to have; a difference is refused. None takes the run's own.
        pool: Images and labels of the run, where the caller holds them already; None reads what its recipe names.
        options: see :class:`FitOptions`.

    Raises:
        RunError: if this is no run folder, the run is finished, or recipe, pool or labels are not those of the run.
    """
    options = options or FitOptions()
    if not path.is_dir():
        raise RunError(f"no run folder {path}")
    folder = RunFolder(path)
    recipe = folder.recipe()
    if requested is not None:
        if differences := recipe.differences(requested):
            raise RunError(
                f"{path} was started with other settings: {'; '.join(differences)}; leave them out, or start another run"
            )
        recipe = recipe.replace(compute=requested.compute)
    if folder.finished:
        raise RunError(f"{path} is finished; use --overwrite to fit it again, or --out to fit another run")
    pool = _load(recipe, options) if pool is None else pool
    fingerprint = pool.fingerprint()
    folder.check_pool(pool, fingerprint)
    try:
        labeled = folder.labeled(pool)
    except DataError as error:
        raise RunError(f"the labels are not those that {path} was started with: {error}") from error
    _complete(folder, recipe, pool, labeled, fingerprint, options)
    return path


def _load(recipe: Recipe, options: FitOptions) -> Pool:
    return load_pool(recipe.data, cache_dir=options.cache_dir, max_memory=options.max_memory, progress=options.progress)


def _complete(
    folder: RunFolder, recipe: Recipe, pool: Pool, labeled: LabeledSet | None, fingerprint: str, options: FitOptions
) -> None:
    with log_to(_log_file(folder.log)):
        _log.info("%s: %d training images, %d labels", folder.path, len(pool.train), len(labeled or ()))
        try:
            fitted = fit_model(
                recipe, pool, labeled, fingerprint=fingerprint, checkpoints=folder.checkpoint.parent, options=options
            )
        except Interrupted as error:
            raise Interrupted(f"{error}; continue with: ssld fit --resume {folder.path}") from None
        folder.save_model(model_metadata(fitted.config, pool, recipe.training.objective), fitted.ema, fitted.raw)
        report_fit(folder, recipe, pool, labeled, fitted, options.progress)


def _pretrain(job: Phase, checkpoints: Path | None, options: FitOptions) -> tuple[CachedDenoiser, bool]:
    """The denoiser that a pretraining job makes, and whether it came out of the cache."""
    cache, key = options.cache, job.identity
    if cache is not None and (found := cache.load(key)) is not None:
        _log.info("pretrained denoiser %s taken from the cache", key)
        return found, True
    if cache is not None:
        checkpoint: Path | None = cache.partial(key)
    else:
        checkpoint = checkpoints / "pretraining.safetensors" if checkpoints else None
    denoiser = CachedDenoiser.from_result(train(replace(job, checkpoint=checkpoint), options.progress))
    if cache is not None:
        cache.store(key, denoiser, job.family)
    return denoiser, False


def _untrained(recipe: Recipe) -> TrainingResult:
    """The result of an objective that ends with the pretraining."""
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    return TrainingResult(device=device.accelerator, precision=device.precision)


def _with_probe(
    config: JointConfig, weights: dict[str, Tensor], pool: Pool, labeled: LabeledSet, recipe: Recipe
) -> dict[str, Tensor]:
    """Weights of a pretrained denoiser, and those of a head by logistic regression on its representation."""
    device = Device.resolve(recipe.compute.accelerator, recipe.compute.precision)
    model = build_model(config, seed=0, initial=weights).to(device.accelerator)
    positions = pool.positions(labeled.train)
    seed = recipe.training.seed
    reference = np.random.default_rng(seed).permutation(pool.train)[:_PROBE_REFERENCE]
    z = represent(model, pool.images[np.concatenate([positions, reference])], precision=device.precision)
    n = len(positions)
    probe = fit_probe(z[:n], pool.labels[positions], z[n:], len(pool.classes), seed=seed)
    _log.info("probe: C = %g", probe.inverse_penalty)
    return {name: tensor.cpu() for name, tensor in model.with_linear_head(probe.weight, probe.bias).state_dict().items()}


def _check(recipe: Recipe) -> None:
    """Refuse settings that cannot be trained here, before anything is read or written."""
    t = recipe.training
    if t.objective in PRETRAINING_ONLY and not recipe.pretraining.steps:
        raise RecipeError(f"the objective {t.objective} needs the pretraining phase, but pretraining.steps is 0")
    if t.objective in PRETRAINING_ONLY and t.consistency != "none":
        raise RecipeError(f"consistency {t.consistency!r} needs training steps, which the objective {t.objective} has none of")
    if t.objective == "joint" and t.head_start == "probe" and recipe.model.head_width:
        raise RecipeError(
            "training.head_start = 'probe' needs a linear head: set model.head_width to 0, or head_start to 'zero'"
        )
    resolve_accelerator(recipe.compute.accelerator)
    check_divisible([recipe.pretraining.batch_size], recipe.compute.devices)
    unlabeled = [t.unlabeled_batch_size] if t.consistency != "none" else []
    check_divisible([t.batch_size, t.labeled_batch_size, *unlabeled], recipe.compute.devices)


def _resolve(recipe: Recipe, pool: Pool) -> Recipe:
    """Write down what "auto" meant for this pool."""
    a = recipe.augmentation
    kind = pool.augmentation if a.policy == "auto" else a.policy
    flip = a.flip if a.flip != "auto" else ("on" if policy(kind, "weak").flip else "off")
    data = recipe.data.replace(path=str(Path(recipe.data.path).resolve())) if recipe.data.path else recipe.data
    return recipe.replace(data=data, augmentation=a.replace(policy=kind, flip=flip))


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=vars).encode()).hexdigest()


def _log_file(path: Path) -> logging.FileHandler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
