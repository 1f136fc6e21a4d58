"""Samples of a run as a folder: PNG images, a CSV file that describes them, and overviews."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ssl_diffusion.data.thumbnails import to_pil
from ssl_diffusion.errors import DataError, nearest_names, shown
from ssl_diffusion.generation.figures import grid_figure, strip_figure
from ssl_diffusion.generation.guidance import Guidance
from ssl_diffusion.generation.readiness import caution_of, doubt_of, stamp
from ssl_diffusion.generation.sampling import denoising_strip, sample_run
from ssl_diffusion.inference.predict import predict_probabilities
from ssl_diffusion.inference.run import Run
from ssl_diffusion.outputs import output_folder
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.training.run_folder import run_inputs

_log = logging.getLogger(__name__)

__all__ = ["NOISE", "class_index", "file_stems", "write_samples"]

_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp)$", re.IGNORECASE)

NOISE = "noise: the denoiser has not learned these images"  # what is written across pictures then
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
            stamp(folder / "samples.png", NOISE)
    if said := doubt or caution_of(run):
        _log.warning("%s", said)
    return frame


def file_stems(ids: Sequence[str]) -> list[str]:
    """Distinct file names without suffix for sample ids, which may contain slashes and the suffix of an image.

    Example:
        >>> file_stems(["cat/1.png", "cat_1.png"])
        ['00000_cat_1', '00001_cat_1']
    """
    stems = [_IMAGE_SUFFIX.sub("", str(i)).replace("/", "_").replace("\\", "_") for i in ids]
    return stems if len(set(stems)) == len(stems) else [f"{i:05d}_{stem}" for i, stem in enumerate(stems)]
