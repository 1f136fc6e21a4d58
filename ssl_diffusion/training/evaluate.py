"""Evaluation of a finished run: overall metrics with their uncertainty, and metrics of each class."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_diffusion.data.label_choice import LabeledSet
from ssl_diffusion.data.loading import image_folder, load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.inference.class_metrics import figure_of_merit
from ssl_diffusion.inference.denoising import denoiser_quality
from ssl_diffusion.inference.metrics import classification_metrics
from ssl_diffusion.inference.predict import predict_logits, probabilities
from ssl_diffusion.inference.rows import Rows
from ssl_diffusion.inference.run import Run, load_run
from ssl_diffusion.inference.run_rows import pool_rows
from ssl_diffusion.machine import package_versions, source_commit
from ssl_diffusion.models.build import count_parameters
from ssl_diffusion.outputs import check_output_folder, output_folder
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training import figures
from ssl_diffusion.training.classification_report import ClassificationReport, classification_report
from ssl_diffusion.training.data_changes import load_run_pool
from ssl_diffusion.training.recipe import Recipe
from ssl_diffusion.training.result import Fitted
from ssl_diffusion.training.run_folder import RunFolder, run_inputs

__all__ = ["evaluate_run", "report_fit"]

_PICTURED = 10

_log = logging.getLogger(__name__)


def evaluate_run(
    run: Run, data: Path | None = None, out: Path | None = None, *, progress: ProgressCallback | None = None
) -> ClassificationReport:
    """Evaluate a run on its own test split, or on other labeled images.

    Args:
        run: Fitted model.
        data: Folder or CSV file of labeled images; None takes the test split of the run's own data.
        out: Folder for per_class.csv, confusion.png and calibration.png, which replace those of an earlier evaluation; None
            writes nothing.
        progress: Callback for the number of images done.

    Returns:
        Metrics of all images and of each class.

    Raises:
        RunError: If the model has no classes, or the folder cannot be written.
        DataError: If there are no labeled images, or a label is not one of the model's classes.

    Example:
        >>> report = evaluate_run(load_run("runs/digits-40-s0"))
        >>> report.metrics["accuracy"]
    """
    if not run.classes:
        raise RunError(f"{run.path} was trained without labels; there is no accuracy to evaluate")
    inputs = [*run_inputs(run), *([data] if data is not None else [])]
    if out is not None:
        check_output_folder(out, overwrite=True, inputs=inputs)
    images, labels = _labeled_images(run, data, progress)
    logits = run.logits(images, progress)
    report = classification_report(logits, labels, run.classes)
    if out is not None:
        with output_folder(out, overwrite=True, inputs=inputs) as folder:
            report.per_class.to_csv(folder / "per_class.csv", index=False)
            p = probabilities(logits, run.multilabel)
            figures.calibration_figure(p, labels).savefig(folder / "calibration.png", dpi=130)
            if report.confusion is not None:
                picture = figures.confusion_figure(report.confusion, run.classes, report.metrics["accuracy"])
                picture.savefig(folder / "confusion.png", dpi=130)
    return report


def _labeled_images(run: Run, data: Path | None, progress: ProgressCallback | None) -> tuple[Rows, NDArray[np.int64]]:
    if data is None:
        pool = load_run_pool(run)
        chosen = pool.test[pool.has_label[pool.test]]
        if not len(chosen):
            raise DataError(f"the data of {run.path} has no test split: name labeled images with --data")
        _check_shape(pool, run, RunFolder(run.path).recipe().data.path or pool.name)
        return pool_rows(run, pool, chosen, progress=progress), _to_classes(pool, run.classes, pool.name)[chosen]
    own = RunFolder(run.path).recipe().data
    settings = DataSettings(
        path=str(data),
        size=run.image_shape[1] if run.image_shape[1] == run.image_shape[2] else 0,
        image_column=own.image_column,
        label_column=own.label_column,
        label_columns=own.label_columns,
        separator=own.separator,
        multilabel=own.multilabel,
        aspect=run.aspect,
        color=own.color if own.color != "auto" else "files",
    )
    pool = load_pool(settings)
    chosen = np.flatnonzero(pool.has_label)
    if not len(chosen):
        raise DataError(f"{data} has no labeled images")
    _check_shape(pool, run, data)
    if n_trained := _trained_on(run, data, pool.ids[chosen].tolist()):
        _log.warning(
            "%d of these %d images trained %s with their labels, so that it looks better than it is; leave out --data for its "
            "test split",
            n_trained,
            len(chosen),
            run.path,
        )
    return pool_rows(run, pool, chosen, progress=progress), _to_classes(pool, run.classes, data)[chosen]


def _trained_on(run: Run, data: Path, ids: list[str]) -> int:
    """Number of samples below `data` that are files whose labels the run was fitted with."""
    own = RunFolder(run.path).recipe().data
    if not own.path:
        return 0
    used = {os.path.realpath(image_folder(own) / sample) for sample in RunFolder(run.path).used_ids()}
    there = image_folder(DataSettings(path=str(data)))
    return sum(os.path.realpath(there / sample) in used for sample in ids)


def _check_shape(pool: Pool, run: Run, data: Path | str) -> None:
    if pool.image_shape != run.image_shape:
        raise DataError(f"the images of {data} have shape {pool.image_shape}, but {run.path} was made for {run.image_shape}")


def _to_classes(pool: Pool, classes: tuple[str, ...], data: Path | str) -> NDArray[np.int64]:
    """Labels of a pool as indices into a model's classes."""
    unknown = sorted(set(pool.classes) - set(classes))
    if unknown:
        raise DataError(f"{data} has classes that the model does not know: {', '.join(map(repr, unknown))}")
    if pool.multilabel:
        columns = np.zeros((len(pool), len(classes)), dtype=np.int64)
        for k, name in enumerate(pool.classes):
            columns[:, classes.index(name)] = pool.labels[:, k]
        return columns
    index = np.array([classes.index(name) for name in pool.classes], dtype=np.int64)
    return np.where(pool.labels >= 0, index[pool.labels], -1)


