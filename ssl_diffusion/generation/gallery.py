"""Samples and explanations of a run as folders: PNG images, a CSV file that describes them, and overviews."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ssl_diffusion.data.decoding import Aspect
from ssl_diffusion.data.images import read_images
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.source import FileSource
from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import DataError, nearest_names, shown
from ssl_diffusion.generation.counterfactual.result import CounterfactualResult
from ssl_diffusion.generation.counterfactual.search import SearchOptions, explain_run
from ssl_diffusion.generation.figures import counterfactual_figure, distance_figure, grid_figure, strip_figure
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.readiness import doubt_of, stamp
from ssl_diffusion.generation.sampling import denoising_strip, sample_run
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.run import Run
from ssl_diffusion.inference.run_rows import FileReader, original_images, pool_rows
from ssl_diffusion.models.fused import check_gradient
from ssl_diffusion.models.pixels import to_bytes, to_floats
from ssl_diffusion.outputs import check_output_folder, output_folder
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.run_folder import run_inputs

_log = logging.getLogger(__name__)

__all__ = ["class_index", "file_stems", "write_changed", "write_explanations", "write_samples"]

_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp)$", re.IGNORECASE)

_NOISE = "noise: the denoiser has not learned these images"
_SHEET = 40  # pairs in sheet.png
_STRENGTHS = (1.0, 1.1, 1.25, 1.5, 2.0)  # factors of a change that is added to a file
_STRIP_SAMPLES, _STRIP_LEVELS = 5, 10


def class_index(run: Run, name: str) -> int:
    """Index of a class of a run.

    Args:
        run: Fitted model with classes.
        name: Class name.

    Raises:
        RunError: If the run has no classes, or several for one image.
        DataError: If there is no class of that name; the message has the nearest names.

    Example:
        >>> class_index(run, "7")
        7
    """
    run.check_single_label("to choose")
    if name not in run.classes:
        raise DataError(f"{run.path} has no class {shown(name)}; {nearest_names(name, run.classes)}")
    return run.classes.index(name)


def write_samples(
    run: Run,
    out: Path,
    n: int,
    *,
    y: NDArray[np.int64] | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: Guidance | None = None,
    seed: int = 0,
    batch_size: int = 256,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> pd.DataFrame:
    """Draw images into a folder: one PNG each, samples.csv, samples.png and, without guidance, denoising.png.

    Args:
        run: Fitted model.
        out: Folder to write, completely or not at all.
        n: Number of images.
        y: Classes to guide towards, int64, (n,); if they come in equal groups, samples.png has one row per group. None draws
            without guidance.
        sampler: Name of the sampler; None takes the default of :func:`ssl_diffusion.generation.sample`.
        steps: Number of steps; None takes the sampler's own.
        guidance: Form and scale of the guidance; None takes the default.
        seed: Random seed of the noise.
        batch_size: Images per batch.
        overwrite: Whether an earlier output may be replaced.
        progress: Callback for the number of steps done.

    Returns:
        The table samples.csv: file and, for guided images, the requested class and its probability by the run's classifier.

    Raises:
        RunError: If the place is taken or cannot be written, or a class is given and the run has none.

    Example:
        >>> write_samples(run, Path("samples"), 30, y=np.repeat(np.arange(3), 10))
    """
    doubt = doubt_of(run)
    with output_folder(out, overwrite=overwrite, inputs=run_inputs(run)) as folder:
        images = sample_run(
            run, n, y, sampler=sampler, steps=steps, guidance=guidance, seed=seed, batch_size=batch_size, progress=progress
        )
        width = max(4, len(str(n - 1)))
        stems = [f"{i:0{width}d}" for i in range(n)]
        frame = pd.DataFrame({"file": [f"{stem}.png" for stem in stems]})
        rows: list[str] = []
        if y is not None:
            names = [run.classes[k] for k in y]
            frame["class"], frame["probability"] = names, predict_probabilities(run.model, images)[np.arange(n), y]
            groups = list(dict.fromkeys(names))
            rows = groups if names == [g for g in groups for _ in range(n // len(groups))] else []
        for file, image in zip(frame["file"], images, strict=True):
            to_pil(image).save(folder / file)
        frame.to_csv(folder / "samples.csv", index=False)
        grid_figure(images[:400], rows if n <= 400 else ()).savefig(folder / "samples.png", dpi=130)
        if y is None:
            shown, levels = denoising_strip(
                run.model, min(n, _STRIP_SAMPLES), _STRIP_LEVELS, generator=torch.Generator().manual_seed(seed)
            )
            strip_figure(shown, levels).savefig(folder / "denoising.png", dpi=130)
        if doubt:
            stamp(folder / "samples.png", _NOISE)
    if doubt:
        _log.warning("%s", doubt)
    return frame


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
    """Search counterfactuals into a folder: counterfactuals.csv, one PNG each, sheet.png and distances.png.

    Where the model has a backbone that reads the original files, the PNG is the file at its own size with the enlarged change
    added, and the column `verified` says whether the saved picture is predicted as the target. The search ends at the boundary,
    where rounding at another size decides, so the change that is saved may be a little larger: by the factor in `strength`.

    Args:
        run: Fitted model with classes.
        pool: Images of the run.
        ids: Ids of the samples to explain.
        out: Folder to write, completely or not at all.
        target: Class name, "runner-up", "nearest" or "all".
        overwrite: Whether an earlier output may be replaced.
        options: Confidence, revert, seed, batch size and progress of the search, see :func:`ssl_diffusion.generation.explain`.

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
        result = explain_run(run, images, wanted, originals, **options)
        frame = result.to_frame(np.array(ids), run.classes)
        stems = file_stems(ids)
        files = []
        for image, k, found in zip(result.image, result.target, result.images(), strict=True):
            files.append(f"{stems[image]}_to_{run.classes[k]}.png".replace("/", "_"))
            to_pil(found).save(folder / files[-1])
        frame.insert(1, "file", files)
        after = None
        if originals is not None and pool.files is not None:
            sources = [pool.files[positions[i]] for i in result.image]
            after, frame["strength"] = write_changed(run, result, sources, [folder / name for name in files])
            frame["verified"] = after.argmax(axis=1) == result.target
        frame.to_csv(folder / "counterfactuals.csv", index=False)
        shown = result.take(np.arange(min(_SHEET, len(result))))
        names = [str(ids[i]) for i in shown.image]
        after = predict_probabilities(run.model, shown.images()) if after is None else after[: len(shown)]
        counterfactual_figure(shown, run.classes, before[shown.image], after, names).savefig(folder / "sheet.png", dpi=110)
        if doubt:
            stamp(folder / "sheet.png", _NOISE)
        if len(result) > 1:
            distance_figure(result).savefig(folder / "distances.png", dpi=130)
    if doubt:
        _log.warning("%s", doubt)
    return frame, result


