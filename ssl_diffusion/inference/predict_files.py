"""Predictions for image files: a stream of batches in, a CSV file out, memory constant in the number of images."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_diffusion.data.image_files import list_images
from ssl_diffusion.data.images import iter_image_batches
from ssl_diffusion.data.label_choice import label_name
from ssl_diffusion.errors import DataError, RunError
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import FileReader
from ssl_diffusion.outputs import check_output_file, output_file, path_fault
from ssl_diffusion.progress import ProgressCallback, ProgressUpdate

__all__ = ["collect_images", "predict_files"]


def collect_images(inputs: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Image files of folders (all below them) and files, with their ids.

    The id of an image is its path relative to the folder that was given, or its file name; with several inputs, the folder's
    name comes first. If two images had the same id then, all ids are paths relative to the folder that holds all images. An
    image that is given twice is listed once.

    Raises:
        DataError: if an input does not exist, is neither a regular file nor a folder, or there is no image at all.

    Example:
        >>> paths, ids = collect_images([Path("photos")])  # doctest: +SKIP
    """
    named: dict[str, str] = {}  # absolute path -> id
    for given in inputs:
        if (fault := path_fault(given)) is not None:
            raise DataError(fault)
        whole = os.path.abspath(given)
        if given.is_dir():
            prefix = f"{os.path.basename(whole)}/" if len(inputs) > 1 else ""
            for path in list_images(given):
                inside = path.relative_to(given)
                named.setdefault(os.path.join(whole, inside), prefix + inside.as_posix())
        elif given.is_file():
            named.setdefault(whole, given.name)
        else:
            raise DataError(f"no file or folder {given}")
    if not named:
        raise DataError(f"no images in {', '.join(map(str, inputs))}")
    paths, ids = [Path(path) for path in named], list(named.values())
    if len(set(ids)) < len(ids):
        above = Path(os.path.commonpath([path.parent for path in paths]))
        ids = [path.relative_to(above).as_posix() for path in paths]
    return paths, ids


def predict_files(
    run: Run,
    inputs: Sequence[Path],
    out: Path,
    *,
    skip_bad: bool = False,
    batch_size: int = 256,
    progress: ProgressCallback | None = None,
) -> tuple[int, list[tuple[str, str]]]:
    """Predict image files and write `out`, complete or not at all.

    The CSV has the columns id, label, probability (of the label; for multi-label models the largest of all classes) and
    one column of probability per class, named p(CLASS). Images of another size or colour are converted.

    Returns:
        The number of predictions and the (id, reason) of files that were skipped.

    Raises:
        DataError: if there is no image, or one cannot be read and `skip_bad` is off, or none can be.
        RunError: if the model has no classes, or `out` cannot be written. Earlier predictions in the same place are replaced,
            any other file is not.

    Example:
        >>> n, bad = predict_files(run, [Path("photos")], Path("predictions.csv"))  # doctest: +SKIP
    """
    if not run.classes:
        raise RunError(f"{run.path} was trained without labels and cannot predict; fit with --labeled")
    check_output_file(out, overwrite=True, inputs=inputs)
    paths, ids = collect_images(inputs)
    reader = FileReader(run, paths, ids)
    skipped: list[tuple[str, str]] = []
    n = seen = 0
    with (
        output_file(out, overwrite=True, inputs=inputs) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["id", "label", "probability", *(f"p({name})" for name in run.classes)])
        for batch in iter_image_batches(paths, run.image_shape, batch_size, skip_bad, ids=ids, aspect=run.aspect):
            seen += len(batch.ids) + len(batch.skipped)
            skipped += batch.skipped
            if len(batch.ids):
                p = run.predict_proba(reader.rows(batch.ids, batch.images))
                predicted = (p > 0.5).astype(np.int64) if run.multilabel else p.argmax(axis=1)
                for sample, label, row in zip(batch.ids, predicted, p, strict=True):
                    values = [f"{value:.6g}" for value in row]
                    writer.writerow([sample, label_name(label, run.classes), f"{row.max():.6g}", *values])
                n += len(batch.ids)
            if progress is not None:
                progress(ProgressUpdate("predict", seen, len(paths)))
        if not n:
            raise DataError(f"none of the {len(paths)} images can be read: {skipped[0][0]}: {skipped[0][1]}, for one")
    return n, skipped