def report_fit(
    folder: RunFolder,
    recipe: Recipe,
    pool: Pool,
    labeled: LabeledSet | None,
    fitted: Fitted,
    progress: ProgressCallback | None,
    *,
    cache_dir: Path | None = None,
) -> None:
    """Write metrics and pictures of a finished training; the test split is read here and nowhere else.

    Args:
        folder: Run folder with its weights.
        recipe: Resolved settings.
        pool: Images of the run.
        labeled: Labels that were used; None without labels.
        fitted: Result of the fit.
        progress: Callback for the number of test images done.
        cache_dir: Cache directory for the features of a backbone; None keeps none.

    Example:
        >>> report_fit(folder, recipe, pool, labeled, fitted, None)  # doctest: +SKIP
    """
    run = replace(load_run(folder.path, recipe.compute.accelerator, recipe.compute.precision), cache_dir=cache_dir)
    history = folder.save_history(fitted.history)
    metrics: dict[str, Any] = {f"test_{name}": None for name in ("accuracy", "nll", "ece")}
    metrics |= {"val_accuracy": None, "test_figures": None}
    test = pool.test[pool.has_label[pool.test]]
    if labeled is not None and len(test):
        rows = pool_rows(run, pool, test, progress=progress)
        logits = predict_logits(run.model, rows, precision=run.precision, progress=progress, task="evaluation")
        report = classification_report(logits, pool.labels[test], pool.classes)
        metrics |= {f"test_{name}": value for name, value in report.metrics.items()}
        if report.confusion is not None:
            picture = figures.confusion_figure(report.confusion, pool.classes, metrics["test_accuracy"])
            picture.savefig(folder.path / "confusion.png", dpi=130)
        metrics["test_figures"] = report.to_dict()
        metrics |= _chosen_figure(recipe.training.metric, "test", logits, pool.labels[test])
    if labeled is not None and labeled.val:
        val = pool.positions(labeled.val)
        rows = pool_rows(run, pool, val, progress=progress)
        logits = predict_logits(run.model, rows, precision=run.precision)
        metrics["val_accuracy"] = classification_metrics(logits, pool.labels[val])["accuracy"]
        metrics |= _chosen_figure(recipe.training.metric, "val", logits, pool.labels[val])
    if not history.empty:
        figures.history_figure(history).savefig(folder.path / "history.png", dpi=130)
    if recipe.training.objective != "labels-only":
        some = pool.test if len(pool.test) >= 8 else pool.train
        n = min(_PICTURED, len(some))
        spread = np.arange(n) * (len(some) - 1) // max(1, n - 1)  # the first images of a folder are all of one class
        shown = pool.images[some[spread]]
        figure = figures.reconstruction_figure(run.model, shown, precision=run.precision)
        figure.savefig(folder.path / "reconstructions.png", dpi=130)
    training, pretraining = fitted.training, fitted.pretraining
    quality = None
    if recipe.training.objective != "labels-only":
        quality = denoiser_quality(run.model, pool.images, pool.train, seed=recipe.training.seed, precision=run.precision)
    images_seen, seconds = training.images_seen, training.seconds
    if pretraining is not None and not pretraining["cached"]:
        images_seen += pretraining["images_seen"]
        seconds += pretraining["seconds"]
    metrics |= {
        "n_labeled": len(labeled) if labeled else 0,
        "n_unlabeled": len(pool.train) - (len(labeled) if labeled else 0),
        "n_test": len(test),
        "dataset": pool.name,
        "recipe": recipe.name,
        "objective": recipe.training.objective,
        "steps": training.steps,
        "images_seen": images_seen,
        "seconds": round(seconds, 1),
        "images_per_second": round(images_seen / seconds, 1) if seconds else None,
        "non_finite_steps": training.non_finite_steps,
        "pretraining": pretraining,
        "denoiser": {**quality.to_dict(), **_denoised(recipe, fitted)} if quality is not None else None,
        "start": fitted.start.to_dict() if fitted.start is not None else None,
        "parameters": count_parameters(run.model),
        "seed": recipe.training.seed,
        "device": training.device,
        "precision": training.precision,
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "commit": source_commit(),
    }
    if fitted.backbone_facts is not None:
        metrics["backbone"] = fitted.backbone_facts
    folder.save_metrics(metrics)


def _chosen_figure(metric: str, split: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float | None]:
    """The figure that a run goes by, under a name of its own unless it is the accuracy, which is there anyway."""
    if metric == "accuracy":
        return {}
    value = figure_of_merit(metric, probabilities(logits, labels.ndim == 2), labels)
    return {f"{split}_{metric.replace('-', '_')}": value if np.isfinite(value) else None}


def _denoised(recipe: Recipe, fitted: Fitted) -> dict[str, Any]:
    """Images that the denoiser of a fit has seen, also in a pretraining from the cache, and how many a quiet machine reads in a
    second."""
    kept_probe = fitted.start is not None and fitted.start.kept != "trained"
    seen = 0 if kept_probe else fitted.training.steps * recipe.training.batch_size
    seen += fitted.pretraining["images_seen"] if fitted.pretraining is not None else 0
    rows = [row for row in fitted.history if row.get("seconds_alone")]
    rows = [row for row in rows if row["phase"] == rows[0]["phase"]]  # of the pretraining, if there was one
    rate = round(rows[-1]["images_seen"] / rows[-1]["seconds_alone"], 1) if rows else None
    return {"images_seen": seen, "images_per_second": rate}