def write_changed(
    run: Run, result: CounterfactualResult, sources: list[Path], places: list[Path]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Write the changed files at their own size, as little changed as is predicted as the target.

    Args:
        run: Fitted model.
        result: Counterfactuals at the size of the denoiser, m of them.
        sources: Files that they come from, m of them.
        places: Files to write.

    Returns:
        Class probabilities of the written files, float32 (m, K), and the factors of their changes, float64 (m,).
    """
    strength, p = np.ones(len(places)), np.zeros((len(places), len(run.classes)), dtype=np.float32)
    todo = np.arange(len(places))
    for factor in _STRENGTHS:
        for i in todo:
            made = with_change(sources[i], result.original[i], result.images()[i], factor, run.aspect)
            to_pil(made).save(places[i])
        strength[todo] = factor
        p[todo] = _predicted(run, [places[i] for i in todo])
        todo = todo[result.success[todo] & (p[todo].argmax(axis=1) != result.target[todo])]
        if not len(todo):
            break
    return p, strength


def with_change(
    file: Path, image: NDArray[np.uint8], changed: NDArray[np.uint8], factor: float = 1.0, aspect: Aspect = "squeeze"
) -> NDArray[np.uint8]:
    """A file at its own size, with the change of the small image that was made from it.

    Args:
        file: Image file.
        image: Image that was made from it, uint8 (C, H, W).
        changed: Image after the change, uint8 (C, H, W).
        factor: Factor of the change.
        aspect: Treatment of other aspect ratios when the image was made: it says which part of the file the image shows.

    Returns:
        Pixels of the file with the enlarged change added, uint8 (C, H', W').

    Example:
        >>> with_change(Path("photo.jpg"), image, counterfactual).shape  # doctest: +SKIP
        (3, 300, 300)
    """
    device = torch.device("cpu")
    whole = to_floats(read_images([file], channels=len(image)).images, device)
    change = factor * (to_floats(changed, device) - to_floats(image, device))[None]
    (height, width), (h, w) = whole.shape[2:], change.shape[2:]
    top, left, bottom, right = 0, 0, height, width
    if aspect == "crop":
        scale = min(height / h, width / w)
        top, left = round((height - scale * h) / 2), round((width - scale * w) / 2)
        bottom, right = height - top, width - left
    elif aspect == "pad":
        scale = max(height / h, width / w)
        inside = max(1, min(h, round(height / scale))), max(1, min(w, round(width / scale)))
        above, before = (h - inside[0]) // 2, (w - inside[1]) // 2
        change = change[:, :, above : above + inside[0], before : before + inside[1]]
    shown = functional.interpolate(change, (bottom - top, right - left), mode="bilinear")
    whole[:, :, top:bottom, left:right] += shown
    made: NDArray[np.uint8] = to_bytes(whole)[0]
    return made


def _predicted(run: Run, paths: list[Path]) -> NDArray[np.float32]:
    """Class probabilities of image files, float32 (n, K), as predictions of files have them."""
    names = [path.name for path in paths]
    small = FileSource(paths, names, run.image_shape, run.aspect).take(names)
    return run.predict_proba(FileReader(replace(run, cache_dir=None), paths, names).rows(names, small))


def file_stems(ids: Sequence[str]) -> list[str]:
    """Distinct file names without suffix for sample ids, which may contain slashes and the suffix of an image.

    Example:
        >>> file_stems(["cat/1.png", "cat_1.png"])
        ['00000_cat_1', '00001_cat_1']
    """
    stems = [_IMAGE_SUFFIX.sub("", str(i)).replace("/", "_").replace("\\", "_") for i in ids]
    return stems if len(set(stems)) == len(stems) else [f"{i:05d}_{stem}" for i, stem in enumerate(stems)]
