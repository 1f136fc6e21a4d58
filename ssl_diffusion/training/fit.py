"""From a recipe to a fitted model: pool, labeled budget, pretraining (cached), training, evaluation, run folder.

:func:`fit_model` does the learning and touches no folder but the cache and the checkpoints it is given;
:func:`fit_run` wraps it in a run folder and is what `ssld fit` calls.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_diffusion.data.label_choice import LabeledSet, choose_labeled
from ssl_diffusion.data.loading import check_used, input_paths, load_pool, with_size_of
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.shards.places import located
from ssl_diffusion.errors import DataError, Interrupted, RecipeError, RunError
from ssl_diffusion.progress import log_to
from ssl_diffusion.training.announcement import Announcement
from ssl_diffusion.training.augment import policy
from ssl_diffusion.training.backbone_hint import backbone_hint
from ssl_diffusion.training.backbones import fit_backbone, probe_with_backbone, with_backbone_of
from ssl_diffusion.training.batches import Phase
from ssl_diffusion.training.checks import check_batches, check_recipe
from ssl_diffusion.training.class_balance import with_balanced_thresholds
from ssl_diffusion.training.conditions import Conditions, RunConditions, resumed_conditions, using_threads
from ssl_diffusion.training.evaluate import report_fit
from ssl_diffusion.training.fit_task import FitOptions, FitTask, Replan
from ssl_diffusion.training.objective_fits import FITS
from ssl_diffusion.training.pace import Pace
from ssl_diffusion.training.phases import PRETRAINING_ONLY, mirrored, pretraining_job, training_job
from ssl_diffusion.training.planning import TimePlan, time_plan
from ssl_diffusion.training.reading import Reading, reading_of
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import Fitted
from ssl_diffusion.training.run_folder import RunFolder, default_run_name, model_metadata

__all__ = ["FitOptions", "fit_model", "fit_run", "resume_run"]

_log = logging.getLogger(__name__)


def fit_model(
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet | None,
    *,
    fingerprint: str | None = None,
    start: dict[str, Tensor] | None = None,
    checkpoints: Path | None = None,
    options: FitOptions | None = None,
    conditions: RunConditions | None = None,
    keep_better: bool = False,
    replan: Replan | None = None,
    paces: Callable[[str], Pace] | None = None,
) -> Fitted:
    """Fit a model to a pool: pretraining (or a denoiser from the cache), then training under the recipe's objective.

    Args:
        recipe: Resolved settings.
        pool: Images and labels.
        labeled: Labels to use; None for the objective "denoise-only".
        fingerprint: Fingerprint of the pool, if known already.
        start: Weights of a fit with the same model and pool, head included, to continue from (a warm start); nothing is
            pretrained then. None starts as the recipe says.
        checkpoints: Folder for the state to resume from; None keeps nothing.
        options: Cache, memory and progress; None is the default of :class:`FitOptions`.
        conditions: Conditions that an interrupted fit began with, so that it ends as if it had not been interrupted; None
            begins one.
        keep_better: Whether to return the probe of the pretrained denoiser where it is better than the trained model
            (:mod:`ssl_diffusion.training.starting_point`) and the setting `training.keep` does not forbid it.
        replan: Function that is called with the rows of the pretraining when it is over (none if the denoiser came from the
            cache) and returns the recipe with the training steps to take; None keeps the recipe.
        paces: Function that returns what plans the steps of a phase, "pretraining" or "training", again while it runs
            (:mod:`ssl_diffusion.training.pace`); None keeps their numbers.

    Returns:
        The model's configuration, its weights, the history and the cost.

    Raises:
        RecipeError: If the settings exclude each other, or do not suit the pool.
        DataError: If the objective needs labels and there are none.
        Interrupted: On Ctrl-C or SIGTERM, after the state was saved.

    Example:
        >>> recipe, pool = load_recipe("digits"), load_dataset("digits")
        >>> fitted = fit_model(recipe, pool, choose_labeled(pool, 40, seed=0))
        >>> model = fitted.model()
    """
    options = options or FitOptions()
    check_recipe(recipe)
    if pool.multilabel and recipe.training.consistency != "none":
        raise RecipeError("pseudo-labels are for data with one label per image: leave out --consistency")
    if start is not None and (recipe.training.objective in PRETRAINING_ONLY or checkpoints is not None):
        raise RecipeError(
            "a warm start is for training steps, which are not resumed: not for probe, denoise-only or checkpoints"
        )
    recipe = with_backbone_of(recipe, pool)
    backbone = fit_backbone(recipe)
    phase = replace(training_job(recipe, pool, labeled), checkpoint_every=options.checkpoint_every)
    task = FitTask(
        recipe,
        pool,
        labeled,
        phase,
        fingerprint or pool.fingerprint(),
        start,
        checkpoints,
        options,
        conditions,
        keep_better,
        backbone,
        replan,
        paces,
    )
    fitted = FITS[recipe.training.objective](task)
    if recipe.training.thresholds == "none" or labeled is None:
        return fitted
    return with_balanced_thresholds(fitted, pool, labeled)


def fit_run(
    recipe: Recipe,
    out: Path | None,
    *,
    overwrite: bool = False,
    seconds: float | None = None,
    may_probe: bool = False,
    pool: Pool | None = None,
    options: FitOptions | None = None,
) -> Path:
    """Fit a recipe into a run folder and return it.

    Args:
        recipe: Settings; "auto" is resolved, and the resolved recipe is written to the folder.
        out: Run folder; None makes `runs/NAME` (:func:`ssl_diffusion.training.default_run_name`).
        overwrite: Whether a run that is there already is replaced.
        seconds: Time for the whole fit, in seconds; the numbers of steps are then chosen to fit into it
            (:func:`ssl_diffusion.training.time_plan`). None takes those of the recipe.
        may_probe: Whether the probe takes the place of joint training where it reads a backbone, or that time is too short.
        pool: Images and labels that `recipe.data` names, where the caller holds them already; None reads them. Later commands
            on the run read what `recipe.data` names, so the two must agree.
        options: Cache, memory and progress; None is the default of :class:`FitOptions`.

    Returns:
        The run folder.

    Raises:
        SSLDError: If data, settings or folder cannot be used; nothing is written then.
        Interrupted: On Ctrl-C or SIGTERM, after the state was saved.

    Example:
        >>> path = fit_run(load_recipe("digits").with_overrides(["labels.budget=40"]), Path("runs/digits"))
        >>> run = load_run(path)
    """
    began = time.monotonic()
    options = options or FitOptions()
    check_recipe(recipe)
    if pool is None:
        check_used(recipe.data)
    objective = recipe.training.objective
    if options.cache is not None:
        options.cache.check_writable()
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
    check_batches(recipe, pool)
    recipe = probe_with_backbone(recipe, pool) if may_probe else recipe
    name = default_run_name(pool.name, len(labeled) if labeled else 0, recipe.training)
    folder = RunFolder(out if out is not None else Path("runs") / name)
    folder.check_free(overwrite, input_paths(recipe.data))
    recipe = _resolve(recipe, pool)
    fingerprint = pool.fingerprint()
    plan = None
    if seconds is not None:
        plan = time_plan(recipe, pool, labeled, fingerprint, seconds, options.cache, began=began, may_probe=may_probe)
        recipe = plan.recipe
    if hint := backbone_hint(recipe, pool, labeled, options.features):
        _log.info("%s", hint)
    recipe = with_backbone_of(recipe, pool)  # after the plan, which may choose the objective
    plan = replace(plan, recipe=recipe) if plan is not None else None
    conditions = _conditions(recipe, pool, labeled, fingerprint, options)
    with folder.alone():
        folder.create(recipe, pool, labeled, fingerprint, conditions)
        if plan is not None:
            folder.save_plan(recipe, plan.to_dict())
        _complete(folder, recipe, pool, labeled, fingerprint, options, conditions, plan)
    return folder.path


def resume_run(
    path: Path, requested: Recipe | None = None, *, pool: Pool | None = None, options: FitOptions | None = None
) -> Path:
    """Continue an unfinished run, with the cache, threads, device and precision that it began with.

    Args:
        path: Run folder.
        requested: Settings that the caller believes the run to have; a difference is refused, apart from [compute], where it is
            a warning. None takes the run's own.
        pool: Images and labels of the run, where the caller holds them already; None reads what its recipe names.
        options: Cache, memory and progress; None is the default of :class:`FitOptions`. The cache is left alone by a run that
            began without one.

    Returns:
        The run folder.

    Raises:
        RunError: If this is no run folder, the run is finished, or recipe, pool or labels are not those of the run.

    Example:
        >>> path = resume_run(Path("runs/digits"))  # doctest: +SKIP
    """
    options = options or FitOptions()
    if not path.is_dir():
        raise RunError(f"no run folder {path}")
    folder = RunFolder(path)
    recipe = folder.recipe()
    if requested is not None and (differences := recipe.differences(requested)):
        raise RunError(
            f"{path} was started with other settings: {'; '.join(differences)}; leave them out, or start another run"
        )
    finished = RunError(f"{path} is finished; use --overwrite to fit it again, or --out to fit another run")
    if folder.finished:
        raise finished
    conditions, compute, threads = RunConditions.read(folder.conditions), (requested or recipe).compute, torch.get_num_threads()
    if conditions is not None:
        compute, threads = resumed_conditions(path, conditions, recipe.compute, compute)
        if not conditions.cache:
            options = replace(options, cache=None)
        elif options.cache is None:
            _log.warning("%s began with the cache of denoisers and goes on without it", path)
    recipe = recipe.replace(compute=compute)
    if options.cache is not None:
        options.cache.check_writable()
    pool = _load(recipe, options) if pool is None else pool
    fingerprint = pool.fingerprint()
    folder.check_pool(pool, fingerprint)
    try:
        labeled = folder.labeled(pool)
    except DataError as error:
        raise RunError(f"the labels are not those that {path} was started with: {error}") from error
    if labeled is not None and (missing := set(folder.used_ids()) - {*labeled.train, *labeled.val, *labeled.extra}):
        raise RunError(
            f"{path} also learns {len(missing)} images on which verdicts were given in its job: go on with ssld loop fit JOB"
        )
    with folder.alone(), using_threads(threads):
        if folder.finished:  # by another process, just now
            raise finished
        _complete(folder, recipe, pool, labeled, fingerprint, options, conditions)
    return path


def _conditions(recipe: Recipe, pool: Pool, labeled: LabeledSet | None, fingerprint: str, options: FitOptions) -> RunConditions:
    """The conditions that a run begins with."""
    denoiser = None
    if options.cache is not None:
        phase = pretraining_job(recipe, training_job(recipe, pool, labeled), fingerprint)
        denoiser = options.cache.digest(phase.key) if phase is not None else None
    here = Conditions.here(recipe.compute).model_dump()
    return RunConditions.model_validate({**here, "cache": options.cache is not None, "denoiser": denoiser})


def _phases(recipe: Recipe, pool: Pool, labeled: LabeledSet | None, fingerprint: str) -> list[Phase]:
    """The phases of a fit that have steps."""
    training = training_job(recipe, pool, labeled)
    pretraining = pretraining_job(recipe, training, fingerprint)
    phases = [] if pretraining is None else [pretraining]
    return phases if training.objective in PRETRAINING_ONLY or not recipe.training.steps else [*phases, training]


def _announced(recipe: Recipe, pool: Pool, labeled: LabeledSet | None, fingerprint: str, options: FitOptions) -> FitOptions:
    """The options of a fit that says how long it will take."""

    def reading() -> Reading | None:
        return reading_of(recipe, pool, labeled, training_job(recipe, pool, labeled).view, options.features)

    return replace(options, progress=Announcement(_phases(recipe, pool, labeled, fingerprint), options.progress, reading))


def _load(recipe: Recipe, options: FitOptions) -> Pool:
    return load_pool(recipe.data, cache_dir=options.cache_dir, max_memory=options.max_memory, progress=options.progress)


def _complete(
    folder: RunFolder,
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet | None,
    fingerprint: str,
    options: FitOptions,
    conditions: RunConditions | None,
    plan: TimePlan | None = None,
) -> None:
    def replan(history: Sequence[dict[str, Any]]) -> Recipe:
        nonlocal recipe
        assert plan is not None
        recipe = plan.after_pretraining(history)
        if recipe != plan.recipe:  # written down before the first step, so that a resumed run takes as many
            folder.save_plan(recipe, plan.to_dict())
        return recipe

    def pace(name: str) -> Pace:
        assert plan is not None
        return plan.pace(name, lambda: folder.save_plan(recipe, plan.to_dict()))

    if plan is None and recipe.compute.devices == 1:  # a plan has been told, and ranks report from other processes
        options = _announced(recipe, pool, labeled, fingerprint, options)
    with log_to(_log_file(folder.log)):
        _log.info("%s: %d training images, %d labels", folder.path, len(pool.train), len(labeled or ()))
        try:
            fitted = fit_model(
                recipe,
                pool,
                labeled,
                fingerprint=fingerprint,
                checkpoints=folder.checkpoint.parent,
                options=options,
                conditions=conditions,
                keep_better=True,
                replan=replan if plan is not None else None,
                paces=pace if plan is not None else None,
            )
        except Interrupted as error:
            raise Interrupted(f"{error}; continue with: ssld fit --resume {folder.path}") from None
        if (done := _as_done(recipe, fitted)) != recipe:
            recipe = done
            folder.save_plan(recipe, None)
        metadata = model_metadata(fitted.config, pool, recipe.training.objective)
        if recipe.data.aspect != "squeeze":  # models of earlier versions do not name it
            metadata["aspect"] = recipe.data.aspect
        folder.save_model(metadata, fitted.ema, fitted.raw)
        report_fit(folder, recipe, pool, labeled, fitted, options.progress, cache_dir=options.features)


def _as_done(recipe: Recipe, fitted: Fitted) -> Recipe:
    """The recipe with the steps at which the numbers of steps were planned again, from which the run can be repeated."""
    for name, replanned in (
        ("pretraining", (fitted.pretraining or {}).get("replanned", recipe.pretraining.replanned)),
        ("training", fitted.training.replanned or recipe.training.replanned),
    ):
        recipe = recipe.with_setting(f"{name}.replanned", tuple(replanned))
    return recipe


def _resolve(recipe: Recipe, pool: Pool) -> Recipe:
    """The recipe with every "auto" replaced by what it means for this pool, but that of the backbone."""
    a = recipe.augmentation
    kind, flips = mirrored(recipe, pool)
    if a.flip == "color" and not flips and policy(kind, "weak").flip:
        _log.info("gray images are not mirrored in training (--flip on mirrors them)")
    flip: Literal["on", "off"] = "on" if flips else "off"
    data = with_size_of(pool, recipe.data)
    places = {name: located(place) for name in ("path", "unlabeled", "labels") if (place := getattr(data, name))}
    data = data.replace(**places)
    return recipe.replace(data=data, augmentation=a.replace(policy=kind, flip=flip))


def _log_file(path: Path) -> logging.FileHandler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
