"""A study on plain features: the letters of Frey and Slate 1991 (UCI "Letter Recognition"), 16 numbers each, no images.

    pip install rdata
    apt-get download r-cran-mlbench && dpkg -x r-cran-mlbench_*.deb mlbench
    python benchmarks/letter_study.py --data mlbench/usr/lib/R/site-library/mlbench/data/LetterRecognition.rda \\
        --recipe benchmarks/studies/letter.toml --out OUT

The pool is the first 16,000 rows, tested on the last 4,000, as the data's authors split them; features are standardised on the
pool.
Trials that are in the folder are not run again; `ssld study report` reads it.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from backbone_study import run_trials
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool
from ssl_diffusion.studies.settings import load_study

TRAINING = 16_000  # rows, as in the description of the data


def read_letters(path: Path) -> tuple[Pool, NDArray[np.float32]]:
    """Letters as a pool of empty images, and their features, (20000, 16), standardised on the training rows."""
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rdata, about attributes that it does not translate
        table = rdata.read_rda(path)["LetterRecognition"]
    n, z = len(table), table.drop(columns="lettr").to_numpy(np.float64)
    z = (z - z[:TRAINING].mean(axis=0)) / z[:TRAINING].std(axis=0)
    letters = table["lettr"].astype(str).to_numpy()
    classes = tuple(sorted(set(letters)))
    pool = Pool(
        "letter",
        np.zeros((n, 1, 1, 1), np.uint8),
        np.array([f"{i:05d}" for i in range(n)]),
        np.array([classes.index(x) for x in letters]),
        classes,
        np.arange(n) >= TRAINING,
    )
    return pool, z.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "recipe", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    run_trials(load_study(asked.recipe), *read_letters(asked.data), asked.out)


if __name__ == "__main__":
    main()
