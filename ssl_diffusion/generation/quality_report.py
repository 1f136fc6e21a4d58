"""Quality of a run's samples: they are drawn and compared with its training images by the features of a frozen extractor."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.errors import StateError
from ssl_diffusion.generation.extractors import Extractor
from ssl_diffusion.generation.figures import grid_figure
from ssl_diffusion.generation.quality import compare_features
from ssl_diffusion.generation.sampling import sample_run
from ssl_diffusion.inference.run import Run
from ssl_diffusion.models.weights import load_tensors, save_tensors
from ssl_diffusion.outputs import output_folder
from ssl_diffusion.progress import ProgressCallback
from ssl_diffusion.storage import clear_place, default_cache_dir

__all__ = ["GenerationReport", "evaluate_generation", "real_features", "write_generation"]

_log = logging.getLogger(__name__)
_MOST_REAL = 10_000


@dataclass(frozen=True)
class GenerationReport:
    """Result of :func:`evaluate_generation`.

    Attributes:
        extractor: Name of the extractor, with a hash.
        n_real: Number of real images.
        n_generated: Number of generated images.
        metrics: Metrics of :func:`ssl_diffusion.generation.compare_features`, with fd called fid if the extractor is Inception;
            for models with classes also guided_fd (or guided_fid) and, if the extractor has classes too, class_hit: the
            fraction of guided samples that the extractor, not the run's own classifier, assigns to the requested class.
        images: Unguided samples, uint8, (n_generated, C, H, W).
    """

    extractor: str
    n_real: int
    n_generated: int
    metrics: dict[str, float]
    images: NDArray[np.uint8]


def evaluate_generation(
    run: Run,
    pool: Pool,
    extractor: Extractor,
    *,
    n: int = 2000,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
) -> GenerationReport:
    """Compare samples of a run with its training images (at most 10,000, evenly spaced).

    Samples are drawn without guidance and, for models with classes, again with guidance, equally many of each class.

    Args:
        run: Fitted model.
        pool: Images of the run.
        extractor: Extractor of the features.
        n: Number of samples, at least 10. Distances depend on it: compare only values with equal n.
        seed: Random seed of the noise.
        cache_dir: Folder of the cache for features of real images; None is the default cache.
        progress: Callback for the number of sampling steps done.

    Returns:
        The metrics and the unguided samples.

    Raises:
        DataError: If there are too few images to compare.

    Example:
        >>> report = evaluate_generation(run, pool, extractor_of_run(run), n=2000)  # doctest: +SKIP
        >>> report.metrics["fd"]  # doctest: +SKIP
    """
    real = real_features(extractor, pool, cache_dir)
    images = sample_run(run, n, seed=seed, progress=progress)
    metrics = compare_features(real, extractor.features(images))
    fd = "fid" if extractor.inception else "fd"
    if fd != "fd":
        metrics[fd] = metrics.pop("fd")
    if run.classes and not run.multilabel:
        wanted = np.arange(n) % len(run.classes)
        guided = sample_run(run, n, wanted, seed=seed, progress=progress)
        metrics[f"guided_{fd}"] = compare_features(real, extractor.features(guided))["fd"]
        if extractor.classify is not None:
            metrics["class_hit"] = float((extractor.classify(guided).argmax(axis=1) == wanted).mean())
    return GenerationReport(extractor.name, len(real), n, metrics, images)


def real_features(extractor: Extractor, pool: Pool, cache_dir: Path | None = None) -> NDArray[np.float32]:
    """Features of the training images, from the cache if they are there.

    Args:
        extractor: Extractor of the features.
        pool: Images; at most 10,000 of its training images, evenly spaced, are read.
        cache_dir: Folder of the cache; None is the default cache.

    Returns:
        Features, float32, (n, d).

    Example:
        >>> real_features(extractor_of_run(run), pool).shape[0]  # doctest: +SKIP
        1437
    """
    train = pool.train
    chosen = train[:: -(-len(train) // _MOST_REAL)]
    key = hashlib.sha256(f"{extractor.name} {pool.fingerprint()} {len(chosen)}".encode()).hexdigest()[:24]
    path = (cache_dir or default_cache_dir()) / "features" / f"{key}.safetensors"
    if os.path.lexists(path):
        try:
            kept = load_tensors(path)[0].get("features")
            if kept is None or kept.dtype != torch.float32 or kept.ndim != 2 or len(kept) != len(chosen):
                raise StateError(f"{path} holds something else")
            found: NDArray[np.float32] = kept.numpy()
            return found
        except StateError as error:
            _log.warning("kept features are made again: %s", error)
            clear_place(path)
    features = extractor.features(pool.images[chosen])
    save_tensors(path, {"features": torch.from_numpy(features)}, {"extractor": extractor.name})
    return features


def write_generation(report: GenerationReport, out: Path, inputs: Sequence[Path] = ()) -> None:
    """Write generation.csv (one row) and samples.png (the first 100) to a folder, in place of an earlier report.

    Args:
        report: Report to write.
        out: Folder to write.
        inputs: Files and folders that no output may replace.

    Raises:
        RunError: If the place is taken or cannot be written.

    Example:
        >>> write_generation(report, Path("quality"))  # doctest: +SKIP
    """
    row = {"extractor": report.extractor, "n_real": report.n_real, "n_generated": report.n_generated, **report.metrics}
    with output_folder(out, overwrite=True, inputs=inputs) as folder:
        pd.DataFrame([row]).to_csv(folder / "generation.csv", index=False)
        grid_figure(report.images[:100]).savefig(folder / "samples.png", dpi=130)
