"""Explanations of a run as a folder: what would have to change in images for another class, in pictures and a table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import DataError
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import SURE, SearchOptions, explain_run
from ssl_diffusion.generation.figures import counterfactual_figure, distance_figure
from ssl_diffusion.generation.gallery import NOISE, class_index, file_stems
from ssl_diffusion.generation.original_size import is_larger, read_pixels, write_changed
from ssl_diffusion.generation.readiness import doubt_of, stamp
from ssl_diffusion.generation.strips import GAIN, SOURCE, TARGET, Panel, difference, strip
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import original_images, pool_rows
from ssl_diffusion.models.fused import check_gradient
from ssl_diffusion.outputs import check_output_folder, output_folder
from ssl_diffusion.training.run_folder import run_inputs

_log = logging.getLogger(__name__)

__all__ = ["write_explanations"]

_SHEET = 40  # pairs in sheet.png


def write_explanations(
    run: Run,
    pool: Pool,
    ids: Sequence[str],
    out: Path,
    *,
    target: str = "runner-up",
    overwrite: bool = False,
    **options: Unpack[SearchOptions],
) -> tuple[pd.DataFrame, CounterfactualResult]:
    """Search counterfactuals into a folder: counterfactuals.csv, pictures of each pair, sheet.png and distances.png.

    Each pair of an image and a target has up to three PNG files: the counterfactual (column `file`); the one at the boundary,
    if more is asked for (`boundary_file`); and a strip of the original, the boundary, the counterfactual and its signed
    difference, six-fold (`strip`).

    Where the file of an image is larger than the images of the model, or the model has a backbone that reads files, pictures
    are the file at its own size with the enlarged change added, and the column `verified` says whether the saved one is
    predicted as the target, with the confidence that was asked for. The search ends where the probability just suffices, and
    there rounding at another size decides: the change that is saved may be a little larger, by the factor in `strength`.

    Args:
        run: Fitted model with classes.
        pool: Images of the run.
        ids: Ids of the samples to explain.
        out: Folder to write, completely or not at all.
        target: Class name, "runner-up", "nearest" (by the change to the boundary) or "all".
        overwrite: Whether an earlier output may be replaced.
        options: Confidence (0.9 if not given), revert, seed, batch size and progress of the search, see
            :func:`ssl_diffusion.generation.explain`.

    Returns:
        The table counterfactuals.csv, and the result of the search.

    Raises:
        RunError: If the place is taken or cannot be written, or the run has no classes, or several for one image.
        DataError: If an id or the target does not exist, or the target is the predicted class of an image.

    Example:
        >>> table, result = write_explanations(run, pool, ["test/00001"], Path("why"), target="nearest")
    """
    run.check_single_label("to explain")
    check_gradient(run.model, with_originals=pool.files is not None)
    inputs = run_inputs(run)
    check_output_folder(out, overwrite=overwrite, inputs=inputs)
    if len(set(ids)) != len(ids):
        raise DataError("each id can be explained once; one is given twice")
    positions = pool.positions(ids)
    images = pool.images[positions]
    originals, doubt = original_images(run, pool, positions), doubt_of(run)
    before = predict_probabilities(run.model, pool_rows(run, pool, positions))
    wanted: str | int = target
    if target not in ("runner-up", "nearest", "all"):
        wanted = class_index(run, target)
        already = [i for i, k in zip(ids, before.argmax(axis=1), strict=True) if k == wanted]
        if already:
            raise DataError(f"{already[0]} is classified as {target!r} already; choose another target for it")
    with output_folder(out, overwrite=overwrite, inputs=inputs) as folder:
        boundary, result = _searched(run, images, wanted, originals, options)
        frame, stems = result.to_frame(np.array(ids), run.classes), file_stems(ids)
        names = [f"{stems[i]}_to_{run.classes[k]}".replace("/", "_") for i, k in zip(result.image, result.target, strict=True)]
        paths = [] if pool.files is None else [pool.files[i] for i in positions[result.image]]
        own = [file if originals is not None or is_larger(file, run.image_shape) else None for file in paths]
        pairs = own or [None] * len(names)
        saved = _save(run, result, pairs, [folder / f"{name}.png" for name in names], options["confidence"])
        edge = saved
        if boundary is not result:
            edge = _save(run, boundary, pairs, [folder / f"{name}_boundary.png" for name in names], 0.0)
        frame.insert(1, "file", [path.name for path in saved.paths])
        frame["boundary_file"], frame["strip"] = [path.name for path in edge.paths], [f"{name}_strip.png" for name in names]
        frame["boundary_success"], frame["boundary_distance"] = boundary.success, boundary.distance_pixel
        if any(own):
            frame["strength"], frame["verified"] = saved.strength, saved.reached
        frame.to_csv(folder / "counterfactuals.csv", index=False)
        rows = []
        for i, name in enumerate(names):
            panels = _panels(run, result, i, pairs[i], [edge, saved] if edge is not saved else [saved])
            strip(panels).save(folder / f"{name}_strip.png")
            if i < _SHEET:
                rows.append([panel.reduced() for panel in panels])
        shown = result.take(np.arange(len(rows)))
        beside = [str(ids[i]) for i in shown.image]
        figure = counterfactual_figure(shown, run.classes, before[shown.image], saved.p[: len(rows)], beside, rows)
        figure.savefig(folder / "sheet.png", dpi=110)
        if doubt:
            for path in (folder / "sheet.png", *(folder / file for file in frame["strip"])):
                stamp(path, NOISE)
        if len(result) > 1:
            distance_figure(boundary).savefig(folder / "distances.png", dpi=130)
    if doubt:
        _log.warning("%s", doubt)
    return frame, result


def _searched(
    run: Run, images: NDArray[np.uint8], target: str | int, originals: NDArray[np.uint8] | None, options: SearchOptions
) -> tuple[CounterfactualResult, CounterfactualResult]:
    """Counterfactuals at the boundary, and those of the same pairs with the confidence that is asked for, if any is."""
    sure = options.setdefault("confidence", SURE)
    boundary = explain_run(run, images, target, originals, **{**options, "confidence": 0.0})
    if not sure:
        return boundary, boundary
    at = boundary.image
    result = explain_run(run, images[at], boundary.target, None if originals is None else originals[at], **options)
    return boundary, replace(result, image=at)


@dataclass(frozen=True)
class _Saved:
    """Saved pictures of m pairs.

    Attributes:
        paths: PNG files.
        p: Class probabilities of what was saved, float32, (m, K).
        strength: Factors of the changes, float64, (m,).
        reached: Whether the picture is predicted as the target with the confidence that is asked for, bool, (m,).
    """

    paths: list[Path]
    p: NDArray[np.float32]
    strength: NDArray[np.float64]
    reached: NDArray[np.bool_]


def _save(
    run: Run, result: CounterfactualResult, sources: Sequence[Path | None], places: list[Path], confidence: float
) -> _Saved:
    """Write the counterfactuals, at the size of the files that they come from where there are some."""
    strength, reached = np.ones(len(result)), result.success.copy()
    p = np.zeros((len(result), len(run.classes)), dtype=np.float32)
    whole, small = ([i for i, file in enumerate(sources) if (file is None) == without] for without in (False, True))
    if small:
        p[small] = predict_probabilities(run.model, result.images()[small])
        for i in small:
            to_pil(result.images()[i]).save(places[i])
    if whole:
        files = [file for file in sources if file is not None]
        some = result.take(np.array(whole))
        p[whole], strength[whole], reached[whole] = write_changed(run, some, files, [places[i] for i in whole], confidence)
    return _Saved(places, p, strength, reached)


def _panels(run: Run, result: CounterfactualResult, i: int, source: Path | None, pictures: list[_Saved]) -> list[Panel]:
    """The strip of a pair: original, boundary, what is surely of the target class, and its difference to the original."""
    original = result.original[i]
    if source is not None:
        original = read_pixels(source, len(original))
    target = int(result.target[i])
    panels = [Panel(original, run.classes[result.source[i]], SOURCE)]
    for saved in pictures:
        p = saved.p[i]
        said = run.classes[target] if p.argmax() == target else f"not {run.classes[target]}"
        sure = "" if saved.reached[i] or p.argmax() != target else ", not sure"
        panels.append(Panel(read_pixels(saved.paths[i], len(original)), f"{said} {p[target]:.2f}{sure}", TARGET))
    return [*panels, Panel(difference(original, panels[-1].image), f"change × {GAIN}")]
