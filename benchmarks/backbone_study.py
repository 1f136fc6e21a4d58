"""A study on the features of a pretrained network alone, without a denoiser beside.

    python benchmarks/backbone_study.py --cifar CIFAR --cache CACHE --recipe benchmarks/studies/cifar10-lite0.toml --out OUT

CIFAR has train/ and test/ with a folder of JPEG files for each class; the pool is the first 500 files of every class of train/,
tested on the first 200 of every class of test/. Trials that are in the folder are not run again; `ssld study report` reads it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssl_diffusion.data.loading import load_pool
from ssl_diffusion.data.pool import Pool
from ssl_diffusion.data.settings import DataSettings
from ssl_diffusion.inference.backbone_features import backbone_features, backbone_reads
from ssl_diffusion.inference.embedded_pool import EmbeddedPool
from ssl_diffusion.models.backbones.registry import load_backbone
from ssl_diffusion.studies.attempts import StudyFolder, attempt
from ssl_diffusion.studies.learners import Shared
from ssl_diffusion.studies.settings import StudySettings, load_study
from ssl_diffusion.studies.trial import trials_of
from ssl_diffusion.training.fit import FitOptions

POOL, TEST = 500, 200  # files of each class


def first_files(pool: Pool) -> Pool:
    """The first files of each class of either split."""
    kept = []
    for k in range(len(pool.classes)):
        for is_test, n in ((False, POOL), (True, TEST)):
            rows = np.flatnonzero((pool.labels == k) & (pool.is_test == is_test))
            kept.append(rows[np.argsort(pool.ids[rows])][:n])
    rows = np.sort(np.concatenate(kept))
    return replace(
        pool, images=pool.images[rows], ids=pool.ids[rows], labels=pool.labels[rows], is_test=pool.is_test[rows], files=None
    )


def run_trials(settings: StudySettings, pool: Pool, z: NDArray[np.float32], out: Path) -> None:
    """Run the trials that the folder lacks, on these features of the pool's samples, (n, F)."""
    shared, folder = (
        Shared(settings.recipe, pool, EmbeddedPool(pool.images, z, pool.train, None), FitOptions()),
        StudyFolder(out),
    )
    out.mkdir(parents=True, exist_ok=True)
    folder.settings_file.write_text(settings.to_toml(), encoding="utf-8")
    for trial in trials_of(settings):
        if folder.result(trial, settings) is None:
            print(trial.name, attempt(folder, settings, shared, trial) or "done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cifar", "cache", "recipe", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    settings = load_study(asked.recipe)
    pool = first_files(load_pool(DataSettings(path=str(asked.cifar))))
    backbone = load_backbone("efficientnet-lite0")
    z = backbone_features(backbone, pool, np.arange(len(pool)), backbone_reads(backbone, pool), cache_dir=asked.cache)
    run_trials(settings, pool, z, asked.out)


if __name__ == "__main__":
    main()
